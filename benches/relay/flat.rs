//! `make bench-flat`: whether the last row costs what the first did. By hand: it takes an hour and 12 GB at its full sizes.
//!
//! Sizes by variable: `OUTBOX_RELAY_BENCH_BACKLOG` (10000000), `_SNAPSHOT` (2000000), `_PUBLISHED` (0: what the backlog left),
//! `_FLOOD` (1000000). Parts by name: backlog snapshot writers flood.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool};

use crate::bed::{Bed, NONE};
use crate::drain::Ground;
use crate::figures::Figures;
use crate::relay_process::Relay;
use crate::topics::Ends;
use crate::workload::BAR;
use crate::{latency, prepare, setting, steady, topics};

/// Of a row with its indexes, its record and its share of the ledger.
const BYTES_A_ROW: u64 = 1200;
const DAY: (&str, &str) = ("OUTBOX_RELAY__RETENTION__PUBLISHED", "1d");

/// Measures what is named, or everything.
pub async fn run(ground: &Ground, named: &[String]) {
    let wants = |what: &str| named.is_empty() || named.iter().any(|name| name == what);
    let mut figures = Figures::new("flat", "What does not depend on how much there is");
    if wants("backlog") {
        backlog(ground, &mut figures).await;
    }
    if wants("snapshot") {
        snapshot(ground, &mut figures).await;
    }
    if wants("writers") {
        writers(ground, &mut figures).await;
    }
    if wants("flood") {
        flood(ground, &mut figures).await;
    }
    figures.finish();
}

