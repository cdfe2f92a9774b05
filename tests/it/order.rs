//! Order per key, whatever happens to single rows, keys and topics; and nobody else suffers from it.

use std::collections::HashMap;

use sqlx::Row;

use crate::support::{DEADLINE, Env, Record, Relay, RelayBuilder, eventually};

/// A row to write: topic, key, version. Large ones are padded.
struct Line<'a> {
    topic: &'a str,
    key: Option<String>,
    version: i64,
    bytes: usize,
}

impl<'a> Line<'a> {
    fn new(topic: &'a str, key: impl Into<String>, version: i64) -> Self {
        Line { topic, key: Some(key.into()), version, bytes: 0 }
    }

    /// With a payload of this size, which no compression makes small enough to matter.
    fn of_bytes(self, bytes: usize) -> Self {
        Line { bytes, ..self }
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = format!("{:08}", self.version).into_bytes();
        payload.resize(payload.len().max(self.bytes), b'x');
        payload
    }
}

/// Writes the rows in one transaction, in this order, and returns their ids.
async fn write(env: &Env, lines: &[Line<'_>]) -> Vec<i64> {
    let sql = "insert into outbox.message (topic, key, payload) \
               select u.topic, u.key, u.payload \
                 from unnest($1::text[], $2::bytea[], $3::bytea[]) with ordinality as u (topic, key, payload, place) \
                order by u.place returning id";
    let rows = sqlx::query(sql)
        .bind(lines.iter().map(|line| line.topic).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.key.as_ref().map(String::as_bytes)).collect::<Vec<_>>())
        .bind(lines.iter().map(Line::payload).collect::<Vec<_>>())
        .fetch_all(env.app())
        .await
        .expect("insert");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The versions of each key, in the order of the topic.
fn versions(records: &[Record]) -> HashMap<String, Vec<i64>> {
    let mut keys: HashMap<String, Vec<i64>> = HashMap::new();
    for record in records {
        let key = String::from_utf8(record.key.clone().unwrap_or_default()).expect("text");
        let version = std::str::from_utf8(&record.payload.as_ref().expect("no tombstones here")[..8]);
        keys.entry(key).or_default().push(version.expect("digits").parse().expect("a number"));
    }
    keys
}

/// A relay that tries again quickly, and whose errors are part of what is shown.
async fn impatient(env: &Env) -> RelayBuilder {
    quick(env.relay().await)
}

fn quick(relay: RelayBuilder) -> RelayBuilder {
    relay.set("retry.base", "50ms").set("retry.max", "500ms").expect_errors()
}

async fn one<T>(env: &Env, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(sql).fetch_one(env.admin()).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
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

async fn all_settled(env: &Env) {
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    env.eventually_true("select waiting = 0 from outbox.backlog where topic is null").await;
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
    assert_eq!(one::<Vec<i64>>(&env, sql).await, [culprit, 499, 1]);
    let blocked = async || relay.metrics().await.value("outbox_blocked_keys", &[]) == 1.0;
    eventually(DEADLINE, "one key is blocked", blocked).await;

    // It is tried without end.
    let tries: i32 = one(&env, "select max(tries) from outbox.deferred").await;
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
    env.eventually_true("select count(*) = 500 and max(tries) >= 3 from outbox.deferred").await;
    let sql = "select array[count(*) filter (where reason = 'retry'), count(*) filter (where reason = 'behind'), \
                            sum(attempts)] from outbox.deferred";
    assert_eq!(one::<Vec<i64>>(&env, sql).await, [7, 493, 0]);
    let sql = "select distinct class || ': ' || error from outbox.deferred where reason = 'retry'";
    assert_eq!(
        one::<String>(&env, sql).await,
        "topic: UnknownTopicOrPartition (Broker: Unknown topic or partition)"
    );
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
    for round in 0..20 {
        let pair = |version| {
            [Line::new(&topic, format!("k{}", version % 7), version), Line::new(&well, "k", version)]
        };
        write(&env, &(round * 50..round * 50 + 50).flat_map(pair).collect::<Vec<_>>()).await;
        env.expect_records(&well, 50 * (round as usize + 1)).await;
    }
    env.eventually_true("select count(*) = 1000 and max(tries) >= 3 from outbox.deferred").await;
    assert_eq!(one::<i64>(&env, "select sum(attempts) from outbox.deferred").await, 0);
    let sql = "select distinct class || ': ' || error from outbox.deferred where reason = 'retry'";
    assert_eq!(
        one::<String>(&env, sql).await,
        "authorization: TopicAuthorizationFailed (Broker: Topic authorization failed)"
    );
    assert_eq!(env.read_topic(&topic).await, []);

    env.allow_topic(&topic).await;
    let records = env.expect_records(&topic, 1000).await;
    for (key, found) in versions(&records) {
        let first = key[1..].parse().expect("the key's number");
        assert_eq!(found, (first..1000).step_by(7).collect::<Vec<_>>(), "{key}");
    }
    all_settled(&env).await;
    let replaced = relay.metrics().await.value("outbox_producer_replaced_total", &[]);
    assert!(replaced <= 1.0, "{replaced} producers were replaced");
    is_calm(&relay, 60);
}
