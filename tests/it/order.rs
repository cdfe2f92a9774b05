//! Order per key, whatever happens to single rows, keys and topics; and nobody else suffers from it.

mod random;

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::lines::{Line, versions, write};
use crate::support::{DEADLINE, Env, Record, Relay, RelayBuilder, eventually};

/// A relay that tries again quickly, and whose errors are part of what is shown.
async fn impatient(env: &Env) -> RelayBuilder {
    quick(env.relay().await)
}

fn quick(relay: RelayBuilder) -> RelayBuilder {
    relay.set("retry.base", "50ms").set("retry.max", "500ms").set("retry.attempts", 1_000_000).expect_errors()
}

/// The relay says what happens, and does not say it row by row.
#[track_caller]
fn is_calm(relay: &Relay, most: usize) {
    let mut counts: HashMap<(String, String), usize> = HashMap::new();
    for line in relay.log() {
        let text = |part: Option<&str>| part.unwrap_or("?").to_owned();
        *counts.entry((text(line.level()), text(line.message()))).or_default() += 1;
    }
    let lines: usize = counts.values().sum();
    eprintln!("{counts:#?}");
    assert!(lines <= most, "{lines} lines in the log, expected at most {most}: {counts:#?}");
}

/// A service that writes versions of ten keys and rows without key, to several topics alike, until it is told to stop.
struct Service {
    stop: CancellationToken,
    writing: JoinHandle<i64>,
}

impl Service {
    fn start(env: &Env, topics: &[&str]) -> Service {
        let (pool, stop) = (env.app().clone(), CancellationToken::new());
        let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        let stopped = stop.clone();
        let writing = tokio::spawn(async move {
            let sql = "insert into outbox.message (topic, key, payload) \
                       select t, convert_to('k' || nullif(k, 10), 'UTF8'), convert_to(to_char($2, 'fm00000000') || repeat('x', 200), 'UTF8') \
                         from unnest($1::text[]) as t, generate_series(0, 10) as k";
            let mut version = 0;
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while !stopped.is_cancelled() {
                pace.tick().await;
                sqlx::query(sql).bind(&topics).bind(version).execute(&pool).await.expect("insert");
                version += 1;
            }
            version
        });
        Service { stop, writing }
    }

    /// The number of versions of each key.
    async fn finish(self) -> i64 {
        self.stop.cancel();
        self.writing.await.expect("the service does not panic")
    }
}

/// The versions of each key go up to `last` without a gap, in order; a version may come again, but for the first time
/// only after the one before it. Returns the first versions.
#[track_caller]
fn in_order(records: &[Record], keys: usize, last: i64) -> Vec<i64> {
    let mut found = versions(records);
    // Rows without key have no order.
    found.remove("");
    assert_eq!(found.len(), keys);
    let first = |(key, found): (&String, &Vec<i64>)| {
        let mut next = found[0];
        for version in found {
            assert!(*version <= next, "{key}: {version} comes before {next}");
            next = next.max(version + 1);
        }
        assert_eq!(next, last + 1, "{key}: the last one is missing");
        found[0]
    };
    found.iter().map(first).collect()
}

/// While all this happens, a topic gets another thousand records.
async fn goes_on(relay: &Relay, topic: &str) {
    let delivered = async || {
        let labels = [("topic", topic), ("outcome", "delivered")];
        relay.metrics().await.value("outbox_messages_total", &labels)
    };
    let before = delivered().await;
    eventually(DEADLINE, "another topic goes on", async || delivered().await >= before + 1000.0).await;
}

