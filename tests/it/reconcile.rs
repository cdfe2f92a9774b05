//! Is everything that was committed really in Kafka? Seeded losses are found one by one, told apart, repaired, and found as none.

use std::sync::Arc;
use std::time::Duration;

use outbox_relay::receipt::{Receipt, encode};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;

use crate::operate::{Said, command, say, says};
use crate::support::lines::{Line, write, write_many};
use crate::support::{DEADLINE, Env, LogLine, Record, RelayBuilder, eventually, scaled};

async fn relay(env: &Env) -> RelayBuilder {
    env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms").set("lease.ttl", "1s")
}

async fn reconcile_as(env: &Env, login: &str, arguments: &str) -> Said {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let mut command = command(env, login, &words);
    command.env("KAFKA_BROKERS", env.kafka().await.server.brokers());
    Said::of(tokio::time::timeout(2 * DEADLINE, command.output()).await.expect("it ends").expect("it starts"))
}

async fn reconcile(env: &Env, arguments: &str) -> Said {
    reconcile_as(env, "admin_login", &format!("reconcile {arguments}")).await
}

async fn report(env: &Env) -> Value {
    reconcile(env, "--all --output json").await.json()
}

/// The counts that differ from zero, rows and states of the ordinary kind aside.
fn oddities(report: &Value) -> Vec<(&str, i64)> {
    let counts = [
        "missing",
        "unaccounted",
        "moved",
        "altered",
        "duplicates",
        "foreign",
        "removed",
        "compacted",
        "unverified",
        "shared_event_ids",
        "replayed",
    ];
    counts
        .into_iter()
        .map(|name| (name, report[name].as_i64().expect(name)))
        .filter(|(_, n)| *n != 0)
        .collect()
}

async fn until_settled(env: &Env) {
    env.eventually_true(
        "select coalesce((select max(id) from outbox.message), 0) = \
                (select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1)",
    )
    .await;
}

/// Rows of three keys, published.
async fn published(env: &Env, topic: &str, rows: i64) {
    write_many(env, topic, 3, 0, rows).await;
    env.expect_records(topic, rows as usize).await;
    until_settled(env).await;
}

/// Writes records as they are: topic, partition, what they hold.
async fn produce(env: &Env, topic: &str, records: Vec<Record>) {
    let (brokers, topic) = (env.kafka().await.server.brokers(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("linger.ms", "0");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("a producer");
        for record in &records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            let mut sent = BaseRecord::to(&topic).partition(record.partition).headers(headers);
            sent = match &record.key {
                Some(key) => sent.key(&**key),
                None => sent,
            };
            sent = match &record.payload {
                Some(payload) => sent.payload(&**payload),
                None => sent,
            };
            producer.send(sent).map_err(|(error, _)| error).expect("it is taken");
        }
        producer.flush(Duration::from_secs(30)).expect("all are confirmed");
    })
    .await
    .expect("no panic");
}

