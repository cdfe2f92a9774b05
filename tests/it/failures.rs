//! Rows that fail by their own fault: how often they are tried, when they die, and who waits for them.

use std::net::SocketAddr;
use std::time::Duration;

use outbox_relay::servers::{KafkaOptions, free_port};

use crate::proxy::{Mode, Proxy};
use outbox_relay::crash_point;
use outbox_relay::position::Position;
use outbox_relay::store::settle::{Outcome, Rare, Settlement};
use uuid::Uuid;

use crate::support::lines::{Line, assert_complete, first_versions, versions, write, write_many};
use crate::support::{DEADLINE, Env, Kafka, RelayBuilder, eventually};

/// A relay that gives up quickly, and whose errors are part of what is shown.
async fn impatient(env: &Env) -> RelayBuilder {
    let relay = env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms");
    relay.set("retry.attempts", 3).expect_errors()
}

/// A topic that takes records of 2,000 bytes.
async fn narrow(env: &Env, name: &str) -> String {
    env.create_topic(name, 1, &[("max.message.bytes", "2000")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_fails_too_often_is_a_dead_letter_and_its_key_goes_on_in_order() {
    let env = Env::new().await;
    let topic = narrow(&env, "dying").await;
    let relay = impatient(&env).await.start().await;
    let line = |version: i64| {
        let bytes = if version == 3 { 5000 } else { 100 };
        Line::new(&topic, "k", version).of_bytes(bytes)
    };
    let ids = write(&env, &(0..10).map(line).collect::<Vec<_>>()).await;

    let records = env.expect_records(&topic, 9).await;
    assert_eq!(versions(&records)["k"], [0, 1, 2, 4, 5, 6, 7, 8, 9]);
    env.eventually_true("select count(*) = 1 from outbox.dead_letter where state = 'open'").await;
    let sql = "select array[id, attempts, octet_length(payload)]::bigint[] from outbox.dead_letter \
                where reason_class = 'too_large' and first_failed_at < last_failed_at and fingerprint <> ''";
    assert_eq!(env.one::<Vec<i64>>(sql).await, [ids[3], 3, 5000], "a full copy");
    let error: String = env.one("select error from outbox.dead_letter").await;
    assert!(
        error.contains("above the topic's max.message.bytes of 2000") && !error.contains("xxx"),
        "{error}"
    );
    // Every attempt is kept.
    assert_eq!(env.one::<i64>("select count(*) from outbox.attempt where class = 'record'").await, 3);
    assert_eq!(
        env.one::<String>(&format!("select state from outbox.status where id = {}", ids[3])).await,
        "dead"
    );
    assert_eq!(env.one::<i64>("select count(*) from outbox.deferred").await, 0);
    let labels = [("topic", topic.as_str()), ("reason", "too_large")];
    let counted = async || relay.metrics().await.value("outbox_dead_lettered_total", &labels) == 1.0;
    eventually(DEADLINE, "the death is counted", counted).await;
    relay.wait_for_log("outbox row is a dead letter, somebody has to decide about it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_skip_later_rows_of_the_key_pass_and_under_block_they_wait() {
    let env = Env::new().await;
    let (strict, loose) = (narrow(&env, "strict").await, narrow(&env, "loose").await);
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000);
    let _relay = relay.topic(&loose, "on_failure = 'skip'").start().await;
    for topic in [&strict, &loose] {
        let line =
            |version: i64| Line::new(topic, "k", version).of_bytes(if version == 0 { 5000 } else { 100 });
        write(&env, &(0..5).map(line).collect::<Vec<_>>()).await;
    }
    let records = env.expect_records(&loose, 4).await;
    assert_eq!(versions(&records)["k"], [1, 2, 3, 4]);
    env.eventually_true("select max(attempts) filter (where passable) >= 3 from outbox.deferred").await;
    assert_eq!(env.read_topic(&strict).await, [], "its head is not out");
    let waiting = "select array_agg(waiting) from outbox.blocked_key";
    assert_eq!(env.one::<Vec<i64>>(waiting).await, [4], "only the strict key is blocked");

    for topic in [&strict, &loose] {
        env.alter_topic(topic, &[]).await;
    }
    assert_eq!(versions(&env.expect_records(&strict, 5).await)["k"], [0, 1, 2, 3, 4]);
    assert_eq!(versions(&env.expect_records(&loose, 5).await)["k"], [1, 2, 3, 4, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_key_never_wait_for_each_other() {
    let env = Env::new().await;
    let topic = narrow(&env, "keyless").await;
    let _relay = impatient(&env).await.set("retry.attempts", 1_000_000).start().await;
    let line =
        |version: i64| Line::keyless(&topic, version).of_bytes(if version % 5 == 0 { 5000 } else { 100 });
    write(&env, &(0..100).map(line).collect::<Vec<_>>()).await;
    env.expect_records(&topic, 80).await;
    env.eventually_true(
        "select count(*) = 20 and min(attempts) >= 2 from outbox.deferred where reason = 'retry'",
    )
    .await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.blocked_key").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_dies_of_age_too_and_attempts_survive_restarts() {
    let env = Env::new().await;
    let topic = narrow(&env, "old").await;
    write(&env, &[Line::new(&topic, "k", 0).of_bytes(5000)]).await;
    let patient = async || impatient(&env).await.set("retry.attempts", 1_000_000).set("retry.max", "20ms");
    let first = patient().await.start().await;
    env.eventually_true("select attempts >= 3 from outbox.deferred").await;
    assert!(first.terminate().await.success());
    let before: i32 = env.one("select attempts from outbox.deferred").await;
    let since = "select extract(epoch from first_rejected_at)::float8 from outbox.deferred";
    let rejected: f64 = env.one(since).await;

    let second = patient().await.start().await;
    env.eventually_true(&format!("select attempts > {before} from outbox.deferred")).await;
    assert_eq!(env.one::<f64>(since).await, rejected, "the first rejection stays the first");
    assert!(second.terminate().await.success());
    let _third = patient().await.set("retry.age", "1s").start().await;
    env.eventually_true(&format!("select attempts > {before} from outbox.dead_letter where state = 'open'"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rows_that_are_due_at_once_leave_in_order_and_others_go_on() {
    const KEYS: i64 = 500;
    let env = Env::new().await;
    let topic = narrow(&env, "many").await;
    let well = env.create_topic("well", 1, &[]).await;
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000).set("retry.max", "2s").start().await;
    // The heads of all keys are too large, and 19 rows wait behind each.
    let sql = "insert into outbox.message (topic, key, payload) \
               select $1, convert_to('k' || n % $2, 'UTF8'), convert_to(rpad(to_char(n / $2, 'fm00000000'), case when n < $2 then 3000 else 100 end, 'x'), 'UTF8') \
                 from generate_series(0, 20 * $2 - 1) n order by n";
    sqlx::query(sql).bind(&topic).bind(KEYS).execute(env.app()).await.expect("insert");
    env.eventually_true("select count(*) = 10000 from outbox.deferred").await;
    env.alter_topic(&topic, &[]).await;
    write_many(&env, &well, 10, 0, 1000).await;
    assert_complete(&env.expect_records(&well, 1000).await, 10, 100);
    assert_complete(&env.expect_records_within(&topic, 10_000, Duration::from_secs(90)).await, KEYS, 20);
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    assert_eq!(env.read_topic(&topic).await.len(), 10_000, "no record twice");
    assert_eq!(relay.metrics().await.value("outbox_producer_replaced_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_due_together_with_one_that_failed_is_not_forgotten() {
    let env = Env::new().await;
    let topic = narrow(&env, "both").await;
    let _relay = impatient(&env).await.start().await;
    let sql = format!(
        "insert into outbox.message (topic, key, payload, deliver_after) \
         select '{topic}', 'k', convert_to(rpad(to_char(n, 'fm00000000'), case n when 0 then 5000 else 100 end, 'x'), 'UTF8'), \
                clock_timestamp() + interval '1 s' from generate_series(0, 2) n order by n"
    );
    env.execute(&sql).await;
    env.eventually_true("select count(*) = 1 from outbox.dead_letter").await;
    assert_eq!(versions(&env.expect_records(&topic, 2).await)["k"], [1, 2]);
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
}

/// One by one, with 40 ms for each round trip, they would take two minutes; a service that writes more than 25 rows a second of
/// one key would never be caught up with.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_behind_a_row_goes_on_together_once_that_is_through() {
    let port = free_port().expect("a free port");
    let env = Env::builder().kafka(KafkaOptions { proxy: Some(port), ..Kafka::options() }).start().await;
    let broker = SocketAddr::from(([127, 0, 0, 1], env.kafka().await.server.proxied_port()));
    let far = Proxy::start_on(port, broker).await.expect("the port is free");
    let topic = narrow(&env, "busy").await;
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000);
    let _relay = relay.env("KAFKA_BROKERS", format!("127.0.0.1:{port}")).start().await;
    let line = |version: i64| {
        let bytes = if version == 0 { 5000 } else { 100 };
        Line::new(&topic, "k", version).of_bytes(bytes)
    };
    write(&env, &(0..3000).map(line).collect::<Vec<_>>()).await;
    env.eventually_true("select count(*) = 3000 from outbox.deferred").await;
    far.set(Mode::Delay(Duration::from_millis(20))).await;
    env.alter_topic(&topic, &[]).await;
    assert_complete(&env.expect_records(&topic, 3000).await, 1, 3000);
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    assert_eq!(env.read_topic(&topic).await.len(), 3000, "no record twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_rows_die_too_fast_stands_still_instead_of_being_emptied() {
    let env = Env::new().await;
    let topic = narrow(&env, "brake").await;
    let well = env.create_topic("well", 1, &[]).await;
    let relay = impatient(&env).await.set("retry.attempts", 1).set("retry.dead_per_minute", 5).start().await;
    write(&env, &(0..50).map(|version| Line::keyless(&topic, version).of_bytes(5000)).collect::<Vec<_>>())
        .await;
    relay.wait_for_log("rows of this topic die too fast, it stands still for the rest of the minute").await;
    env.eventually_true(&format!("select cause = 'dying' from outbox.open_lane where topic = '{topic}'"))
        .await;
    write_many(&env, &well, 3, 0, 300).await;
    assert_complete(&env.expect_records(&well, 300).await, 3, 100);
    assert_eq!(env.one::<i64>("select count(*) from outbox.dead_letter").await, 5);
    assert_eq!(env.one::<i64>("select count(*) from outbox.deferred where due_at = 'infinity'").await, 45);
}

/// The next leader may find it fit: its limit is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_may_not_be_tried_again_holds_its_key_until_its_death_is_written() {
    let env = Env::new().await;
    let topic = env.create_topic("at_once", 1, &[]).await;
    let line = |version: i64| {
        let bytes = if version == 1 { 5000 } else { 100 };
        Line::new(&topic, "k", version).of_bytes(bytes)
    };
    write(&env, &(0..4).map(line).collect::<Vec<_>>()).await;
    let dying = impatient(&env).await.set("retry.attempts", 1).set("relay.max_row_bytes", 1024);
    let dying = dying.env("OUTBOX_RELAY_CRASH_AT", crash_point::AFTER_CONFIRM).start().await;
    dying.wait_for_exit(DEADLINE).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.dead_letter").await, 0, "nothing was written");
    let _next = impatient(&env).await.start().await;
    env.eventually_true("select bool_and(state = 'published') from outbox.status").await;
    assert_complete(&env.read_topic(&topic).await, 1, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rows_are_kept_where_the_policy_says_so() {
    let env = Env::new().await;
    let topic = env.create_topic("kept", 1, &[]).await;
    let _relay = impatient(&env).await.topic(&topic, "on_expiry = 'dead_letter'").start().await;
    let sql = format!(
        "insert into outbox.message (topic, key, payload, deliver_after, expires_at) values \
         ('{topic}', 'k', '00000000', null, clock_timestamp() - interval '1 s'), \
         ('{topic}', 'k', '00000001', clock_timestamp() + interval '300 ms', clock_timestamp() + interval '301 ms'), \
         ('{topic}', 'k', '00000002', null, clock_timestamp() + interval '1 hour')"
    );
    env.execute(&sql).await;
    env.eventually_true("select count(*) = 2 and bool_and(reason_class = 'expired') from outbox.dead_letter")
        .await;
    assert_eq!(versions(&env.expect_records(&topic, 1).await)["k"], [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn innocents_of_a_refused_batch_are_not_charged() {
    let env = Env::new().await;
    let topic = env.create_topic("mixed", 1, &[]).await;
    let _relay = impatient(&env).await.start().await;
    write(&env, &[Line::new(&topic, "first", 0)]).await;
    env.expect_records(&topic, 1).await;
    // The relay does not know yet; single large records fail whole batches.
    env.alter_topic(&topic, &[("max.message.bytes", "3000")]).await;
    let line = |version: i64| {
        Line::new(&topic, format!("k{version}"), 0).of_bytes(if version % 100 == 50 { 5000 } else { 100 })
    };
    write(&env, &(0..1000).map(line).collect::<Vec<_>>()).await;
    env.eventually_true(
        "select count(*) = 10 and bool_and(octet_length(payload) = 5000) from outbox.dead_letter",
    )
    .await;
    let records = env.expect_records(&topic, 991).await;
    assert_eq!(first_versions(&records).len(), 991);
    let charged = "select count(distinct a.id) from outbox.attempt a where a.class = 'record' \
                    and not exists (select from outbox.dead_letter d where d.id = a.id)";
    assert_eq!(env.one::<i64>(charged).await, 0, "attempts of innocents");
}

#[tokio::test]
async fn two_wakes_of_a_topic_in_one_settlement_wake_as_many_rows_as_both_name() {
    let env = Env::new().await;
    let token = Uuid::new_v4();
    env.execute(&format!("insert into outbox.incarnation (token) values ('{token}')")).await;
    env.execute(
        "insert into outbox.message (topic) select 't' from generate_series(1, 5);
         insert into outbox.deferred (id, event_id, topic, created_at, reason, due_at)
         select id, event_id, topic, created_at, 'retry', 'infinity' from outbox.message",
    )
    .await;
    // As wakes meet when the settlement before them takes long.
    let mut outcome = Outcome::default();
    for rows in [1, 2] {
        outcome.rare.extend(Rare { woken: vec![("t".into(), rows)], ..Rare::default() });
    }
    let position = Position { snapshot: "9:9:".to_owned(), high: 5, late: None };
    let mut session = env.store().connect("settle").await.expect("connect");
    let settlement = Settlement::new(0, 1, token, false, position, true, outcome);
    settlement.write(&mut session).await.expect("it is written");
    let due = "select array_agg(id order by id) from outbox.deferred where due_at <= clock_timestamp()";
    assert_eq!(env.one::<Vec<i64>>(due).await, [1, 2, 3]);
}
