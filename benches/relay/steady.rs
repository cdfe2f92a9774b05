//! What little traffic costs, and none: latency, WAL, CPU of an idle relay and of its Postgres, buffers of a poll.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};

use crate::drain::Ground;
use crate::figures::Figures;
use crate::latency::{self, OUTBOX, PLAIN};
use crate::process::tree_cpu_seconds;
use crate::relay_process::Relay;
use crate::workload::BAR;
use crate::{peer, plain, setting, topics};

const IDLE: Duration = Duration::from_secs(20);
const SECONDS: u64 = 20;
const PER_SECOND: u64 = 200;
/// Times of slots of a second, so that what is cleaned in a day is cleaned at once.
const SHORT: [(&str, &str); 2] =
    [("OUTBOX_RELAY__RETENTION__PUBLISHED", "1s"), ("OUTBOX_RELAY__RETENTION__EVERY", "200ms")];

const WORKLOAD: &str = "200 rows/s and less";

/// A relay in its default configuration, and the plain one.
pub async fn latencies(ground: &Ground, database: &str, pool: &PgPool, figures: &mut Figures) {
    let (url, brokers) = (ground.postgres.url(database), ground.kafka.brokers());
    topics::create(&brokers, &["steady".to_owned()], 12);
    let relay = Relay::start(&url, brokers.clone());
    let steady = latency::measure(pool, brokers.clone(), "steady", OUTBOX, PER_SECOND, SECONDS).await;
    steady.note(figures, WORKLOAD, "relay");
    drop(relay);
    let relay = plain::start(&url, &brokers, &BAR);
    let steady = latency::measure(pool, brokers, "steady", PLAIN, PER_SECOND, SECONDS).await;
    steady.note(figures, WORKLOAD, "plain relay");
    relay.kill();
}

/// The same for Debezium.
pub async fn latency_of_peer(pool: &PgPool, brokers: String, figures: &mut Figures) {
    let topic = "steady-peer".to_owned();
    topics::create(&brokers, std::slice::from_ref(&topic), 12);
    let steady = latency::measure(pool, brokers, &topic, peer::WAY, PER_SECOND, SECONDS).await;
    steady.note(figures, WORKLOAD, "Debezium");
}

/// Debezium while nothing comes.
pub async fn idle_peer(connect: &peer::Connect, figures: &mut Figures) {
    let before = crate::process::cpu_seconds(connect.pid());
    tokio::time::sleep(IDLE).await;
    let share = (crate::process::cpu_seconds(connect.pid()) - before) / IDLE.as_secs_f64();
    figures.note(WORKLOAD, "Debezium, idle", "% of a core", share * 100.0);
}

/// Single rows, none at all, and the WAL of few.
pub async fn little(ground: &Ground, database: &str, pool: &PgPool, figures: &mut Figures) {
    let (url, brokers) = (ground.postgres.url(database), ground.kafka.brokers());
    // A fresh one: what the ones before have needed at full speed is no matter of an idle one.
    let relay = Relay::start(&url, brokers.clone());
    idle(ground, database, &relay, figures).await;
    figures.note(WORKLOAD, "relay, peak memory when idle", "MB", relay.peak_megabytes());
    let rows = setting("OUTBOX_RELAY_BENCH_SPORADIC", 2);
    if rows > 0 {
        let silence = Duration::from_secs(setting("OUTBOX_RELAY_BENCH_SILENCE", 60));
        let sporadic = latency::sporadic(pool, brokers, "steady", rows, silence).await;
        let name = format!(
            "relay, the slowest of {rows} single rows, each after {} s of silence",
            silence.as_secs()
        );
        figures.note(WORKLOAD, &name, "ms", sporadic.slowest);
    }
    drop(relay);
    wal(ground, figures).await;
}

/// More than single rows: `outbox-relay bench` writes at these rates, 50 rows a transaction, and starts a relay of its own.
pub async fn loads(ground: &Ground, database: &str, figures: &mut Figures) {
    for rate in ["1000", "5000", "20000"] {
        let arguments = [
            "bench",
            "--yes",
            "--step",
            "20s",
            "--per-transaction",
            "50",
            "--max-rows",
            "10000000",
            "-o",
            "json",
        ];
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command.args(arguments).args(["--from-rate", rate, "--to-rate", rate]);
        command
            .env("DATABASE_URL", ground.postgres.url(database))
            .env("KAFKA_BROKERS", ground.kafka.brokers());
        let output = command.output().await.expect("outbox-relay bench starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
        let step = &document["steps"][0];
        let name = format!("relay at {rate} rows/s");
        for (field, share) in [("p50_ms", "p50"), ("p95_ms", "p95"), ("p99_ms", "p99"), ("p999_ms", "p99.9")]
        {
            let ms = step[field].as_f64().unwrap_or(f64::NAN);
            figures.note("steady load, 50 rows a transaction", &format!("{name}, {share}"), "ms", ms);
        }
        let arrived = step["delivered_rate"].as_f64().unwrap_or(f64::NAN);
        figures.note("steady load, 50 rows a transaction", &format!("{name}, arrived"), "rows/s", arrived);
    }
}

/// Nothing comes for a while.
async fn idle(ground: &Ground, database: &str, relay: &Relay, figures: &mut Figures) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pid = ground.postgres.pid().expect("it runs");
    let (before, postgres) = (polls(ground, database).await, tree_cpu_seconds(pid));
    let share = relay.cpu_share(IDLE).await;
    let postgres = (tree_cpu_seconds(pid) - postgres) / IDLE.as_secs_f64();
    figures.note(WORKLOAD, "relay, idle", "% of a core", share * 100.0);
    figures.note(WORKLOAD, "Postgres beside an idle relay", "% of a core", postgres * 100.0);
    note_polls(before, polls(ground, database).await, figures, WORKLOAD, "relay, a poll when idle");
}

