//! Producer configuration: which properties carry a promise, and their values.
//!
//! The user's own properties come last but cannot reach these: configuration refuses them (`config`), unless they are
//! named in `kafka.unsafe`.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// What all clients are made from.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// The user's librdkafka properties.
    pub properties: Vec<(String, String)>,
    /// Rows in the window; librdkafka's own queue is kept well above it, so that a full queue is an alarm.
    pub window_rows: usize,
    /// Largest payload handed over, in bytes.
    pub max_row_bytes: usize,
    /// How long a row of an at-most-once topic is tried.
    pub stall_after: Duration,
}

/// `batch.size` while no topic in use asks for less: just below the brokers' usual `max.message.bytes` of 1048588.
const BATCH_SIZE: usize = 1_000_000;

/// A topic with a lower limit does not lower `batch.size` for all others; its rows go alone.
pub const SMALLEST_BATCH_SIZE: usize = 64 * 1024;

/// How often librdkafka tells its statistics.
pub(super) const STATISTICS_EVERY: Duration = Duration::from_secs(1);

/// librdkafka backs off for five minutes at most.
const ONCE_TIMEOUT_MAX_MS: u128 = 150_000;

/// How long a row that goes alone is tried before it is put off again, in milliseconds.
const ALONE_TIMEOUT_MS: &str = "10000";

