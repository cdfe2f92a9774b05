//! The relay that one writes first: lock a batch with `for update skip locked`, send it, await every confirm, update, commit.
//!
//! It stands here for comparison, as a process of its own so that its CPU and memory can be told apart, and does what it does in
//! the obvious way: rdkafka's future producer, batches, one transaction a batch.

use std::process::Stdio;
use std::time::Duration;

use outbox_relay::servers::process::{BoundCommand, Process};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::{PgPool, Row};

use crate::workload::{TRACEPARENT, Workload};

/// The first argument with which this program is that relay.
pub const ARGUMENT: &str = "plain-relay";
const BATCH: i64 = 1000;
const PAUSE: Duration = Duration::from_millis(5);

/// Its table; rows are deleted by nobody.
pub const TABLE: &str = "
    create table public.plain_outbox (
        id bigint generated always as identity primary key, event_id uuid not null default gen_random_uuid(), topic text not null,
        key bytea, payload bytea, headers jsonb, published_at timestamptz);
    create index on public.plain_outbox (id) where published_at is null";

/// The same rows as in the outbox.
pub fn insert(workload: &Workload) -> String {
    let [topic, key, payload] = workload.expressions();
    format!(
        "insert into public.plain_outbox (topic, key, payload, headers)
         select {topic}, convert_to({key}, 'UTF8'), convert_to({payload}, 'UTF8'), '{{\"traceparent\": \"{TRACEPARENT}\"}}'
           from generate_series($2::bigint, $3::bigint) n"
    )
}

/// Starts it.
pub fn start(url: &str, brokers: &str, workload: &Workload) -> Process {
    let program = std::env::current_exe().expect("this program");
    let mut command = BoundCommand::new(program, "KILL", None);
    command
        .command()
        .args([ARGUMENT, url, brokers, workload.compression.unwrap_or("none")])
        .stdout(Stdio::null());
    command.spawn().expect("start the plain relay")
}

/// Relays until it is killed.
pub async fn serve(arguments: &[String]) {
    let [url, brokers, compression] = arguments else {
        panic!("{ARGUMENT} takes a URL, brokers and a compression")
    };
    let pool = PgPool::connect(url).await.expect("connect");
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("compression.type", compression)
        .set("queue.buffering.max.messages", "200000")
        .create()
        .expect("a producer");
    loop {
        let mut transaction = pool.begin().await.expect("begin");
        let select = "select id, event_id::text, topic, key, payload, headers ->> 'traceparent' as traceparent
                        from public.plain_outbox where published_at is null order by id limit $1 for update skip locked";
        let rows = sqlx::query(select).bind(BATCH).fetch_all(&mut *transaction).await.expect("select");
        if rows.is_empty() {
            transaction.commit().await.expect("commit");
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let sends = rows.iter().map(|row| {
            let (topic, payload): (&str, &[u8]) = (row.get("topic"), row.get("payload"));
            let mut record = FutureRecord::<[u8], [u8]>::to(topic).payload(payload);
            if let Some(key) = row.get("key") {
                record = record.key(key);
            }
            let (event_id, seq): (&str, String) = (row.get("event_id"), row.get::<i64, _>("id").to_string());
            let headers = OwnedHeaders::new()
                .insert(Header { key: "event-id", value: Some(event_id) })
                .insert(Header { key: "outbox-seq", value: Some(&seq) })
                .insert(Header { key: "traceparent", value: row.get::<Option<&str>, _>("traceparent") });
            producer.send(record.headers(headers), Duration::from_secs(60))
        });
        for sent in futures_util::future::join_all(sends).await {
            sent.expect("every record is confirmed");
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
        let mark = "update public.plain_outbox set published_at = now() where id = any($1)";
        sqlx::query(mark).bind(&ids).execute(&mut *transaction).await.expect("update");
        transaction.commit().await.expect("commit");
    }
}