/// WAL in a database of its own: of marks and cleaning in bulk, and of marks at 200 rows a second. (A slot of four hours that is
/// emptied is nothing beside its rows.)
async fn wal(ground: &Ground, figures: &mut Figures) {
    const DATABASE: &str = "wal";
    crate::prepare(&ground.postgres, DATABASE).await;
    let url = ground.postgres.url(DATABASE);
    let pool = PgPool::connect(&url).await.expect("connect");
    let bulk = setting("OUTBOX_RELAY_BENCH_ROWS", 1_000_000).min(200_000);
    BAR.fill(&pool, &BAR.outbox_insert(), &["steady".to_owned()], bulk).await;
    let before = position(&pool).await;
    let relay = Relay::start_with(&url, ground.kafka.brokers(), &SHORT);
    empty(&pool).await;
    figures.note(
        WORKLOAD,
        "relay, WAL of marks and cleaning in bulk",
        "B/row",
        since(&pool, before).await / bulk as f64,
    );
    drop(relay);
    let Some((before, calls_before)) = settlements(ground, DATABASE).await else { return };
    let rows = PER_SECOND * SECONDS;
    let relay = Relay::start(&url, ground.kafka.brokers());
    let mut every = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
    for _ in 0..rows {
        every.tick().await;
        sqlx::query(OUTBOX.insert).bind("steady").bind(vec![b'x'; 240]).execute(&pool).await.expect("insert");
    }
    // The last mark comes a moment after the last row.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(relay);
    let (after, calls) = settlements(ground, DATABASE).await.expect("they are counted");
    let written = after - before + COMMIT_RECORD * (calls - calls_before);
    figures.note(WORKLOAD, "relay, WAL of marks at 200 rows/s", "B/row", written / rows as f64);
}

/// Bytes of a commit's record, which is written behind the statement and not counted as its.
const COMMIT_RECORD: f64 = 46.0;

/// WAL that settlements have written in a database so far, in bytes, and their number; `None`: nobody counts. A difference of positions,
/// less what the same inserts write without a relay, was rejected: one page more that is logged as a whole is 2 B a row.
async fn settlements(ground: &Ground, database: &str) -> Option<(f64, f64)> {
    let counted = "select coalesce(sum(s.wal_bytes), 0)::float8, coalesce(sum(s.calls), 0)::float8
                     from pg_stat_statements s join pg_database d on d.oid = s.dbid
                    where d.datname = $1 and s.query like '%outbox.settle(%'";
    count(ground, counted, database).await
}

/// Everything was published, swept and emptied.
async fn empty(pool: &PgPool) {
    let is_empty = "select not exists (select from outbox.message)";
    let deadline = std::time::Instant::now() + Duration::from_secs(300);
    while !sqlx::query_scalar::<_, bool>(is_empty).fetch_one(pool).await.expect("a boolean") {
        assert!(std::time::Instant::now() < deadline, "all slots are emptied");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn position(pool: &PgPool) -> String {
    sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(pool).await.expect("a position")
}

async fn since(pool: &PgPool, before: String) -> f64 {
    let since = "select (pg_current_wal_insert_lsn() - $1::pg_lsn)::float8";
    sqlx::query_scalar(since).bind(before).fetch_one(pool).await.expect("a difference")
}

/// Executions of the relay's poll in a database so far, and the buffers that they have touched; `None`: nobody counts.
pub async fn polls(ground: &Ground, database: &str) -> Option<(f64, f64)> {
    let counted = "select coalesce(sum(s.calls), 0)::float8, coalesce(sum(s.shared_blks_hit + s.shared_blks_read), 0)::float8
                     from pg_stat_statements s join pg_database d on d.oid = s.dbid
                    where d.datname = $1 and s.query like '%with facts as materialized%'";
    count(ground, counted, database).await
}

async fn count(ground: &Ground, counted: &str, database: &str) -> Option<(f64, f64)> {
    if !crate::counts_statements() {
        return None;
    }
    let mut admin = PgConnection::connect(&ground.postgres.url("postgres")).await.expect("connect");
    let extension = "create extension if not exists pg_stat_statements";
    sqlx::query(extension).execute(&mut admin).await.expect("Postgres' contrib modules are installed");
    Some(sqlx::query_as(counted).bind(database).fetch_one(&mut admin).await.expect("two numbers"))
}

/// Buffers of a poll between two looks.
pub fn note_polls(
    before: Option<(f64, f64)>,
    after: Option<(f64, f64)>,
    figures: &mut Figures,
    workload: &str,
    name: &str,
) {
    if let Some(((calls, buffers), (calls_after, buffers_after))) = before.zip(after) {
        let each = (buffers_after - buffers) / (calls_after - calls).max(1.0);
        figures.note(workload, name, "buffers", each);
    }
}
