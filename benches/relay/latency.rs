//! Commit to consumer: from the moment a commit returned to the moment a consumer has the record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use sqlx::PgPool;
use uuid::Uuid;

/// Milliseconds at some shares of the rows.
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    /// Of the insert with its commit, as the producer sees it.
    pub insert_p99: f64,
}

/// Commits `per_second` rows a second for `seconds` seconds, each in a transaction of its own.
pub async fn measure(pool: &PgPool, brokers: String, topic: &str, per_second: u64, seconds: u64) -> Latency {
    let rows = per_second * seconds;
    let committed = Arc::new(Mutex::new(HashMap::new()));
    let of_topic = topic.to_owned();
    let consumer = std::thread::spawn(move || consume(&brokers, &of_topic, rows as usize));
    let mut inserts = Vec::new();
    let mut every = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
    let mut connection = pool.acquire().await.expect("a connection");
    for _ in 0..rows {
        every.tick().await;
        let began = Instant::now();
        let id: Uuid = sqlx::query_scalar(
            "insert into outbox.message (topic, key, payload) values ($1, 'k', $2) returning event_id",
        )
        .bind(topic)
        .bind(vec![b'x'; 240])
        .fetch_one(&mut *connection)
        .await
        .expect("insert");
        committed.lock().expect("no panic").insert(id, Instant::now());
        inserts.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let arrived = tokio::task::spawn_blocking(|| consumer.join()).await.expect("no panic").expect("no panic");
    let committed = committed.lock().expect("no panic");
    // The first second warms caches and connections up.
    let skipped = per_second as usize;
    let mut times: Vec<f64> = arrived
        .iter()
        .skip(skipped)
        .map(|(id, at)| at.saturating_duration_since(committed[id]).as_secs_f64() * 1e3)
        .collect();
    inserts.drain(..skipped);
    let at = |times: &mut Vec<f64>, share: f64| {
        times.sort_by(f64::total_cmp);
        times[((times.len() - 1) as f64 * share) as usize]
    };
    Latency {
        p50: at(&mut times, 0.50),
        p95: at(&mut times, 0.95),
        p99: at(&mut times, 0.99),
        insert_p99: at(&mut inserts, 0.99),
    }
}

fn consume(brokers: &str, topic: &str, rows: usize) -> Vec<(Uuid, Instant)> {
    use rdkafka::message::Headers;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    (0..12).for_each(|p| partitions.add_partition_offset(topic, p, Offset::Beginning).expect("an offset"));
    consumer.assign(&partitions).expect("assign");
    let mut arrived = Vec::with_capacity(rows);
    let deadline = Instant::now() + Duration::from_secs(120);
    while arrived.len() < rows {
        assert!(Instant::now() < deadline, "every row arrives");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a record");
        let at = Instant::now();
        let header = message.headers().and_then(|h| h.iter().find(|h| h.key == "event-id"));
        let id =
            header.and_then(|h| h.value).and_then(|v| Uuid::try_parse_ascii(v).ok()).expect("an event id");
        arrived.push((id, at));
    }
    arrived
}
