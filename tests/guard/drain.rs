//! A database with rows, a relay that publishes them, and what that cost.

use std::process::Stdio;
use std::time::{Duration, Instant};

use outbox_relay::servers::process::{BoundCommand, Process, Signal};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

use crate::{Ground, callgrind};

/// Under callgrind a relay is fifty times slower than without.
const DEADLINE: Duration = Duration::from_secs(300);
/// Rows of one page; backlogs are multiples of it.
const PAGE: i64 = 1_000;

/// How `poll.sql` and `settle.sql` begin, behind their heads.
const READS: &str = "%with facts as materialized%";
const MARKS: &str = "%select outbox.settle(%";

/// What a relay's life cost, from its start to its end.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Instructions of the relay's thread.
    pub relay: f64,
    /// Instructions of all other threads.
    pub client: f64,
    /// Buffers that Postgres touched to read pages.
    pub read: f64,
    /// And to write settlements.
    pub marked: f64,
    /// Bytes of WAL.
    pub wal: f64,
}

/// A backlog of so many rows of 240 bytes with ten thousand keys and a header, drained under callgrind.
pub async fn backlog(ground: &Ground, name: &str, rows: i64) -> Cost {
    let pool = prepare(ground, name).await;
    let written = sqlx::query(INSERT).bind(name).bind(rows).execute(&pool).await.expect("insert");
    assert_eq!(written.rows_affected(), rows as u64);
    // So that nobody has to write hint bits on the way.
    sqlx::query("vacuum (freeze) outbox.message").execute(&pool).await.expect("vacuum");
    let directory = tempfile::tempdir().expect("a directory");
    let wal = wal(&pool).await;
    let relay = start(ground, name, callgrind::relay(directory.path()));
    until_passed(&pool, &relay).await;
    let wal = wal_since(&pool, wal).await;
    end(&relay).await;
    let (ours, others) = callgrind::counts(directory.path(), &relay);
    let (read, marked) = (buffers(ground, name, READS).await, buffers(ground, name, MARKS).await);
    assert!(read > 0.0 && marked > 0.0, "the statements are found by their text");
    Cost { relay: ours, client: others, read, marked, wal }
}

/// Bytes of WAL for each of so many rows that come at 200 a second, beyond what their inserts alone write.
pub async fn trickle(ground: &Ground, name: &str, rows: i64) -> f64 {
    let pool = prepare(ground, name).await;
    let relay = BoundCommand::new(env!("CARGO_BIN_EXE_outbox-relay"), "KILL", None);
    let relay = start_run(ground, name, relay);
    until_leading(&pool, &relay).await;
    let began = wal(&pool).await;
    one_by_one(&pool, name, rows, Duration::from_millis(5)).await;
    until_passed(&pool, &relay).await;
    let both = wal_since(&pool, began).await;
    end(&relay).await;
    let began = wal(&pool).await;
    one_by_one(&pool, name, rows, Duration::ZERO).await;
    (both - wal_since(&pool, began).await) / rows as f64
}

const INSERT: &str = "
    insert into outbox.message (topic, key, payload, headers)
    select $1, convert_to('customer-' || n % 10000, 'UTF8'), convert_to(rpad(n::text, 240, 'x'), 'UTF8'),
           '{\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}'
      from generate_series(1, $2) n";

async fn one_by_one(pool: &PgPool, name: &str, rows: i64, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_nanos(1)));
    for _ in 0..rows {
        if !every.is_zero() {
            ticks.tick().await;
        }
        sqlx::query(INSERT).bind(name).bind(1_i64).execute(pool).await.expect("insert");
    }
}

