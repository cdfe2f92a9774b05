//! `make bench-failures`: what healthy rows lose while others fail, and how long a drain takes to get up to speed.
//!
//! Every measurement has a database, topics and a relay of its own; in a round each takes one turn. What is compared: rows a
//! second of the healthy rows, from the commit that makes them visible at once to their settlement.

use std::time::{Duration, Instant};

use crate::bed::{Bed, Large, NONE};
use crate::drain::Ground;
use crate::figures::Figures;
use crate::topics::set_limit;
use crate::{setting, topics};

/// A row above this is known to be too large before it is sent; such rows are a bit larger.
const MAX_ROW: &str = "4096";
/// A limit above 64 kB, so that the topic goes through the main producer, and rows above it.
const LIMIT: &str = "70000";
const ABOVE_LIMIT: usize = 80_000;

const CAREFUL: [(&str, &str); 1] = [("OUTBOX_RELAY__RELAY__MAX_ROW_BYTES", MAX_ROW)];
const COMPRESSED: [(&str, &str); 1] = [("OUTBOX_RELAY__KAFKA__PROPERTIES", "compression.type=lz4")];

/// Measures what is named, or everything, and prints a table.
pub async fn run(ground: &Ground, named: &[String]) {
    let rows = setting("OUTBOX_RELAY_BENCH_ROWS", 300_000) as i64;
    let wants = |what: &str| named.is_empty() || named.iter().any(|name| name == what);
    let mut figures = Figures::new("failures", "Healthy rows of 240 B beside others that fail");
    // The broker's JVM compiles for millions of records, and takes twice the CPU a row until then.
    let warm = setting("OUTBOX_RELAY_BENCH_WARM", 3_000_000) as i64;
    if warm > 0 {
        eprintln!("warming the broker up with {warm} rows");
        Bed::make(ground, "warm".to_owned(), &CAREFUL).await.flow(warm, NONE).await;
    }
    for round in 1..=setting("OUTBOX_RELAY_BENCH_ROUNDS", 3) {
        eprintln!("round {round}");
        let name = |what: &str| format!("{what}_{round}");
        let bed = Bed::make(ground, name("clean"), &CAREFUL).await;
        let clean = bed.flow(rows, NONE).await;
        figures.note("", "clean", "rows/s", clean);
        figures.note("", "clean, peak memory", "MB", bed.peak());
        drop(bed);
        if wants("missing") {
            missing(&Bed::make(ground, name("missing"), &CAREFUL).await, rows, clean, &mut figures).await;
        }
        if wants("known") {
            let bed = Bed::make(ground, name("known"), &CAREFUL).await;
            let known = 0.99 * bed.flow(rows, Large { every: 100, keys: 100, bytes: 5000 }).await;
            figures.note(
                "",
                "1 % of the rows on 1 % of the keys known to be too large",
                "of clean",
                known / clean,
            );
        }
        if wants("rejected") {
            rejected(ground, rows, &name, &mut figures).await;
        }
        if wants("blocked") {
            let bed = Bed::make(ground, name("blocked"), &CAREFUL).await;
            topics::create(&bed.brokers, &[name("heads").to_owned()], 1);
            bed.block(&name("heads"), 1000, 100).await;
            figures.note("", "100,000 blocked rows", "of clean", bed.flow(rows, NONE).await / clean);
        }
        if wants("outage") {
            outage(ground, rows, &name("outage"), &mut figures).await;
        }
        if wants("latency") {
            latencies(ground, &name, &mut figures).await;
        }
    }
    figures.finish();
}

/// 500,000 rows of a topic that is missing wait in its lane; then somebody makes it.
async fn missing(bed: &Bed, rows: i64, clean: f64, figures: &mut Figures) {
    let topic = format!("not-{}", bed.name);
    bed.write(&topic, setting("OUTBOX_RELAY_BENCH_MISSING", 500_000) as i64, NONE).await;
    bed.passed_all().await;
    figures.note("", "500,000 rows of a missing topic wait", "of clean", bed.flow(rows, NONE).await / clean);
    figures.note("", "500,000 rows of a missing topic wait, peak memory", "MB", bed.peak());
    let stands = format!("select high from outbox.open_lane where topic = '{topic}'");
    let high = bed.one(&stands).await;
    topics::create(&bed.brokers, &[topic.to_owned()], 12);
    let made = Instant::now();
    // Closed, it has moved as well.
    bed.until("the lane moves", &format!("select coalesce(({stands}) > {high}, true)")).await;
    figures.note(
        "",
        "the missing topic is made: its first rows are settled after",
        "s",
        made.elapsed().as_secs_f64(),
    );
    bed.until("the lane closes", "select not exists (select from outbox.open_lane)").await;
    figures.note(
        "",
        "the missing topic is made: all its rows are through after",
        "s",
        made.elapsed().as_secs_f64(),
    );
}