async fn all_settled(env: &Env) {
    let settled = "select waiting = 0 and not exists (select from outbox.deferred) and not exists (select from outbox.open_lane) \
                     from outbox.backlog where topic is null";
    env.eventually_true(settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_key_passes_a_row_that_the_broker_refuses() {
    const VERSIONS: i64 = 1000;
    const CULPRIT: i64 = 500;
    let env = Env::new().await;
    let topic = env.create_topic("strict", 1, &[]).await;
    let other = env.create_topic("other", 1, &[]).await;
    let relay = impatient(&env).await.start().await;
    write(&env, &[Line::new(&topic, "first", 0), Line::new(&other, "first", 0)]).await;
    tokio::join!(env.expect_records(&topic, 1), env.expect_records(&other, 1));

    // The relay knows the old limit.
    env.alter_topic(&topic, &[("max.message.bytes", "100000")]).await;
    let mut lines = Vec::new();
    for version in 0..VERSIONS {
        let bytes = if version == CULPRIT { 150_000 } else { 240 };
        lines.push(Line::new(&topic, "sick", version).of_bytes(bytes));
        lines.push(Line::new(&topic, format!("well-{}", version % 20), version).of_bytes(240));
        lines.push(Line::new(&other, "sick", version).of_bytes(240));
    }
    let ids = write(&env, &lines).await;
    let culprit = ids[CULPRIT as usize * 3];

    let elsewhere = env.expect_records(&other, 1001).await;
    assert_eq!(versions(&elsewhere)["sick"], (0..VERSIONS).collect::<Vec<_>>());
    env.expect_records(&topic, 1 + 500 + 1000).await;
    // The first refusal is the broker's; then the relay has asked for the limit, and says which it is.
    let known = "select tries >= 3 and error like 'record of 150% bytes is above the topic''s max.message.bytes of 100000' \
                   from outbox.deferred where reason = 'retry'";
    env.eventually_true(known).await;
    let records = env.read_topic(&topic).await;
    let found = versions(&records);
    assert_eq!(found["sick"], (0..CULPRIT).collect::<Vec<_>>());
    for well in 0..20 {
        assert_eq!(found[&format!("well-{well}")], (well..VERSIONS).step_by(20).collect::<Vec<_>>());
    }

    let sql = "select id, reason, class, error, attempts, tries, due_at is not null as due from outbox.deferred order by id";
    let deferred = sqlx::query(sql).fetch_all(env.admin()).await.expect("select");
    assert_eq!(deferred.len() as i64, VERSIONS - CULPRIT);
    let head = &deferred[0];
    assert_eq!((head.get::<i64, _>("id"), head.get::<&str, _>("reason")), (culprit, "retry"));
    assert_eq!(head.get::<&str, _>("class"), "record");
    assert!(head.get::<i32, _>("attempts") >= 3);
    for row in &deferred[1..] {
        assert_eq!((row.get::<&str, _>("reason"), row.get::<bool, _>("due")), ("behind", false));
        assert_eq!((row.get::<i32, _>("attempts"), row.get::<i32, _>("tries")), (0, 0));
    }
    let sql =
        "select array[head_id, waiting, (select count(*) from outbox.blocked_key)] from outbox.blocked_key";
    assert_eq!(env.one::<Vec<i64>>(sql).await, [culprit, 499, 1]);
    let blocked = async || relay.metrics().await.value("outbox_blocked_keys", &[]) == 1.0;
    eventually(DEADLINE, "one key is blocked", blocked).await;

    // It is tried without end.
    let tries: i32 = env.one("select max(tries) from outbox.deferred").await;
    env.eventually_true(&format!("select tries >= {tries} + 3 from outbox.deferred where reason = 'retry'"))
        .await;
    write(&env, &[Line::new(&topic, "sick", VERSIONS)]).await;

    env.alter_topic(&topic, &[]).await;
    let records = env.expect_records(&topic, 1 + 2001).await;
    assert_eq!(versions(&records)["sick"], (0..=VERSIONS).collect::<Vec<_>>());
    all_settled(&env).await;
    let free = async || relay.metrics().await.value("outbox_blocked_keys", &[]) == 0.0;
    eventually(DEADLINE, "no key is blocked", free).await;
    assert_eq!(env.read_topic(&topic).await.len(), 2002, "no record twice");
    let replaced = relay.metrics().await.value("outbox_producer_replaced_total", &[]);
    assert!(replaced <= 3.0, "{replaced} producers were replaced");
    is_calm(&relay, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_key_passes_the_very_first_row_that_a_producer_sends_to_a_partition() {
    let env = Env::new().await;
    let topic = env.create_topic("first", 2, &[]).await;
    // Small batches: many are on their way before the first one is refused.
    let _relay = impatient(&env).await.property("batch.num.messages", 2).start().await;
    env.execute(&format!(
        "insert into outbox.message (topic, payload, partition) values ('{topic}', '00000000', 1)"
    ))
    .await;
    env.expect_records(&topic, 1).await;

    env.alter_topic(&topic, &[("max.message.bytes", "100000")]).await;
    let sql = format!(
        "insert into outbox.message (topic, key, payload, partition) \
         select '{topic}', 'k', convert_to(rpad(to_char(v, 'fm00000000'), case v when 0 then 150000 else 200 end, 'x'), 'UTF8'), 0 \
           from generate_series(0, 4999) v"
    );
    env.execute(&sql).await;
    env.eventually_true("select count(*) = 5000 and max(tries) >= 2 from outbox.deferred").await;
    env.alter_topic(&topic, &[]).await;
    let records = env.expect_records(&topic, 5001).await;
    assert_eq!(versions(&records)["k"], (0..5000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_missing_topic_wait_for_it_and_no_other_topic_waits() {
    let env = Env::new().await;
    let well = env.create_topic("well", 1, &[]).await;
    let missing = env.topic("missing");
    let relay = impatient(&env).await.start().await;
    let lines = |from: i64| -> Vec<Line<'_>> {
        let pair = |version| {
            [Line::new(&missing, format!("k{}", version % 7), version), Line::new(&well, "k", version)]
        };
        (from..from + 500).flat_map(pair).collect()
    };
    write(&env, &lines(0)).await;
    env.expect_records(&well, 500).await;
    env.expect_lane(&missing, "missing").await;
    let sql = "select distinct class || ': ' || error from outbox.deferred where reason = 'retry'";
    assert_eq!(
        env.one::<String>(sql).await,
        "topic: UnknownTopicOrPartition (Broker: Unknown topic or partition)"
    );
    assert_eq!(
        env.one::<i64>(
            "select coalesce(sum(attempts + tries), 0) from outbox.deferred where reason = 'behind'"
        )
        .await,
        0
    );
    assert_eq!(env.one::<i64>("select count(*) from outbox.dead_letter").await, 0);
    write(&env, &lines(500)).await;
    let records = env.expect_records(&well, 1000).await;
    assert_eq!(versions(&records)["k"], (0..1000).collect::<Vec<_>>());

    env.create_topic("missing", 3, &[]).await;
    let records = env.expect_records(&missing, 1000).await;
    for (key, found) in versions(&records) {
        let first = key[1..].parse().expect("the key's number");
        assert_eq!(found, (first..1000).step_by(7).collect::<Vec<_>>(), "{key}");
    }
    all_settled(&env).await;
    assert_eq!(relay.metrics().await.value("outbox_producer_replaced_total", &[]), 0.0);
    is_calm(&relay, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_forbidden_topic_wait_for_the_permission_and_no_other_topic_waits() {
    let env = Env::new().await;
    let well = env.create_topic("well", 1, &[]).await;
    let topic = env.create_topic("forbidden", 3, &[]).await;
    env.forbid_topic(&topic).await;
    let relay = quick(env.restricted_relay().await).start().await;
    let service = Service::start(&env, &[&topic, &well]);
    env.expect_lane(&topic, "forbidden").await;
    // Long enough for several looks, each of which sees the topic in the metadata.
    env.eventually_true("select count(*) >= 3 from outbox.attempt where class = 'authorization'").await;
    goes_on(&relay, &well).await;
    assert_eq!(env.read_topic(&topic).await, []);
    assert_eq!(env.one::<i64>("select sum(attempts) from outbox.deferred").await, 0);
    let sql = "select distinct class || ': ' || error from outbox.deferred where reason = 'retry'";
    let reason = "authorization: TopicAuthorizationFailed (Broker: Topic authorization failed)";
    assert_eq!(env.one::<String>(sql).await, reason);

    env.allow_topic(&topic).await;
    env.expect_records(&topic, 1000).await;
    let written = service.finish().await;
    all_settled(&env).await;
    assert_eq!(in_order(&env.read_topic(&topic).await, 10, written - 1), [0; 10]);
    assert_eq!(in_order(&env.read_topic(&well).await, 10, written - 1), [0; 10]);
    let replaced = relay.metrics().await.value("outbox_producer_replaced_total", &[]);
    assert!(replaced <= 1.0, "{replaced} producers were replaced");
    is_calm(&relay, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_and_made_again_under_load_loses_nothing_and_keeps_its_order() {
    let env = Env::new().await;
    let well = env.create_topic("well", 2, &[]).await;
    let topic = env.create_topic("phoenix", 2, &[]).await;
    let relay = impatient(&env).await.start().await;
    let service = Service::start(&env, &[&topic, &well]);
    env.expect_records(&topic, 2000).await;

    env.delete_topic(&topic).await;
    env.eventually_true("select count(*) > 100 from outbox.deferred").await;
    goes_on(&relay, &well).await;
    env.create_topic("phoenix", 2, &[]).await;
    env.expect_records(&topic, 1000).await;
    let written = service.finish().await;
    all_settled(&env).await;

    assert_eq!(in_order(&env.read_topic(&well).await, 10, written - 1), [0; 10]);
    // What was confirmed before went with the old topic; everything after it is in the new one.
    in_order(&env.read_topic(&topic).await, 10, written - 1);
    let states = "select array_agg(distinct state) = '{published}' from outbox.status";
    assert!(env.one::<bool>(states).await, "every row is published");
    is_calm(&relay, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_takes_its_place_before_a_refused_one_and_lets_nobody_pass_it() {
    let env = Env::new().await;
    let topic = env.create_topic("late", 1, &[("max.message.bytes", "70000")]).await;
    let _relay = impatient(&env).await.start().await;

    // It draws the lowest id and commits last.
    let mut late = PgConnection::connect(&env.app_url()).await.expect("connect");
    let mut late = late.begin().await.expect("begin");
    let sql = "insert into outbox.message (topic, key, payload) values ($1, 'k', '00000000')";
    sqlx::query(sql).bind(&topic).execute(&mut *late).await.expect("insert");
    write(&env, &[Line::new(&topic, "k", 1).of_bytes(80_000), Line::new(&topic, "k", 2)]).await;
    env.eventually_true("select count(*) = 2 and max(tries) >= 2 from outbox.deferred").await;
    late.commit().await.expect("commit");

    env.expect_records(&topic, 1).await;
    let tries: i32 = env.one("select max(tries) from outbox.deferred").await;
    env.eventually_true(&format!("select max(tries) >= {tries} + 3 from outbox.deferred")).await;
    assert_eq!(versions(&env.read_topic(&topic).await)["k"], [0]);

    env.alter_topic(&topic, &[]).await;
    assert_eq!(versions(&env.expect_records(&topic, 3).await)["k"], [0, 1, 2]);
    all_settled(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_keys_stay_blocked_and_in_order_when_another_relay_takes_over() {
    let env = Env::new().await;
    let topic = env.create_topic("handed-over", 1, &[("max.message.bytes", "70000")]).await;
    let start = async || impatient(&env).await.set("lease.ttl", "1s").start().await;
    let first = start().await;
    let line = |key: &str, version| Line::new(&topic, key, version);
    write(&env, &[line("sick", 0), line("sick", 1).of_bytes(80_000), line("sick", 2), line("well", 0)]).await;
    env.expect_records(&topic, 2).await;
    env.eventually_true("select count(*) = 2 and max(tries) >= 2 from outbox.deferred").await;

    first.kill().await;
    write(&env, &[line("sick", 3), line("well", 1)]).await;
    let second = start().await;
    write(&env, &[line("sick", 4), line("well", 2)]).await;
    let records = env.expect_records(&topic, 4).await;
    assert_eq!(
        (&versions(&records)["sick"][..], &versions(&records)["well"][..]),
        (&[0][..], &[0, 1, 2][..])
    );
    env.eventually_true("select count(*) = 4 from outbox.deferred").await;
    let blocked = async || second.metrics().await.value("outbox_blocked_keys", &[]) == 1.0;
    eventually(DEADLINE, "one key is blocked", blocked).await;

    // A hand-over in the middle of the catching up.
    env.alter_topic(&topic, &[]).await;
    write(&env, &(5..2000).map(|version| line("sick", version)).collect::<Vec<_>>()).await;
    env.expect_records(&topic, 100).await;
    assert!(second.terminate().await.success());
    let third = start().await;
    env.expect_records(&topic, 2003).await;
    all_settled(&env).await;
    let records = env.read_topic(&topic).await;
    assert_eq!(versions(&records)["sick"], (0..2000).collect::<Vec<_>>(), "and none twice");
    is_calm(&third, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_kafka_can_never_take_is_put_off_with_its_reason_and_stops_nobody() {
    let env = Env::new().await;
    let topic = env.create_topic("plain", 2, &[]).await;
    let compacted = env.create_topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    let relay = impatient(&env).await.set("relay.max_row_bytes", "100KiB").start().await;
    write(
        &env,
        &[
            Line::new(&topic, "k", 0).of_bytes(200_000),
            Line::new(&topic, "k", 1),
            Line::new(&topic, "other", 0),
        ],
    )
    .await;
    let sql = format!(
        "insert into outbox.message (topic, key, payload, partition) \
         values ('{topic}', null, '00000000', 2), ('{topic}', null, '00000001', 1), \
                ('{compacted}', null, '00000000', null), ('{compacted}', 'k', '00000000', null)"
    );
    env.execute(&sql).await;
    let (records, _) = tokio::join!(env.expect_records(&topic, 2), env.expect_records(&compacted, 1));
    let found = versions(&records);
    assert_eq!((&found["other"], &found[""]), (&vec![0], &vec![1]));

    env.eventually_true("select bool_and(attempts >= 2) from outbox.deferred where reason = 'retry'").await;
    let sql =
        "select array_agg(class || ': ' || error order by id) from outbox.deferred where reason = 'retry'";
    let reasons: Vec<String> = env.one(sql).await;
    assert_eq!(
        reasons,
        [
            "record: payload of 200000 bytes is above relay.max_row_bytes",
            "record: partition 2 does not exist, the topic has 2",
            "record: the topic is compacted, a record without key is refused",
        ]
    );
    assert_eq!(env.one::<i64>("select count(*) from outbox.deferred where reason = 'behind'").await, 1);
    assert_eq!(relay.metrics().await.value("outbox_producer_replaced_total", &[]), 0.0);
    let refused = relay.log().into_iter().filter(|line| line.level() == Some("ERROR")).count();
    assert_eq!(refused, 2, "one line a topic");
    is_calm(&relay, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_with_small_limits_flow_in_order_and_do_not_wear_producers_out() {
    let env = Env::new().await;
    let plain = env.create_topic("plain", 2, &[]).await;
    let small = env.create_topic("small", 2, &[("max.message.bytes", "100000")]).await;
    let tiny = env.create_topic("tiny", 2, &[("max.message.bytes", "20000")]).await;
    let relay = env.start_relay().await;
    for round in 0..4 {
        let line = |version: i64| {
            [&plain, &small, &tiny]
                .map(|topic| Line::new(topic, format!("k{}", version % 10), version / 10).of_bytes(3000))
        };
        write(&env, &(round * 500..round * 500 + 500).flat_map(line).collect::<Vec<_>>()).await;
    }
    for topic in [&plain, &small, &tiny] {
        let records = env.expect_records(topic, 2000).await;
        for (key, found) in versions(&records) {
            assert_eq!(found, (0..200).collect::<Vec<_>>(), "{topic} {key}");
        }
    }
    all_settled(&env).await;
    let replaced = relay.metrics().await.value("outbox_producer_replaced_total", &[]);
    assert!(replaced <= 1.0, "{replaced} producers were replaced");
    is_calm(&relay, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_limits_that_the_relay_may_not_read_are_found_out() {
    let env = Env::new().await;
    let small = env.create_topic("small", 2, &[("max.message.bytes", "100000")]).await;
    let tiny = env.create_topic("tiny", 2, &[("max.message.bytes", "20000")]).await;
    env.hide_configuration(&small).await;
    env.hide_configuration(&tiny).await;
    let relay = env.restricted_relay().await.start().await;
    for round in 0..8 {
        let line = |version: i64| {
            let of = |topic| Line::new(topic, format!("k{}", version % 10), version / 10).of_bytes(3000);
            [of(&small), of(&tiny)]
        };
        write(&env, &(round * 250..round * 250 + 250).flat_map(line).collect::<Vec<_>>()).await;
        env.expect_records(&small, 250 * (round as usize + 1)).await;
    }
    for topic in [&small, &tiny] {
        let records = env.expect_records(topic, 2000).await;
        for (key, found) in versions(&records) {
            assert_eq!(found, (0..200).collect::<Vec<_>>(), "{topic} {key}");
        }
    }
    all_settled(&env).await;
    let replaced = relay.metrics().await.value("outbox_producer_replaced_total", &[]);
    assert!(replaced <= 8.0, "{replaced} producers were replaced");
    is_calm(&relay, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_deferred_rows_stops_reading_for_all_until_some_leave() {
    const TOPICS: usize = 6;
    let env = Env::new().await;
    let well = env.create_topic("well", 1, &[]).await;
    let mut narrow = Vec::new();
    for number in 0..TOPICS {
        let limit = [("max.message.bytes", "1000")];
        narrow.push(env.create_topic(&format!("narrow-{number}"), 1, &limit).await);
    }
    let relay = impatient(&env).await.set("retry.deferred_max", 200).set("relay.page_rows", 50);
    let relay = relay.set("retry.attempts", 1_000_000).start().await;
    // Scheduled rows are not what the cap is about.
    let sql = format!(
        "insert into outbox.message (topic, deliver_after) \
         select '{well}', clock_timestamp() + interval '1 hour' from generate_series(1, 300)"
    );
    env.execute(&sql).await;
    write(&env, &[Line::new(&well, "k", 0)]).await;
    env.expect_records(&well, 1).await;
    let metric = async |value: f64| {
        let stopped = async || {
            relay.metrics().await.value("outbox_reading_stopped", &[("cause", "deferred_limit")]) == value
        };
        eventually(DEADLINE, "reading stopped or not", stopped).await;
    };
    metric(0.0).await;

    // Each topic stays below its own share, which is a quarter; together they reach the cap.
    let line = |at: usize| Line::new(&narrow[at % TOPICS], format!("k{at}"), 0).of_bytes(5000);
    write(&env, &(0..45 * TOPICS).map(line).collect::<Vec<_>>()).await;
    write(&env, &[Line::new(&well, "k", 1)]).await;
    metric(1.0).await;
    relay.wait_for_log("reading stopped because the cap of deferred rows is reached").await;
    let held = "select count(*) between 200 and 270 from outbox.deferred where reason <> 'scheduled'";
    env.eventually_true(held).await;
    assert_eq!(env.read_topic(&well).await.len(), 1, "reading stands for all");
    assert_eq!(relay.get("/readyz").await.map(|(status, _)| status), Some(200), "it stays ready");

    for topic in &narrow {
        env.alter_topic(topic, &[]).await;
    }
    assert_eq!(env.expect_records(&well, 2).await.len(), 2);
    for topic in &narrow {
        env.expect_records(topic, 45).await;
    }
    metric(0.0).await;
    let stops = relay.logged("reading stopped because the cap of deferred rows is reached");
    let goes = relay.logged("reading goes on below the cap of deferred rows");
    assert!(stops == goes && stops < 20, "it stopped {stops} times and went on {goes} times");
}