async fn prepare(ground: &Ground, name: &str) -> PgPool {
    let admin = PgPool::connect(&ground.postgres.url("postgres")).await.expect("connect");
    sqlx::query(&format!("create database {name}")).execute(&admin).await.expect("create the database");
    let url = ground.postgres.url(name);
    let migrated = std::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
        .arg("migrate")
        .env("DATABASE_URL", &url)
        .stdin(Stdio::null())
        .output()
        .expect("run migrate");
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", ground.kafka.brokers()).create().expect("a client");
    let topic = [NewTopic::new(name, 12, TopicReplication::Fixed(1))];
    for made in admin.create_topics(&topic, &AdminOptions::new()).await.expect("create topics") {
        made.expect("create a topic");
    }
    PgPoolOptions::new().max_connections(1).connect(&url).await.expect("connect")
}

fn start(ground: &Ground, name: &str, mut relay: BoundCommand) -> Process {
    relay.command().env("OUTBOX_RELAY__RELAY__PAGE_ROWS", PAGE.to_string());
    spawn(ground, name, relay)
}

fn start_run(ground: &Ground, name: &str, mut relay: BoundCommand) -> Process {
    relay.command().arg("run");
    spawn(ground, name, relay)
}

fn spawn(ground: &Ground, name: &str, mut relay: BoundCommand) -> Process {
    relay
        .command()
        .env("DATABASE_URL", ground.postgres.url(name))
        .env("KAFKA_BROKERS", ground.kafka.brokers())
        .env("OUTBOX_RELAY__HTTP__LISTEN", "127.0.0.1:0")
        .env("OUTBOX_RELAY__LOG__LEVEL", "warn")
        // A slow relay is not to lose its lease, nor to take Kafka for stalled.
        .env("OUTBOX_RELAY__LEASE__TTL", "60s")
        .env("OUTBOX_RELAY__KAFKA__STALL_AFTER", "60s")
        .stdout(Stdio::null());
    relay.spawn().expect("start the relay")
}

async fn until(relay: &Process, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    let mut looks = tokio::time::interval(Duration::from_millis(250));
    while !holds().await {
        assert!(relay.exited().is_none(), "the relay ended before {what}");
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        looks.tick().await;
    }
}

async fn until_leading(pool: &PgPool, relay: &Process) {
    let leads = "select exists (select from outbox.ledger where epoch > 0)";
    until(relay, "it leads", async || sqlx::query_scalar(leads).fetch_one(pool).await.expect("a boolean"))
        .await;
}

async fn until_passed(pool: &PgPool, relay: &Process) {
    let last = sqlx::query_scalar("select max(id) from outbox.message").fetch_one(pool).await;
    let last: i64 = last.expect("rows are there");
    let high = "select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1";
    until(relay, "all rows are settled", async || {
        let high: i64 = sqlx::query_scalar(high).fetch_one(pool).await.expect("a position");
        high >= last
    })
    .await;
}

async fn end(relay: &Process) {
    relay.signal(Signal::TERM);
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let deadline = Instant::now() + DEADLINE;
    while relay.exited().is_none() {
        assert!(Instant::now() < deadline, "the relay ends");
        looks.tick().await;
    }
}

/// Buffers that all executions of a statement have touched in a database. Not those of everything: samples are taken by the clock, and
/// a slow machine takes more of them for the same rows.
async fn buffers(ground: &Ground, name: &str, statement: &str) -> f64 {
    let url = ground.postgres.url("postgres");
    let mut admin = PgConnection::connect(&url).await.expect("connect");
    let touched = "select coalesce(sum(s.shared_blks_hit + s.shared_blks_read), 0)::float8
                     from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = $1 and s.query like $2";
    sqlx::query_scalar(touched).bind(name).bind(statement).fetch_one(&mut admin).await.expect("a number")
}

async fn wal(pool: &PgPool) -> String {
    sqlx::query_scalar("select pg_current_wal_insert_lsn()::text").fetch_one(pool).await.expect("a position")
}

async fn wal_since(pool: &PgPool, before: String) -> f64 {
    let since = "select (pg_current_wal_insert_lsn() - $1::pg_lsn)::float8";
    sqlx::query_scalar(since).bind(before).fetch_one(pool).await.expect("a number")
}