/// Compression is on, so a row above the limit may be fine, and only the broker can say that it is not.
async fn rejected(ground: &Ground, rows: i64, name: &impl Fn(&str) -> String, figures: &mut Figures) {
    let clean = Bed::make(ground, name("small"), &COMPRESSED).await.flow(rows, NONE).await;
    for (what, every, keys, known) in [
        ("1 % of the rows on 1 % of the keys suspected to be too large", 100, 100, true),
        ("20 keys with 100 rows that only the broker rejects", rows / 100, 20, false),
    ] {
        let large = Large { every, keys, bytes: ABOVE_LIMIT };
        let mut rates = Vec::new();
        for lowered in [false, true] {
            let mut bed = Bed::make(ground, name(&format!("rejected_{every}_{lowered}")), &COMPRESSED).await;
            if lowered {
                set_limit(&bed.brokers, &bed.name, LIMIT).await;
            }
            if known {
                // Another relay has not asked about the topic yet; this one would believe its answer for a while.
                bed.start_again(&COMPRESSED).await;
            }
            rates.push(bed.flow(rows, large).await * (1.0 - 1.0 / every as f64));
        }
        figures.note("", what, "of clean", rates[1] / clean);
        figures.note("", &format!("{what}; if the topic takes them"), "of clean", rates[0] / clean);
    }
}

/// Kafka stands still while many rows are written; then it goes on.
async fn outage(ground: &Ground, rows: i64, name: &str, figures: &mut Figures) {
    let bed = Bed::make(ground, name.to_owned(), &[("OUTBOX_RELAY__KAFKA__STALL_AFTER", "2s")]).await;
    let clean = bed.flow(rows, NONE).await;
    assert!(ground.kafka.freeze(), "the broker stands");
    bed.write(name, setting("OUTBOX_RELAY_BENCH_OUTAGE", 1_000_000) as i64, NONE).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(ground.kafka.thaw(), "the broker goes on");
    let (thawed, last) = (Instant::now(), bed.one("select max(id) from outbox.message").await);
    let mut seen = vec![(Duration::ZERO, bed.high().await)];
    while seen.last().is_none_or(|(_, high)| *high < last) {
        assert!(thawed.elapsed() < Duration::from_secs(300), "the backlog is drained");
        tokio::time::sleep(Duration::from_millis(100)).await;
        seen.push((thawed.elapsed(), bed.high().await));
    }
    // The first second in which it is as fast as before.
    let rate = |(from, to): (&(Duration, i64), &(Duration, i64))| {
        (to.1 - from.1) as f64 / (to.0 - from.0).as_secs_f64()
    };
    let reached = seen.iter().zip(seen.iter().skip(10)).find(|pair| rate(*pair) >= 0.9 * clean);
    let reached = reached.map_or(f64::INFINITY, |(from, _)| from.0.as_secs_f64());
    figures.note("", "drain of 1,000,000 rows after an outage: at 0.9 of the clean rate after", "s", reached);
    let whole = (last - seen[0].1) as f64 / seen[seen.len() - 1].0.as_secs_f64();
    figures.note("", "drain of 1,000,000 rows after an outage, as a whole", "of clean", whole / clean);
}

/// Commit to consumer at 200 rows a second, alone and beside something that goes on.
async fn latencies(ground: &Ground, name: &impl Fn(&str) -> String, figures: &mut Figures) {
    let bed = Bed::make(ground, name("quiet"), &CAREFUL).await;
    let quiet = bed.latency().await;
    figures.note("", "quiet: commit to consumer, p99", "ms", quiet.p99);
    figures.note("", "quiet: insert, p99", "ms", quiet.insert_p99);
    drop(bed);

    let bed = Bed::make(ground, name("due"), &[]).await;
    let topic = name("retried");
    topics::create(&bed.brokers, &[topic.to_owned()], 12);
    set_limit(&bed.brokers, &topic, "2000").await;
    bed.block(&topic, 500, 20).await;
    set_limit(&bed.brokers, &topic, "1048576").await;
    let all_due = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let due = "update outbox.deferred set due_at = clock_timestamp() where due_at is not null";
        sqlx::query(due).execute(&bed.pool).await.expect("they are due");
        bed.until("they have left", "select count(*) = 0 from outbox.deferred").await;
    };
    let (latency, ()) = tokio::join!(bed.latency(), all_due);
    figures.note(
        "",
        "10,000 rows due at once: commit to consumer of another topic, p99",
        "of quiet",
        latency.p99 / quiet.p99,
    );
    drop(bed);

    let short = [("OUTBOX_RELAY__RETENTION__PUBLISHED", "1s"), ("OUTBOX_RELAY__RETENTION__EVERY", "100ms")];
    let bed = Bed::make(ground, name("swept"), &short).await;
    let emptied = bed.latency().await;
    figures.note(
        "",
        "slots of a second swept and emptied: insert, p99",
        "of quiet",
        emptied.insert_p99 / quiet.insert_p99,
    );
    figures.note(
        "",
        "slots of a second swept and emptied: commit to consumer, p99",
        "of quiet",
        emptied.p99 / quiet.p99,
    );
}
