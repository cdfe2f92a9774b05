//! Reads single records back from where their receipts say they are.
//!
//! For a handful of records: each is a question of its own. No consumer group, no trace in the cluster. It judges nothing
//! but whether something is there. Its methods block.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::consumer::Quiet;
use super::producer::METADATA_DEADLINE;
use super::{KafkaError, KafkaSettings, classify};

/// How long a broker may take to hand a record over.
const ANSWER: Duration = Duration::from_secs(10);
const WHAT: &str = "read a record back";

/// What is at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A record.
    Record(ReadBack),
    /// Nothing any more: the partition begins later than that.
    BeforeStart(i64),
    /// Nothing any more, between records that are there.
    Compacted,
    /// Nothing yet: the partition ends here. It is not the one that the record was written to.
    BehindEnd(i64),
    /// No such topic or partition.
    Missing,
}

/// A record, as far as it can be compared with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// The event id in its header; none: the relay has not written it.
    pub event_id: Option<Uuid>,
    /// The row's id in its header.
    pub seq: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its payload; none is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// Reads records of any topic.
pub struct Reader {
    native: BaseConsumer<Quiet>,
    header_event_id: String,
    header_seq: String,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Does not wait for a connection. The names are those of the headers.
    pub fn start(
        settings: &KafkaSettings,
        header_event_id: &str,
        header_seq: &str,
    ) -> Result<Reader, KafkaError> {
        let mut config = settings.client();
        config.set("group.id", "outbox-relay-readback").set("enable.auto.commit", "false");
        config
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "50");
        let native = config.create_with_context(Quiet).map_err(failed)?;
        Ok(Reader { native, header_event_id: header_event_id.to_owned(), header_seq: header_seq.to_owned() })
    }

    /// What is at this offset now.
    pub fn read(&self, topic: &str, partition: i32, offset: i64) -> Result<At, KafkaError> {
        let (start, end) = match self.native.fetch_watermarks(topic, partition, METADATA_DEADLINE) {
            Ok(marks) => marks,
            Err(error) if is_missing(&error) => return Ok(At::Missing),
            Err(error) => return Err(failed(error)),
        };
        if offset < start {
            return Ok(At::BeforeStart(start));
        }
        if offset >= end {
            return Ok(At::BehindEnd(end));
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(failed)?;
        self.native.assign(&assignment).map_err(failed)?;
        let found = self.first(offset);
        self.native.unassign().map_err(failed)?;
        found
    }

    /// The first record of the assignment tells what is at its offset.
    fn first(&self, offset: i64) -> Result<At, KafkaError> {
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            match self.native.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.offset() == offset => {
                    return Ok(At::Record(self.record(&message)));
                }
                Some(Ok(_)) | Some(Err(RdKafkaError::PartitionEOF(_))) => return Ok(At::Compacted),
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // The beginning was cut off since it was asked for.
                    Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => {
                        return Ok(At::BeforeStart(offset + 1));
                    }
                    _ if is_missing(&error) => return Ok(At::Missing),
                    // What will pass is tried on until the deadline.
                    _ if classify::request_error(WHAT, &error, None).class == "unreachable" => {}
                    _ => return Err(failed(error)),
                },
                None => {}
            }
        }
        let text = format!("no broker handed it over within {} s", ANSWER.as_secs());
        Err(KafkaError { what: WHAT, text, class: "unreachable" })
    }

    fn record(&self, message: &BorrowedMessage<'_>) -> ReadBack {
        let header = |name: &str| {
            let headers = message.headers()?;
            let found = Headers::iter(headers).find(|header| header.key == name)?;
            std::str::from_utf8(found.value?).ok()
        };
        ReadBack {
            event_id: header(&self.header_event_id).and_then(|text| text.parse().ok()),
            seq: header(&self.header_seq).and_then(|text| text.parse().ok()),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
        }
    }
}

fn failed(error: RdKafkaError) -> KafkaError {
    classify::request_error(WHAT, &error, None)
}

fn is_missing(error: &RdKafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition))
}
