//! Reads one topic from its first record on, all partitions, without a consumer group.
//!
//! For whoever wants to know what is really in a topic. It commits nothing and leaves no trace in the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError as RdKafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::producer::METADATA_DEADLINE;
use super::{KafkaError, KafkaSettings, classify};

/// A record as it lies in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it lies.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The event id in its header; None when the header is missing or no uuid.
    pub event_id: Option<Uuid>,
    /// Its payload; None is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// A reader of one topic. Its methods block.
pub struct Consumer {
    native: BaseConsumer<Quiet>,
    topic: String,
    header_event_id: String,
    /// The offset after the last record read, by partition.
    next: BTreeMap<i32, i64>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Consumer {
    /// Finds the topic's partitions and begins at the start of each. Fails when no broker answers within five seconds.
    pub fn start(
        settings: &KafkaSettings,
        topic: &str,
        header_event_id: &str,
    ) -> Result<Consumer, KafkaError> {
        const WHAT: &str = "read a topic";
        let failed = |error: RdKafkaError| classify::request_error(WHAT, &error, None);
        let mut config = settings.client();
        // librdkafka demands a group name even of a reader that assigns itself its partitions.
        config.set("group.id", "outbox-relay-reader").set("enable.auto.commit", "false");
        // A record that is gone before we read it must not be passed over in silence.
        config.set("auto.offset.reset", "error").set("fetch.wait.max.ms", "50");
        let native: BaseConsumer<Quiet> = config.create_with_context(Quiet).map_err(failed)?;
        let metadata = native.fetch_metadata(Some(topic), METADATA_DEADLINE).map_err(failed)?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let next: BTreeMap<i32, i64> = partitions.map(|partition| (partition.id(), 0)).collect();
        if next.is_empty() {
            let text = format!("{topic} is not there");
            return Err(KafkaError { what: WHAT, text, class: "topic" });
        }
        let mut assignment = TopicPartitionList::new();
        for partition in next.keys() {
            assignment.add_partition_offset(topic, *partition, Offset::Beginning).map_err(failed)?;
        }
        native.assign(&assignment).map_err(failed)?;
        let (topic, header_event_id) = (topic.to_owned(), header_event_id.to_owned());
        Ok(Consumer { native, topic, header_event_id, next })
    }

    /// The next record, or None when none came `within` this time; a broker that is away counts as that.
    pub fn next(&mut self, within: Duration) -> Result<Option<Record>, KafkaError> {
        let message = match self.native.poll(within) {
            None => return Ok(None),
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                let error = classify::request_error("read a record", &error, None);
                return if error.class == "unreachable" { Ok(None) } else { Err(error) };
            }
        };
        let record = self.record(&message);
        self.next.insert(record.partition, record.offset + 1);
        Ok(Some(record))
    }

    /// The offset after the last record of each partition, as of now.
    pub fn ends(&self) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let end = |partition: &i32| {
            let marks = self.native.fetch_watermarks(&self.topic, *partition, METADATA_DEADLINE);
            let (_, end) = marks
                .map_err(|error| classify::request_error("read the end of a partition", &error, None))?;
            Ok((*partition, end))
        };
        self.next.keys().map(end).collect()
    }

    /// Everything before these offsets has been read.
    pub fn has_reached(&self, ends: &BTreeMap<i32, i64>) -> bool {
        ends.iter().all(|(partition, end)| self.next.get(partition).is_some_and(|next| next >= end))
    }

    fn record(&self, message: &BorrowedMessage<'_>) -> Record {
        let named = |headers: &_| {
            let header = Headers::iter(headers).find(|header| header.key == self.header_event_id);
            std::str::from_utf8(header?.value?).ok()?.parse().ok()
        };
        Record {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            event_id: message.headers().and_then(named),
            payload: message.payload().map(<[u8]>::to_vec),
        }
    }
}

/// What librdkafka says beside its answers is for those who ask for it: its errors come back from `poll` as well.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, message);
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "kafka reports an error to a reader");
    }
}

impl ConsumerContext for Quiet {}
