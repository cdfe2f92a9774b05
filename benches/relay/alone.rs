//! librdkafka alone: the same records with the same three headers, idempotent, no database.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::report::Figures;

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
pub fn run(brokers: String, topic: &str, rows: u64) -> Figures {
    let producer: BaseProducer<Count> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "200000")
        .set("queue.buffering.max.kbytes", "2097151")
        .create_with_context(Count::default())
        .expect("a producer");
    producer.client().fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
    let producer = Arc::new(producer);
    let polled = Arc::clone(&producer);
    let poller = std::thread::spawn(move || {
        while polled.context_count() < rows {
            polled.poll(Duration::from_millis(50));
        }
    });
    let payload = {
        let mut text = String::from("{\"order\": 123456, \"items\": \"");
        text.extend(std::iter::repeat_n('x', 238 - text.len()));
        text + "\"}"
    };
    let (cpu, started) = (cpu_seconds(), Instant::now());
    for n in 0..rows {
        let key = format!("customer-{}", n % 10_000);
        let seq = n.to_string();
        let mut record = BaseRecord::with_opaque_to(topic, 0).key(&key).payload(&payload).headers(
            OwnedHeaders::new_with_capacity(3)
                .insert(Header { key: "event-id", value: Some("5f0c3c5e-9a5a-4d0b-9f1c-1a2b3c4d5e6f") })
                .insert(Header { key: "outbox-seq", value: Some(&seq) })
                .insert(Header {
                    key: "traceparent",
                    value: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                }),
        );
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
    let seconds = started.elapsed().as_secs_f64();
    Figures {
        rows_per_second: rows as f64 / seconds,
        cpu_seconds_per_million: (cpu_seconds() - cpu) / rows as f64 * 1e6,
        peak_megabytes: 0.0,
    }
}

trait Counted {
    fn context_count(&self) -> u64;
}

impl Counted for BaseProducer<Count> {
    fn context_count(&self) -> u64 {
        self.context().0.load(Ordering::Relaxed)
    }
}

fn cpu_seconds() -> f64 {
    crate::relay_process::cpu_seconds(std::process::id())
}
