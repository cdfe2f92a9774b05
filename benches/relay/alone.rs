//! librdkafka alone: the same records, idempotent, no database; with the relay's three headers or with none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::drain::Drained;
use crate::process::cpu_seconds;
use crate::workload::{Keys, TRACEPARENT, Workload};

#[derive(Default)]
struct Count(AtomicU64);

impl ClientContext for Count {}

impl ProducerContext for Count {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, _: usize) {
        assert!(delivery.is_ok(), "every record is confirmed");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends `rows` records; the time runs until the last confirm.
pub fn run(brokers: &str, topics: &[String], workload: &Workload, rows: u64, headers: bool) -> Drained {
    let producer: BaseProducer<Count> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("compression.type", workload.compression.unwrap_or("none"))
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "2097151")
        .create_with_context(Count::default())
        .expect("a producer");
    for topic in topics {
        producer.client().fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
    }
    let producer = Arc::new(producer);
    let polled = Arc::clone(&producer);
    let poller = std::thread::spawn(move || {
        while polled.context().0.load(Ordering::Relaxed) < rows {
            polled.poll(Duration::from_millis(50));
        }
    });
    let (mut key, mut payload, mut seq) = (String::new(), String::new(), String::new());
    let pid = std::process::id();
    let (cpu, started) = (cpu_seconds(pid), Instant::now());
    workload.payload(0, &mut payload);
    for n in 0..rows {
        workload.key(n, &mut key);
        // Making payloads is no part of sending them; where they are compressed they have to differ.
        if workload.compression.is_some() {
            workload.payload(n, &mut payload);
        }
        let topic = &topics[n as usize % topics.len()];
        let mut record = BaseRecord::<str, str, usize>::with_opaque_to(topic, 0).payload(payload.as_str());
        if workload.keys != Keys::None {
            record = record.key(key.as_str());
        }
        if headers {
            seq.clear();
            std::fmt::Write::write_fmt(&mut seq, format_args!("{n}")).expect("a string takes it");
            record = record.headers(
                OwnedHeaders::new_with_capacity(3)
                    .insert(Header { key: "event-id", value: Some("5f0c3c5e-9a5a-4d0b-9f1c-1a2b3c4d5e6f") })
                    .insert(Header { key: "outbox-seq", value: Some(&seq) })
                    .insert(Header { key: "traceparent", value: Some(TRACEPARENT) }),
            );
        }
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }
    poller.join().expect("no panic");
    Drained {
        rows_per_second: rows as f64 / started.elapsed().as_secs_f64(),
        cpu_seconds_per_million: (cpu_seconds(pid) - cpu) / rows as f64 * 1e6,
    }
}
