//! Rows of tests: a topic, a key and a version of it, written in order and found again in order.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgExecutor, Row};

use super::env::Env;
use super::history::RECOVERY;
use super::kafka::Record;
use super::wait::eventually;

/// A row to write. Large ones are padded.
pub struct Line<'a> {
    pub topic: &'a str,
    pub key: Option<String>,
    pub version: i64,
    pub bytes: usize,
}

impl<'a> Line<'a> {
    pub fn new(topic: &'a str, key: impl Into<String>, version: i64) -> Self {
        Line { topic, key: Some(key.into()), version, bytes: 0 }
    }

    /// Without a key.
    pub fn keyless(topic: &'a str, version: i64) -> Self {
        Line { topic, key: None, version, bytes: 0 }
    }

    /// With a payload of this size, which no compression makes small enough to matter.
    pub fn of_bytes(self, bytes: usize) -> Self {
        Line { bytes, ..self }
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut payload = format!("{:08}", self.version).into_bytes();
        payload.resize(payload.len().max(self.bytes), b'x');
        payload
    }
}

/// Writes the rows in one transaction, in this order, and returns their ids.
pub async fn write(env: &Env, lines: &[Line<'_>]) -> Vec<i64> {
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

/// Writes `rows` rows of `keys` keys, key by key in turns, versions from `from` on.
pub async fn write_many(env: &Env, topic: &str, keys: i64, from: i64, rows: i64) {
    write_many_in(env.app(), topic, keys, from, rows).await;
}

/// … in a transaction, for instance.
pub async fn write_many_in(place: impl PgExecutor<'_>, topic: &str, keys: i64, from: i64, rows: i64) {
    let sql = "insert into outbox.message (topic, key, payload) \
               select $1, convert_to('k' || (n % $2), 'UTF8'), convert_to(to_char($3 + n / $2, 'fm00000000') || repeat('x', 200), 'UTF8') \
                 from generate_series(0, $4 - 1) n order by n";
    let query = sqlx::query(sql).bind(topic).bind(keys).bind(from).bind(rows);
    query.execute(place).await.expect("insert");
}

/// Ids 1 to 10 of a new database are drawn and rolled back, and the relay has passed them: no reader finds a row of such an id.
pub async fn pass_ten_ids(env: &Env, topic: &str) {
    env.execute(&format!(
        "begin; insert into outbox.message (topic) select '{topic}' from generate_series(1, 10); rollback"
    ))
    .await;
    write(env, &[Line::new(topic, "k", 1)]).await;
    env.expect_records(topic, 1).await;
    env.eventually_true(
        "select high >= 11 from outbox.ledger where lane is null order by epoch desc, seq desc limit 1",
    )
    .await;
}

/// The versions of each key, in the order of the topic.
pub fn versions(records: &[Record]) -> HashMap<String, Vec<i64>> {
    let mut keys: HashMap<String, Vec<i64>> = HashMap::new();
    for record in records {
        let key = String::from_utf8(record.key.clone().unwrap_or_default()).expect("text");
        let version = std::str::from_utf8(&record.payload.as_ref().expect("no tombstones here")[..8]);
        keys.entry(key).or_default().push(version.expect("digits").parse().expect("a number"));
    }
    keys
}

/// The versions of each key by first appearance: what a consumer sees that deduplicates.
pub fn first_versions(records: &[Record]) -> BTreeMap<String, Vec<i64>> {
    let mut keys = BTreeMap::new();
    for (key, versions) in versions(records) {
        let mut seen = HashSet::new();
        keys.insert(key, versions.into_iter().filter(|version| seen.insert(*version)).collect());
    }
    keys
}

/// Every key has the versions `0..versions`, in order, by first appearance.
#[track_caller]
pub fn assert_complete(records: &[Record], keys: i64, versions: i64) {
    let found = first_versions(records);
    assert_eq!(found.len() as i64, keys, "keys: {:?}", found.keys());
    for (key, found) in found {
        assert_eq!(found, (0..versions).collect::<Vec<_>>(), "{key}");
    }
}

/// Waits until every key has its versions `0..versions`, in order by first appearance, however often each came.
pub async fn expect_complete(env: &Env, topic: &str, keys: i64, versions: i64) -> Vec<Record> {
    eventually(RECOVERY, "all versions are in the topic", async || {
        let found = first_versions(&env.read_topic(topic).await);
        found.values().map(|versions| versions.len() as i64).sum::<i64>() >= keys * versions
    })
    .await;
    let records = env.read_topic(topic).await;
    assert_complete(&records, keys, versions);
    records
}