impl KafkaSettings {
    /// The properties that librdkafka does not know or whose values it does not take, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let refused = |(name, value): &(String, String)| {
            let error = ClientConfig::new().set(name, value).create_native_config().err()?;
            // librdkafka's sentence may repeat the value, which may be a secret.
            let reason = error.to_string();
            let known = if reason.contains("No such configuration property") {
                "unknown to librdkafka"
            } else {
                "not a value that librdkafka takes"
            };
            Some(format!("kafka.properties.{name}: {known}; see librdkafka's CONFIGURATION.md"))
        };
        self.properties.iter().filter_map(refused).collect()
    }

    /// The largest batch: the user's `batch.size`, or the default.
    pub fn batch_size(&self) -> usize {
        let own = self.properties.iter().find(|(name, _)| name == "batch.size");
        own.and_then(|(_, value)| value.parse().ok()).unwrap_or(BATCH_SIZE)
    }

    /// Whether the user switched compression on, for all topics alike.
    pub fn compresses(&self) -> bool {
        self.properties.iter().any(|(name, value)| {
            matches!(name.as_str(), "compression.type" | "compression.codec") && value != "none"
        })
    }

    /// The main producer: pipelined, and dead at the first gap, so that no later record of a key passes a refused one.
    pub(super) fn main(&self, batch_size: usize) -> ClientConfig {
        let mut config = self.producer();
        config
            .set("enable.gapless.guarantee", "true")
            // Endless: an outage costs latency, not attempts, and a time-out would be a gap.
            .set("message.timeout.ms", "0");
        let mut config = self.with_properties(config);
        config.set("batch.size", batch_size.to_string());
        config
    }

    /// The second producer, for rows known to be suspect: each in a protocol batch of its own.
    pub(super) fn alone(&self) -> ClientConfig {
        let mut config = self.with_properties(self.producer());
        config
            .set("batch.num.messages", "1")
            .set("message.timeout.ms", ALONE_TIMEOUT_MS)
            .set("linger.ms", "0");
        config
    }

    /// The third producer, for at-most-once topics: a record is sent to a broker at most once. `retries=0` is not enough for
    /// that. A broker that loses its leadership while a record waits for its replicas says so, and librdkafka takes that for
    /// "not written" and sends the record again without counting it as a retry [seen in a rolling restart]. So what would be sent
    /// again has to wait for longer than it may live. An idempotent producer is no way out: it numbers records anew after some
    /// errors, and those that had been written are written again [seen, gapless or not, when answers got lost and when a
    /// broker died].
    ///
    /// One request is under way at a time. A broker answers a connection's requests one after the other; while one waits for
    /// a dead replica, those behind it lie unread in the broker's socket. Given up here and followed by others on a new
    /// connection, they were written after them: a key's records in the wrong order [seen when a broker died].
    /// The user's properties cannot change any of that.
    pub(super) fn once(&self) -> ClientConfig {
        let mut config = self.with_properties(self.producer());
        let timeout_ms = self.stall_after.as_millis().min(ONCE_TIMEOUT_MAX_MS);
        // Twice as long, because librdkafka shortens it by up to a fifth at random.
        let backoff_ms = (2 * timeout_ms).to_string();
        // Other names of what follows; which of the two librdkafka takes would be chance.
        for alias in ["message.send.max.retries", "max.in.flight", "delivery.timeout.ms"] {
            config.remove(alias);
        }
        config
            .set("enable.idempotence", "false")
            .set("retries", "0")
            .set("max.in.flight.requests.per.connection", "1")
            .set("message.timeout.ms", timeout_ms.to_string())
            .set("retry.backoff.ms", &backoff_ms)
            .set("retry.backoff.max.ms", &backoff_ms);
        config
    }

    /// What `check` asks with: a main producer that tells soon whether it has its id, and why a connection has ended.
    pub(super) fn examiner(&self) -> ClientConfig {
        let mut config = self.main(self.batch_size());
        config.set("statistics.interval.ms", "100");
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// A producer whose records every broker refuses, after it has looked at the rights on their topic; see `examine`. The
    /// user's properties cannot change that.
    pub(super) fn probe(&self) -> ClientConfig {
        let mut config = self.with_properties(self.producer());
        for alias in ["request.required.acks", "message.send.max.retries", "delivery.timeout.ms"] {
            config.remove(alias);
        }
        config
            .set("enable.idempotence", "false")
            .set("acks", "2")
            .set("retries", "0")
            .set("linger.ms", "0")
            .set("message.timeout.ms", ALONE_TIMEOUT_MS);
        config
    }

    /// Metadata and topic configuration.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = self.shared();
        config.set("allow.auto.create.topics", "false");
        self.with_properties(config)
    }

    fn producer(&self) -> ClientConfig {
        let mut config = self.shared();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // The same partition for a key as Java clients and Debezium choose.
            .set("partitioner", "murmur2_random")
            .set("allow.auto.create.topics", "false")
            // Batches form by themselves while five requests are in flight; a wait would only add latency. Waiting 50 ms while a
            // backlog is there, and flushing at its end, drained it 2 % faster and cost the relay 12 % more CPU [measured, rejected].
            .set("linger.ms", "0")
            .set("queue.buffering.max.messages", (2 * self.window_rows).max(100_000).to_string())
            .set("queue.buffering.max.kbytes", "2097151")
            // Sizes are judged by us, against the topic's own limit.
            .set("message.max.bytes", (64 * 1024 * 1024 + self.max_row_bytes).min(1_000_000_000).to_string())
            .set("retry.backoff.ms", "100")
            .set("retry.backoff.max.ms", "1000")
            // How long a topic that metadata does not know may still appear.
            .set("topic.metadata.propagation.max.ms", "2000")
            // Tells when the producer has its id, and which brokers are up.
            .set("statistics.interval.ms", STATISTICS_EVERY.as_millis().to_string());
        config
    }

    fn shared(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "outbox-relay")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.timeout.ms", "15000")
            .set("socket.connection.setup.timeout.ms", "10000")
            .set("socket.keepalive.enable", "true");
        config
    }

    fn with_properties(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::producer::BaseProducer;

    use super::*;

    fn settings(properties: &[(&str, &str)]) -> KafkaSettings {
        KafkaSettings {
            brokers: "127.0.0.1:1".to_owned(),
            properties: properties.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            window_rows: 50_000,
            max_row_bytes: 1024 * 1024,
            stall_after: Duration::from_secs(10),
        }
    }

    #[test]
    fn compression_tls_and_sasl_are_compiled_in() {
        for compression in ["gzip", "snappy", "lz4", "zstd"] {
            let config = settings(&[("compression.type", compression)]).main(1_000_000);
            assert!(config.create::<BaseProducer>().is_ok(), "{compression}");
        }
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let config = settings(&[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanism", mechanism),
                ("sasl.username", "relay"),
                ("sasl.password", "secret"),
            ])
            .main(1_000_000);
            assert!(config.create::<BaseProducer>().is_ok(), "{mechanism}");
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_named_without_its_value() {
        let problems = settings(&[("linger.ms", "5"), ("no.such", "1"), ("acks.x", "hidden")]).problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("kafka.properties.no.such: unknown"), "{problems:?}");
        assert!(!problems.concat().contains("hidden"));
    }

    #[test]
    fn suspect_rows_travel_alone_whatever_the_user_sets() {
        let config = settings(&[("batch.num.messages", "5000"), ("batch.size", "700000")]);
        assert_eq!(config.alone().get("batch.num.messages"), Some("1"));
        assert_eq!(config.batch_size(), 700_000);
        assert_eq!(config.main(65_536).get("batch.size"), Some("65536"));
        let once = settings(&[
            ("retries", "5"),
            ("enable.idempotence", "true"),
            ("retry.backoff.ms", "1"),
            ("max.in.flight", "5"),
        ])
        .once();
        assert_eq!((once.get("retries"), once.get("enable.idempotence")), (Some("0"), Some("false")));
        assert_eq!(
            (once.get("max.in.flight.requests.per.connection"), once.get("max.in.flight")),
            (Some("1"), None)
        );
        assert_eq!(once.get("message.timeout.ms"), Some("10000"));
        assert_eq!(once.get("retry.backoff.ms"), Some("20000"), "longer than a record lives");
        assert_eq!(once.get("retry.backoff.max.ms"), Some("20000"));
        assert!(once.create::<BaseProducer>().is_ok());
        assert!(!config.compresses());
        assert!(settings(&[("compression.type", "lz4")]).compresses());
    }
}