/// Takes the topic away and makes it anew with these records in it: what a careless restore would leave.
async fn replace_topic(env: &Env, topic: &str, records: Vec<Record>) {
    env.delete_topic(topic).await;
    let kafka = Arc::clone(env.kafka().await);
    kafka.create_topic(topic, 1, &[]).await;
    produce(env, topic, records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_lost_records_are_found_as_three_repaired_and_found_as_none() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 30).await;
    let clean = report(&env).await;
    assert_eq!((oddities(&clean), &clean["verified"]), (vec![], &30.into()), "{clean}");

    let mut records = env.read_topic(&topic).await;
    records.truncate(27);
    assert!(relay.terminate().await.success());
    replace_topic(&env, &topic, records).await;

    let lost = reconcile(&env, "--all --output json").await;
    assert_eq!(lost.code, 4, "{}", lost.talk);
    let found = lost.json();
    assert_eq!(oddities(&found), [("missing", 3)], "{found}");
    assert_eq!(found["missing_ids"], serde_json::json!([28, 29, 30]), "{found}");
    says(&reconcile(&env, "--all").await, 4, &["3 MESSAGES ARE MISSING", "the first is 28", "--repair"]);
    let dry = reconcile(&env, "--all --repair --dry-run").await;
    says(&dry, 0, &["would publish 3 missing messages, ids 28 to 30", "nothing was changed"]);
    says(&reconcile(&env, "--all --repair").await, 1, &["nothing was changed", "--yes"]);

    let next = self::relay(&env).await.start().await;
    let shown = async || next.metrics().await.value("outbox_reconcile_missing_messages", &[]);
    eventually(DEADLINE, "the gauge shows what was found", async || shown().await == 3.0).await;
    says(&reconcile(&env, "--all --repair --yes").await, 0, &["3 rows", "run the same reconcile again"]);
    let records = env.expect_records(&topic, 30).await;
    let marks: Vec<_> =
        records[27..].iter().map(|r| (r.seq(), r.header("outbox-replay").is_some())).collect();
    assert_eq!(marks, [(28, true), (29, true), (30, true)], "in order, and marked");
    let repaired = async || oddities(&report(&env).await) == [("replayed", 3)];
    eventually(DEADLINE, "nothing is missing any more", repaired).await;
    eventually(DEADLINE, "the gauge shows it", async || shown().await == 0.0).await;
    let metrics = next.metrics().await;
    assert!(metrics.value("outbox_reconcile_last_success_timestamp_seconds", &[]) > 1.7e9);
    let who: String = env.one("select who from outbox.reconciliation order by id desc limit 1").await;
    assert_eq!(who, "admin_login");
    let audit: String = env.one("select why from outbox.request where kind = 'repair'").await;
    assert_eq!(audit, "reconcile of ids 1 to 30");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_altered_foreign_moved_or_twice_is_told_apart() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 20).await;
    let records = env.read_topic(&topic).await;
    assert!(relay.terminate().await.success());
    // Offsets 0 to 19 hold rows 1 to 20. The topic as somebody has restored it:
    let mut restored = records.clone();
    // row 3 says something else, row 5 has made way for somebody else's record, row 7 lies behind the end,
    restored[2].payload = Some(b"forged".to_vec());
    restored[4].headers.clear();
    restored.swap(6, 19);
    // and row 9 is there twice, at row 10's place, which is lost.
    restored[9] = records[8].clone();
    replace_topic(&env, &topic, restored).await;

    let as_relay = reconcile_as(&env, "relay_login", "reconcile --all --output json").await;
    let found = as_relay.json();
    assert_eq!(
        oddities(&found),
        [("missing", 2), ("moved", 2), ("altered", 1), ("duplicates", 1), ("foreign", 1)],
        "{found}"
    );
    assert_eq!(found["missing_ids"], serde_json::json!([5, 10]));
    assert_eq!((&found["altered_ids"][0], &found["moved_ids"][0]), (&3.into(), &7.into()));
    assert_eq!(found["foreign_places"][0], serde_json::json!([topic, 0, 4]));
    assert_eq!((as_relay.code, &found["compared_payloads"]), (4, &true.into()));
    // Whoever may not read payloads does not see the forgery, and is told what was compared.
    let as_reader = reconcile_as(&env, "reader_login", "reconcile --all").await;
    says(
        &as_reader,
        4,
        &["event ids and keys", "not noted in outbox.reconciliation", "2 MESSAGES ARE MISSING"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_was_put_off_died_or_was_dropped_is_no_loss() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 2, &[("max.message.bytes", "2000")]).await;
    let once = env.create_topic("clicks", 1, &[]).await;
    let missing = env.topic("missing");
    let relay = relay(&env).await.set("retry.attempts", 2).expect_errors();
    let relay = relay.topic(&once, "delivery = 'at_most_once'").start().await;
    write(&env, &[Line::new(&missing, "k", 0)]).await;
    env.expect_lane(&missing, "missing").await;
    write(&env, &[Line::new(&missing, "k", 1), Line::new(&topic, "bad", 0).of_bytes(5000)]).await;
    write_many(&env, &topic, 3, 0, 9).await;
    write_many(&env, &once, 1, 0, 2).await;
    env.execute(&format!(
        "insert into outbox.message (topic, payload, deliver_after) values ('{topic}', 'x', now() + interval '1 day'); \
         insert into outbox.message (topic, payload, expires_at) values ('{topic}', 'x', now() - interval '1 day')"
    ))
    .await;
    let mut rolled_back = env.app().begin().await.expect("begin");
    sqlx::query("select outbox.publish('t', 'k', 'x')").execute(&mut *rolled_back).await.expect("insert");
    rolled_back.rollback().await.expect("roll back");
    env.expect_records(&topic, 9).await;
    env.expect_records(&once, 2).await;
    env.eventually_true("select count(*) = 1 from outbox.dead_letter").await;
    env.eventually_true("select count(*) = 11 from outbox.status where state = 'published'").await;
    env.eventually_true("select count(*) = 1 from outbox.status where state = 'expired'").await;
    until_settled(&env).await;
    let found = report(&env).await;
    let count = |name: &str| found[name].as_i64().expect("a number");
    assert_eq!(oddities(&found), [], "{found}");
    assert_eq!(
        ["rows", "published", "verified", "deferred", "pending", "dead", "expired", "gaps"].map(count),
        [16, 11, 11, 2, 1, 1, 1, 0],
        "{found}"
    );
    // A row that nobody accounts for: its settlement has been taken away.
    assert!(relay.terminate().await.success());
    env.execute("delete from outbox.ledger where published @> 5::bigint").await;
    let found = report(&env).await;
    assert!(found["unaccounted"].as_i64() > Some(0), "{found}");
    says(&reconcile(&env, "--all").await, 4, &["unaccounted", "MESSAGES ARE MISSING"]);
}

