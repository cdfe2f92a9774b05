//! `make bench`: how fast, how large and how quick the relay is, beside librdkafka alone on the same machine.
//!
//! All figures come from one run, the contenders take turns, and medians are shown with their spread: on a shared
//! machine nothing else can be compared. Rows are about 240 bytes with three headers on the record.
//! `OUTBOX_RELAY_BENCH_ROWS` (default 1000000) and `OUTBOX_RELAY_BENCH_ROUNDS` (default 3) change the size.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report is what this program is for")]

mod alone;
mod failures;
mod latency;
mod relay_process;
mod report;

use std::path::PathBuf;

use outbox_relay::servers::{KafkaOptions, PostgresOptions, PrivateKafka, PrivatePostgres};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use report::Round;
use sqlx::PgPool;

/// Rows of one settlement-sized insert.
const CHUNK: i64 = 50_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn bench() {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(("failures", parts)) = named.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        eprintln!("starting Postgres (fsync on) and Kafka");
        let (postgres, kafka) = servers();
        return failures::run(&failures::Ground { postgres, kafka }, parts).await;
    }
    let rows = setting("OUTBOX_RELAY_BENCH_ROWS", 1_000_000);
    let rounds = setting("OUTBOX_RELAY_BENCH_ROUNDS", 3);
    eprintln!("starting Postgres (fsync on) and Kafka");
    let (postgres, kafka) = servers();
    let url = postgres.url("bench");
    prepare(&postgres, "bench").await;
    let pool = PgPool::connect(&url).await.expect("connect");
    for topic in ["alone", "relay", "latency"] {
        create_topic(kafka.brokers(), topic, 12);
    }

    let mut figures = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: writing {rows} rows");
        fill(&pool, rows).await;
        eprintln!("round {round} of {rounds}: librdkafka alone");
        let alone = alone::run(kafka.brokers(), "alone", rows);
        eprintln!("round {round} of {rounds}: the relay");
        let relay = relay_process::drain(&url, kafka.brokers(), &pool, rows).await;
        eprintln!("  alone {:.0} rows/s, relay {:.0} rows/s", alone.rows_per_second, relay.rows_per_second);
        figures.push(Round { alone, relay });
    }
    eprintln!("latency: 200 rows/s, and an idle relay");
    let relay = relay_process::Relay::start(&url, kafka.brokers());
    let latency = latency::measure(&pool, kafka.brokers(), "latency", 200, 20).await;
    let idle = relay.idle_share(std::time::Duration::from_secs(20)).await;
    drop(relay);
    report::print(rows, &figures, &latency, idle);
}

fn servers() -> (PrivatePostgres, PrivateKafka) {
    let jars = std::env::var_os("OUTBOX_RELAY_KAFKA_JARS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/kafka/lib"), PathBuf::from);
    let kafka = std::thread::spawn(|| {
        PrivateKafka::start(KafkaOptions {
            quick_start: false,
            heap: "1g".to_owned(),
            ..KafkaOptions::new(jars)
        })
    });
    let postgres = PrivatePostgres::start(PostgresOptions {
        fsync: true,
        settings: vec![
            ("shared_buffers".to_owned(), "512MB".to_owned()),
            ("max_wal_size".to_owned(), "8GB".to_owned()),
        ],
        ..PostgresOptions::default()
    });
    let kafka = kafka.join().expect("no panic");
    (
        postgres.expect("Postgres starts; make setup installs it"),
        kafka.expect("Kafka starts; make kafka fetches it"),
    )
}

/// Makes a database with an outbox.
async fn prepare(postgres: &PrivatePostgres, database: &str) {
    let pool = PgPool::connect(&postgres.url("postgres")).await.expect("connect");
    sqlx::query(&format!("create database {database}")).execute(&pool).await.expect("create the database");
    let migrated = std::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
        .arg("migrate")
        .env("DATABASE_URL", postgres.url(database))
        .output()
        .expect("run migrate");
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
}

/// Ten thousand keys, a payload of 240 bytes and one header; the relay adds two.
async fn fill(pool: &PgPool, rows: u64) {
    let mut left = rows as i64;
    while left > 0 {
        let chunk = left.min(CHUNK);
        sqlx::query(
            "insert into outbox.message (topic, key, payload, headers)
             select 'relay', convert_to('customer-' || n % 10000, 'UTF8'),
                    convert_to(rpad('{\"order\": ' || n || ', \"items\": \"', 238, 'x') || '\"}', 'UTF8'),
                    '{\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}'
               from generate_series(1, $1) n",
        )
        .bind(chunk)
        .execute(pool)
        .await
        .expect("insert");
        left -= chunk;
    }
    sqlx::query("checkpoint").execute(pool).await.expect("checkpoint");
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client")
}

fn create_topic(brokers: String, topic: &str, partitions: i32) {
    let new = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
    let admin = admin(&brokers);
    let created = tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(admin.create_topics(&new, &AdminOptions::new()))
    });
    for topic in created.expect("create topics") {
        topic.expect("create a topic");
    }
}

/// Sets the topic's `max.message.bytes`.
async fn set_limit(brokers: &str, topic: &str, bytes: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", bytes);
    let altered = admin(brokers).alter_configs([&change], &AdminOptions::new()).await;
    for topic in altered.expect("alter configs") {
        topic.expect("alter a topic");
    }
}
