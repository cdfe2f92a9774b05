//! `make bench`: how fast, how large and how quick the relay is, beside others on the same machine.
//!
//! All figures come from one run, the contenders take turns, and medians are shown with their spread: on a shared machine nothing
//! else can be compared. docs/benchmarks.md says how it is measured. Variables: `OUTBOX_RELAY_BENCH_ROWS` (1000000, of 240 bytes),
//! `_ROUNDS` (3), `_SPORADIC` (2 rows), `_SILENCE` (60 s), and `MATRIX=all` for other sizes, keys, partitions, topics, compressions.
//! The first argument chooses another program: `failures` and `flat`, each with names of its parts.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report is what this program is for")]

mod alone;
mod bed;
mod drain;
mod failures;
mod figures;
mod flat;
mod latency;
mod peer;
mod plain;
mod plot;
mod process;
mod relay_process;
mod steady;
mod throughput;
mod topics;
mod workload;

use std::path::PathBuf;

use outbox_relay::servers::{KafkaOptions, PostgresOptions, PrivateKafka, PrivatePostgres};
use sqlx::PgPool;

use crate::drain::Ground;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(bench());
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn bench() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == plain::ARGUMENT) {
        return plain::serve(&arguments[1..]).await;
    }
    // cargo adds --bench.
    arguments.retain(|argument| !argument.starts_with('-'));
    eprintln!("starting Postgres (fsync on) and Kafka");
    let ground = servers();
    match arguments.split_first() {
        Some((first, parts)) if first == "failures" => failures::run(&ground, parts).await,
        Some((first, parts)) if first == "flat" => flat::run(&ground, parts).await,
        Some((first, _)) => panic!("{first} is none of failures and flat"),
        None => throughput::run(&ground).await,
    }
}

fn servers() -> Ground {
    let jars = std::env::var_os("OUTBOX_RELAY_KAFKA_JARS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/kafka/lib"), PathBuf::from);
    let kafka = std::thread::spawn(|| {
        PrivateKafka::start(KafkaOptions {
            quick_start: false,
            heap: "1g".to_owned(),
            ..KafkaOptions::new(jars)
        })
    });
    let postgres = postgres(&[]);
    let kafka = kafka.join().expect("no panic");
    Ground { postgres, kafka: kafka.expect("Kafka starts; make kafka fetches it") }
}

/// Debian installs the module that counts with the server; a Postgres from elsewhere may lack it, and would not start.
fn counts_statements() -> bool {
    std::env::var_os("OUTBOX_RELAY_POSTGRES_BIN").is_none()
}

fn postgres(more: &[(&str, &str)]) -> PrivatePostgres {
    let settings = [("shared_buffers", "512MB"), ("max_wal_size", "8GB")];
    let counting = counts_statements().then_some(("shared_preload_libraries", "pg_stat_statements"));
    let settings = settings
        .iter()
        .chain(&counting)
        .chain(more)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = PostgresOptions { fsync: true, settings: settings.collect(), ..PostgresOptions::default() };
    PrivatePostgres::start(options).expect("Postgres starts; make setup installs it")
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