/// Found by the fault harness: right after a stalled topic had come back, rows that went out one by one counted as unaccounted.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_put_off_again_are_still_seen_to_wait() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let _relay = relay(&env).await.start().await;
    env.execute(&format!(
        "insert into outbox.message (topic, payload, deliver_after) \
         select '{topic}', 'x', now() + interval '1 day' from generate_series(1, 400)"
    ))
    .await;
    env.eventually_true("select count(*) = 400 from outbox.deferred").await;
    // Their new versions lie behind all others in the table, which is read as it lies.
    env.execute("update outbox.deferred set due_at = due_at + interval '1 hour' where id % 3 = 1").await;
    env.execute("analyze outbox.deferred").await;
    let found = report(&env).await;
    assert_eq!(oddities(&found), [], "{found}");
    assert_eq!(found["deferred"], 400, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_removed_by_itself_is_told_from_a_loss() {
    let env = Env::new().await;
    let topic = env.create_topic("short", 1, &[]).await;
    let compacted = env
        .create_topic(
            "compacted",
            1,
            &[("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.01")],
        )
        .await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 10).await;
    write_many(&env, &compacted, 1, 0, 5).await;
    env.expect_records(&compacted, 5).await;
    until_settled(&env).await;
    env.kafka().await.delete_records(&topic, 4).await;
    let found = report(&env).await;
    assert_eq!(oddities(&found), [("removed", 4)], "{found}");
    // The cleaner leaves the newest record of the key, in the segment that is being written.
    eventually(4 * DEADLINE, "the topic is compacted", async || {
        produce(&env, &compacted, env.read_topic(&compacted).await.into_iter().rev().take(1).collect()).await;
        env.read_topic(&compacted).await[0].offset > 4
    })
    .await;
    let found = report(&env).await;
    assert_eq!(
        (&found["removed"], &found["compacted"], &found["missing"]),
        (&4.into(), &5.into(), &0.into()),
        "{found}"
    );
    // Behind the end of a partition nothing has been compacted.
    let receipts = encode((1020..1025).map(|offset| Receipt { partition: 0, offset: Some(offset) }));
    let hex: String = receipts.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(relay.terminate().await.success());
    env.execute(&format!("update outbox.ledger set receipts = '\\x{hex}' where published @> 13::bigint"))
        .await;
    let found = report(&env).await;
    assert_eq!((&found["compacted"], &found["missing"]), (&0.into(), &5.into()), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_share_an_event_id_are_reported() {
    let env = Env::new().await;
    let topic = env.create_topic("twins", 1, &[]).await;
    let _relay = relay(&env).await.start().await;
    let twin = uuid::Uuid::from_u128(0x00c0_ffee);
    env.execute(&format!(
        "insert into outbox.message (topic, key, payload, event_id) select '{topic}', 'k', 'x', '{twin}' from generate_series(1, 2)"
    ))
    .await;
    env.expect_records(&topic, 2).await;
    until_settled(&env).await;
    let found = report(&env).await;
    assert_eq!(oddities(&found), [("shared_event_ids", 1)], "{found}");
    says(&reconcile(&env, "--all").await, 0, &["nothing is missing", &twin.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_named_by_ids_or_times_and_refused_when_nothing_is_left_of_it() {
    let env = Env::new().await;
    says(&reconcile(&env, "").await, 0, &["no row is left to compare"]);
    let topic = env.create_topic("window", 1, &[]).await;
    let _relay = relay(&env).await.start().await;
    published(&env, &topic, 30).await;
    for (window, rows) in [
        ("", 30),
        ("--from-id 11 --until-id 20", 10),
        ("--from 1h", 30),
        ("--until-id 5", 5),
        ("--from 2000-01-01T00:00:00Z --until 1h", 0),
    ] {
        let said = reconcile(&env, &format!("{window} --output json")).await;
        if rows == 0 {
            says(&said, 1, &["nothing is left of that window", "begins with id 1, written at"]);
        } else {
            assert_eq!((said.code, &said.json()["verified"]), (0, &rows.into()), "{window}: {}", said.data);
        }
    }
    says(&reconcile(&env, "--from-id 4711").await, 1, &["the window is empty", "the newest id is 30"]);
    says(&reconcile(&env, "--from yesterdayish").await, 1, &["yesterdayish", "2h for two hours ago"]);
    says(&reconcile(&env, "--dry-run").await, 2, &["--repair"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_nothing_is_found_and_nothing_is_noted() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let _relay = relay(&env).await.start().await;
    published(&env, &topic, 3).await;
    let mut command = command(&env, "admin_login", &["reconcile"]);
    // Nobody listens there.
    command.env("KAFKA_BROKERS", "127.0.0.1:9");
    let said = Said::of(command.output().await.expect("it starts"));
    says(&said, 1, &["could not be finished, and nothing was noted", "read a topic's metadata"]);
    assert_eq!(env.one::<i64>("select count(*) from outbox.reconciliation").await, 0);
}

/// The newest comparison that a leader has made by itself: cause, from, until, missing, duplicates.
async fn by_itself(env: &Env, cause: &str) -> (i64, i64, i64, i64) {
    let noted = format!("select count(*) > 0 from outbox.reconciliation where cause = '{cause}'");
    env.eventually_true(&noted).await;
    sqlx::query_as(&format!(
        "select from_id, until_id, missing, duplicates from outbox.reconciliation where cause = '{cause}' order by id desc limit 1"
    ))
    .fetch_one(env.admin())
    .await
    .expect("it was there above")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_and_a_dead_producer_are_followed_by_a_comparison() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let quick = async || relay(&env).await.set("retention.every", "100ms").expect_errors();
    let first = quick().await.start().await;
    published(&env, &topic, 30).await;
    first.kill().await;
    // Its first record kills the main producer; nothing is in doubt after that, and still it is looked at.
    let second = quick().await.env("OUTBOX_RELAY_FATAL_AT", "main:1:1").start().await;
    second.wait_for_log("leading").await;
    assert_eq!(by_itself(&env, "takeover").await, (1, 30, 0, 0));
    second.wait_for_log("receipts compared with kafka, nothing is missing").await;
    published(&env, &topic, 3).await;
    let (from, until, missing, _) = by_itself(&env, "producer").await;
    assert_eq!((from, missing), (1, 0));
    assert!(until >= 31, "{until}");
    assert!(second.terminate().await.success());
    // A lease that was given back is no trouble.
    let third = quick().await.start().await;
    third.wait_for_log("leading").await;
    write_many(&env, &topic, 1, 100, 1).await;
    until_settled(&env).await;
    assert!(third.terminate().await.success());
    assert_eq!(third.logged("receipts compared with kafka, nothing is missing"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_failover_has_cost_are_counted_and_named() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let first = relay(&env).await.start().await;
    published(&env, &topic, 30).await;
    let mut records = env.read_topic(&topic).await;
    records.truncate(28);
    assert!(first.terminate().await.success());
    replace_topic(&env, &topic, records).await;
    // The server goes on elsewhere: on another timeline than at the last takeover.
    env.execute("update outbox.lease set timeline = timeline + 1").await;
    let next = relay(&env).await.set("retention.every", "100ms").expect_errors().start().await;
    assert_eq!(by_itself(&env, "promotion").await, (1, 30, 2, 0));
    let is_it = |line: &LogLine| line.message().is_some_and(|text| text.starts_with("records are missing"));
    let said = next.wait_for_line("it is said", DEADLINE, is_it).await;
    let id = |name| said.field(name).and_then(|id| id.as_i64());
    assert_eq!((id("from_id"), id("until_id")), (Some(1), Some(30)), "{said:?}");
    assert_eq!(next.metrics().await.value("outbox_loss_incidents_total", &[]), 1.0);
    says(&reconcile(&env, "--from-id 1 --until-id 30 --repair --yes").await, 0, &["2 rows"]);
    env.expect_records(&topic, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_are_compared_in_bounded_memory() {
    let rows = scaled(60_000, 1_000_000);
    let env = Env::new().await;
    let topic = env.create_topic("many", 3, &[]).await;
    let _relay = relay(&env).await.start().await;
    for from in (0..rows).step_by(100_000) {
        write_many(&env, &topic, 100, from / 100, rows.min(100_000)).await;
    }
    let patience = DEADLINE * scaled(1, 20) as u32;
    let settled = format!(
        "select high = {rows} from outbox.ledger where lane is null order by epoch desc, seq desc limit 1"
    );
    eventually(patience, "all are settled", async || env.one::<bool>(&settled).await).await;

    let mut command = command(&env, "admin_login", &["reconcile", "--all", "--output", "json"]);
    command.env("KAFKA_BROKERS", env.kafka().await.server.brokers());
    let began = std::time::Instant::now();
    let running = command.spawn().expect("it starts");
    let status = format!("/proc/{}/status", running.id().expect("it runs"));
    let mut peak_kb = 0;
    let waiting = tokio::spawn(running.wait_with_output());
    eventually(patience, "it ends", async || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        peak_kb = peak_kb.max(line.unwrap_or(0));
        waiting.is_finished()
    })
    .await;
    let said = Said::of(waiting.await.expect("no panic").expect("it ends"));
    eprintln!("{rows} rows compared in {:?}, at a peak of {peak_kb} kB", began.elapsed());
    let found = said.json();
    assert_eq!((oddities(&found), &found["verified"]), (vec![], &rows.into()), "{found}");
    assert!((1..150_000).contains(&peak_kb), "{peak_kb} kB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_elsewhere_stands_in_for_no_record() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let other = env.create_topic("rebuilt", 1, &[]).await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 30).await;
    says(&say(&env, &format!("replay --all --to {other} --yes")).await, 0, &["30 rows"]);
    env.expect_records(&other, 30).await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let mut records = env.read_topic(&topic).await;
    records.truncate(27);
    assert!(relay.terminate().await.success());
    replace_topic(&env, &topic, records).await;
    let found = report(&env).await;
    assert_eq!(oddities(&found), [("missing", 3), ("replayed", 30)], "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_behind_somebody_elses_open_transaction_are_there() {
    let env = Env::new().await;
    let topic = env.create_topic("shared", 1, &[]).await;
    let (brokers, of_topic) = (env.kafka().await.server.brokers(), topic.clone());
    let open = tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("transactional.id", "somebody-else");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("a producer");
        producer.init_transactions(DEADLINE).expect("it may");
        producer.begin_transaction().expect("it begins");
        producer
            .send(BaseRecord::to(&of_topic).key("k").payload("not yet"))
            .map_err(|(error, _)| error)
            .expect("taken");
        producer.flush(DEADLINE).expect("it is written");
        producer
    })
    .await
    .expect("no panic");
    let _relay = relay(&env).await.start().await;
    write_many(&env, &topic, 3, 0, 30).await;
    until_settled(&env).await;
    let found = report(&env).await;
    assert_eq!((oddities(&found), &found["verified"]), (vec![], &30.into()), "{found}");
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_published_however_old_it_is() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 30).await;
    let mut records = env.read_topic(&topic).await;
    records.truncate(27);
    assert!(relay.terminate().await.success());
    replace_topic(&env, &topic, records).await;
    env.eventually_true(
        "select max(created_at) < clock_timestamp() - interval '2 seconds' from outbox.message",
    )
    .await;
    let _next = self::relay(&env).await.set("consumers.dedupe_window", "2s").start().await;
    says(&reconcile(&env, "--all --repair --yes").await, 0, &["3 rows"]);
    env.expect_records(&topic, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_after_a_long_silence_is_compared_from_what_was_settled_last() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let quick = async || relay(&env).await.set("retention.every", "100ms").expect_errors();
    let first = quick().await.start().await;
    published(&env, &topic, 30).await;
    first.kill().await;
    let mut records = env.read_topic(&topic).await;
    records.truncate(28);
    replace_topic(&env, &topic, records).await;
    env.execute("update outbox.ledger set at = at - interval '2 hours'").await;
    let _second = quick().await.start().await;
    assert_eq!(by_itself(&env, "takeover").await, (1, 30, 2, 0));
}
