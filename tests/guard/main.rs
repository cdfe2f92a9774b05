//! `make guard`: what a row costs, in figures that do not depend on how fast or how busy the machine is.
//!
//! A relay drains a small backlog and a larger one, from a real Postgres to a real Kafka, under callgrind and with one worker
//! thread. What the larger one costs more, by the row, is compared with `figures.json`: instructions, buffers, WAL. Seconds
//! are measured by `make bench`; here a change is caught that makes each row dearer, such as one allocation more.
//!
//! `OUTBOX_RELAY_GUARD=write` writes the figures anew, to be looked at in the diff.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it says what it measured")]

mod callgrind;
mod drain;
mod figures;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use outbox_relay::servers::{KafkaOptions, PostgresOptions, PrivateKafka, PrivatePostgres};

use sqlx::{Connection, PgConnection};

use self::drain::Cost;
use self::figures::{Figures, Versions};

/// Rows of the two backlogs: whole pages, so that the last one is not cheaper than the others.
const SMALL: i64 = 5_000;
const LARGE: i64 = 25_000;
/// Rows at 200 a second.
const TRICKLE: i64 = 1_000;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(guard())
}

/// The servers.
pub struct Ground {
    /// With an outbox in each of its databases.
    pub postgres: PrivatePostgres,
    /// With a topic for each.
    pub kafka: PrivateKafka,
}

async fn guard() -> ExitCode {
    if let Err(reason) = callgrind::is_there() {
        eprintln!("guard: {reason}");
        return ExitCode::FAILURE;
    }
    let ground = ground();
    let mut admin = PgConnection::connect(&ground.postgres.url("postgres")).await.expect("connect");
    // Part of Postgres' own contrib modules, which Debian installs with the server.
    sqlx::query("create extension pg_stat_statements")
        .execute(&mut admin)
        .await
        .expect("create the extension");
    let version = sqlx::query_scalar("select current_setting('server_version_num')::integer");
    let here = Versions::here(version.fetch_one(&mut admin).await.expect("a version"));
    let small = drain::backlog(&ground, "guard_small", SMALL).await;
    let large = drain::backlog(&ground, "guard_large", LARGE).await;
    eprintln!("guard: {SMALL} rows: {small:?}\nguard: {LARGE} rows: {large:?}");
    let per_row = |of: fn(&Cost) -> f64| (of(&large) - of(&small)) / (LARGE - SMALL) as f64;
    // Not judged: how records fall into requests is a matter of time, from 7,500 to 11,000 a row [measured].
    eprintln!("guard: instructions of librdkafka's threads per row: {:.0}", per_row(|cost| cost.client));
    let trickle = drain::trickle(&ground, "guard_trickle", TRICKLE).await;
    let measured = [
        ("relay_instructions_per_row", per_row(|cost| cost.relay)),
        ("buffers_per_thousand_rows_to_read", 1000.0 * per_row(|cost| cost.read)),
        ("buffers_per_thousand_rows_to_mark", 1000.0 * per_row(|cost| cost.marked)),
        ("wal_bytes_per_row_in_bulk", per_row(|cost| cost.wal)),
        ("wal_bytes_per_row_at_200_a_second", trickle),
    ];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/figures.json");
    let mut figures = Figures::read(&path);
    if std::env::var("OUTBOX_RELAY_GUARD").is_ok_and(|text| text == "write") {
        figures.take(&measured, here);
        figures.write(&path);
        println!("guard: wrote {}", path.display());
        return ExitCode::SUCCESS;
    }
    let failed = figures.judge(&measured, &here);
    println!("{} passed, {failed} failed", measured.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Nothing that would happen now and then happens here: no checkpoint, no autovacuum, no full pages in the WAL.
fn ground() -> Ground {
    let jars = std::env::var_os("OUTBOX_RELAY_KAFKA_JARS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/kafka/lib"), PathBuf::from);
    let kafka = std::thread::spawn(|| PrivateKafka::start(KafkaOptions::new(jars)));
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let postgres = PrivatePostgres::start(PostgresOptions {
        settings: vec![
            set("autovacuum", "off"),
            set("checkpoint_timeout", "1h"),
            set("max_wal_size", "4GB"),
            set("full_page_writes", "off"),
            set("shared_preload_libraries", "pg_stat_statements"),
        ],
        ..PostgresOptions::default()
    });
    let kafka = kafka.join().expect("no panic");
    Ground {
        postgres: postgres.expect("Postgres starts; make setup installs it"),
        kafka: kafka.expect("Kafka starts; make kafka fetches it"),
    }
}
