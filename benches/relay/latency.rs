//! Commit to consumer: from the moment a commit returned to the moment a consumer has the record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Message, Offset, TopicPartitionList};
use sqlx::PgPool;
use uuid::Uuid;

use crate::figures::Figures;
use crate::topics::patiently;

/// How a contender is written to, and what its records call the event id.
#[derive(Clone, Copy)]
pub struct Way {
    /// Inserts a row into topic `$1` with payload `$2`, and returns its event id.
    pub insert: &'static str,
    pub header: &'static str,
}

/// Of the relay.
pub const OUTBOX: Way = Way {
    insert: "insert into outbox.message (topic, key, payload) values ($1, 'k', $2) returning event_id",
    header: "event-id",
};
/// Of the plain relay.
pub const PLAIN: Way = Way {
    insert: "insert into public.plain_outbox (topic, key, payload) values ($1, 'k', $2) returning event_id",
    header: "event-id",
};

/// Milliseconds at some shares of the rows.
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub slowest: f64,
    /// Of the insert with its commit, as the producer sees it.
    pub insert_p99: f64,
}

impl Latency {
    pub fn note(&self, figures: &mut Figures, workload: &str, contender: &str) {
        for (share, ms) in [("p50", self.p50), ("p95", self.p95), ("p99", self.p99), ("p99.9", self.p999)] {
            figures.note(workload, &format!("{contender}, {share}"), "ms", ms);
        }
    }
}

/// Commits `per_second` rows a second for `seconds` seconds, each in a transaction of its own.
pub async fn measure(
    pool: &PgPool,
    brokers: String,
    topic: &str,
    way: Way,
    per_second: u64,
    seconds: u64,
) -> Latency {
    let rows = per_second * seconds;
    // The first second warms caches and connections up.
    let every = Duration::from_micros(1_000_000 / per_second);
    commits(pool, brokers, topic, way, (rows, per_second), every).await
}

/// So many single rows, each after a silence.
pub async fn sporadic(pool: &PgPool, brokers: String, topic: &str, rows: u64, silence: Duration) -> Latency {
    tokio::time::sleep(silence).await;
    commits(pool, brokers, topic, OUTBOX, (rows, 0), silence).await
}

async fn commits(
    pool: &PgPool,
    brokers: String,
    topic: &str,
    way: Way,
    (rows, skipped): (u64, u64),
    every: Duration,
) -> Latency {
    let committed = Arc::new(Mutex::new(HashMap::new()));
    let (of_topic, whole) = (topic.to_owned(), every * rows as u32);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let consumer =
        std::thread::spawn(move || consume(&brokers, &of_topic, way.header, rows as usize, whole, ready));
    is_ready.await.expect("the consumer has found the topic's end");
    let mut inserts = Vec::new();
    let mut every = tokio::time::interval(every);
    let mut connection = pool.acquire().await.expect("a connection");
    for _ in 0..rows {
        every.tick().await;
        let began = Instant::now();
        let query = sqlx::query_scalar(way.insert).bind(topic).bind(vec![b'x'; 240]);
        let id: Uuid = query.fetch_one(&mut *connection).await.expect("insert");
        committed.lock().expect("no panic").insert(id, Instant::now());
        inserts.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let arrived = tokio::task::spawn_blocking(|| consumer.join()).await.expect("no panic").expect("no panic");
    let committed = committed.lock().expect("no panic");
    let mut times: Vec<f64> = arrived
        .iter()
        .filter_map(|(id, at)| Some(at.saturating_duration_since(*committed.get(id)?).as_secs_f64() * 1e3))
        .skip(skipped as usize)
        .collect();
    inserts.drain(..skipped as usize);
    let at = |times: &mut Vec<f64>, share: f64| {
        times.sort_by(f64::total_cmp);
        times[((times.len() - 1) as f64 * share) as usize]
    };
    Latency {
        p50: at(&mut times, 0.50),
        p95: at(&mut times, 0.95),
        p99: at(&mut times, 0.99),
        p999: at(&mut times, 0.999),
        slowest: at(&mut times, 1.0),
        insert_p99: at(&mut inserts, 0.99),
    }
}

/// Reads a topic of twelve partitions from its end on: what was there before belongs to somebody else.
fn consume(
    brokers: &str,
    topic: &str,
    header: &str,
    rows: usize,
    lasting: Duration,
    ready: tokio::sync::oneshot::Sender<()>,
) -> Vec<(Uuid, Instant)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..12 {
        let (_, end) = patiently(|| consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)));
        partitions.add_partition_offset(topic, partition, Offset::Offset(end)).expect("an offset");
    }
    consumer.assign(&partitions).expect("assign");
    ready.send(()).expect("somebody waits");
    let mut arrived = Vec::with_capacity(rows);
    let deadline = Instant::now() + lasting + Duration::from_secs(120);
    while arrived.len() < rows {
        assert!(Instant::now() < deadline, "every row arrives");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a record");
        let at = Instant::now();
        let found = message.headers().and_then(|headers| headers.iter().find(|one| one.key == header));
        let id = found.and_then(|one| one.value).and_then(|value| Uuid::try_parse_ascii(value).ok());
        arrived.push((id.expect("an event id"), at));
    }
    arrived
}