/// Bytes free where Postgres keeps its data.
fn free_bytes(ground: &Ground) -> u64 {
    let mut df = std::process::Command::new("df");
    let output = df.args(["-Pk"]).arg(ground.postgres.data_directory()).output().expect("df runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let kilobytes = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    kilobytes.expect("df says how much is free") * 1024
}

/// A long backlog: its last million beside its first, memory, a restart in the middle, and polls afterwards.
async fn backlog(ground: &Ground, figures: &mut Figures) {
    let rows = setting("OUTBOX_RELAY_BENCH_BACKLOG", 10_000_000);
    let (needed, free) = (rows * BYTES_A_ROW, free_bytes(ground));
    assert!(
        free >= needed,
        "a backlog of {rows} rows needs {} GB, {} GB are free in {}: set OUTBOX_RELAY_BENCH_BACKLOG",
        needed >> 30,
        free >> 30,
        ground.postgres.data_directory().display()
    );
    let workload = format!("a backlog of {rows} rows");
    prepare(&ground.postgres, "flat").await;
    let url = ground.postgres.url("flat");
    let pool = PgPool::connect(&url).await.expect("connect");
    // Two topics in turns: neither fills the pages alone, so neither is read in a lane as a flood.
    let names = ["flat-0".to_owned(), "flat-1".to_owned()];
    topics::create(&ground.kafka.brokers(), &names, 12);
    let two = crate::workload::Workload { topics: 2, ..BAR };
    eprintln!("writing {rows} rows");
    two.fill(&pool, &two.outbox_insert(), &names, rows).await;
    let ends = Ends::of(&ground.kafka.brokers(), &names, 12);
    let relay = Relay::start_with(&url, ground.kafka.brokers(), &[DAY]);
    // A part at the beginning warms everything up; then it is started anew.
    until(&ends, rows / 20).await;
    drop(relay);
    let before = records(&ends);
    let started = Instant::now();
    let relay = Relay::start_with(&url, ground.kafka.brokers(), &[DAY]);
    until(&ends, before + 1).await;
    figures.note(
        &workload,
        "relay, first record after a restart",
        "ms",
        started.elapsed().as_secs_f64() * 1e3,
    );
    // Millions by time.
    let slice = (rows / 10).max(1);
    let mut seen = Vec::new();
    let mut memory = 0.0;
    loop {
        let count = records(&ends);
        seen.push((Instant::now(), count));
        if memory == 0.0 && count > rows / 4 {
            memory = relay.peak_megabytes();
        }
        if count >= rows {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let first = rate(&seen, before, before + slice);
    let last = rate(&seen, rows - slice, rows);
    figures.note(&workload, "relay, the first tenth", "rows/s", first);
    figures.note(&workload, "relay, the last tenth", "rows/s", last);
    figures.note(&workload, "relay, the last tenth", "of the first", last / first);
    figures.note(&workload, "relay, peak memory after a quarter", "MB", memory);
    figures.note(&workload, "relay, peak memory at the end", "MB", relay.peak_megabytes());
    let more = setting("OUTBOX_RELAY_BENCH_PUBLISHED", 0);
    let (mut published, chunk) = (rows, 1_000_000);
    while published < more {
        two.fill(&pool, &two.outbox_insert(), &names, chunk).await;
        published += chunk;
        until(&ends, published).await;
    }
    let workload = format!("{published} rows published");
    polls(ground, &pool, "flat", &workload, figures).await;
}

fn records(ends: &Ends) -> u64 {
    tokio::task::block_in_place(|| ends.count())
}

async fn until(ends: &Ends, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(3600);
    while records(ends) < count {
        assert!(Instant::now() < deadline, "{count} records are there within an hour");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Rows a second between two counts.
fn rate(seen: &[(Instant, u64)], from: u64, until: u64) -> f64 {
    let first = seen.iter().find(|(_, count)| *count >= from).expect("it was passed");
    let last = seen.iter().find(|(_, count)| *count >= until).expect("it was reached");
    (last.1 - first.1) as f64 / (last.0 - first.0).as_secs_f64().max(0.001)
}

/// Buffers of a poll while nothing comes, and while a row comes at a time.
async fn polls(ground: &Ground, pool: &PgPool, database: &str, workload: &str, figures: &mut Figures) {
    for (name, rows) in [("relay, a poll when idle", 0), ("relay, a poll while single rows come", 1000)] {
        let before = steady::polls(ground, database).await;
        let mut every = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..rows {
            every.tick().await;
            let insert = "insert into outbox.message (topic, key, payload) values ('flat-0', 'k', 'x')";
            sqlx::query(insert).execute(pool).await.expect("insert");
        }
        tokio::time::sleep(Duration::from_secs(if rows == 0 { 10 } else { 0 })).await;
        steady::note_polls(before, steady::polls(ground, database).await, figures, workload, name);
    }
}

/// Somebody holds a snapshot while many rows are published.
async fn snapshot(ground: &Ground, figures: &mut Figures) {
    let rows = setting("OUTBOX_RELAY_BENCH_SNAPSHOT", 2_000_000) as i64;
    let part = rows / 4;
    let bed = Bed::make(ground, "snapshot".to_owned(), &[]).await;
    let before = bed.flow(part, NONE).await;
    let mut holder = PgConnection::connect(&bed.url).await.expect("connect");
    sqlx::raw_sql("begin isolation level repeatable read; select count(*) from outbox.lease")
        .execute(&mut holder)
        .await
        .expect("a snapshot");
    let mut held = 0.0;
    for _ in 0..4 {
        held = bed.flow(part, NONE).await;
    }
    let workload = format!("a snapshot is held while {rows} rows are published");
    figures.note(&workload, "relay, before", "rows/s", before);
    figures.note(&workload, "relay, the last quarter", "rows/s", held);
    figures.note(&workload, "relay, the last quarter", "of before", held / before);
}

/// A hundred transactions have written, and stay open.
async fn writers(ground: &Ground, figures: &mut Figures) {
    topics::create(&ground.kafka.brokers(), &["flat-0".to_owned()], 12);
    let bed = Bed::make(ground, "writers".to_owned(), &[]).await;
    polls(ground, &bed.pool, "writers", "no open writer", figures).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut writer = PgConnection::connect(&bed.url).await.expect("connect");
        let write =
            "begin; insert into outbox.message (topic, payload) values ('flat-0', 'a'), ('flat-0', 'b')";
        sqlx::raw_sql(write).execute(&mut writer).await.expect("the writer may write");
        open.push(writer);
    }
    polls(ground, &bed.pool, "writers", "100 open writers", figures).await;
}

/// The latency of a topic while the backlog of another one drains.
async fn flood(ground: &Ground, figures: &mut Figures) {
    let rows = setting("OUTBOX_RELAY_BENCH_FLOOD", 1_000_000) as i64;
    let bed = Bed::make(ground, "flood".to_owned(), &[]).await;
    let topic = "beside-a-flood".to_owned();
    topics::create(&bed.brokers, std::slice::from_ref(&topic), 12);
    let measure = async |seconds| {
        latency::measure(&bed.pool, bed.brokers.clone(), &topic, latency::OUTBOX, 200, seconds).await
    };
    let quiet = measure(20).await;
    // Written before and committed meanwhile: how long Postgres takes to write them is no matter of the relay.
    let mut writing = bed.pool.begin().await.expect("begin");
    bed.write_in(&mut *writing, &bed.name, rows, NONE).await;
    let flooding = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        writing.commit().await.expect("commit");
    };
    let (beside, ()) = tokio::join!(measure(20), flooding);
    let workload = format!("another topic's backlog of {rows} rows drains");
    quiet.note(figures, &workload, "relay before");
    beside.note(figures, &workload, "relay meanwhile");
    figures.note(&workload, "relay, p99 meanwhile", "of before", beside.p99 / quiet.p99);
}
