//! Reads stretches of topics, to compare what is really there with what was confirmed.
//!
//! Owns how a partition is read from one offset to another: without a consumer group, without a trace in the cluster, in memory that
//! does not depend on how long a stretch is. It judges nothing. Its methods block.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::consumer::Quiet;
use super::producer::METADATA_DEADLINE;
use super::{KafkaError, KafkaSettings, classify};

/// Without a record for so long nobody answers.
const SILENCE: Duration = Duration::from_secs(30);

/// What librdkafka may hold ready, in kB; its own default is 64 MB for each reader.
const READ_AHEAD_KB: &str = "8192";

/// The name of the header of copies; the schema keeps producers from using it.
const HEADER_REPLAY: &str = "outbox-replay";

/// A stretch of a partition, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The last one.
    pub to: i64,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// The oldest offset that is left.
    pub low: i64,
    /// The offset after the newest one.
    pub end: i64,
}

/// A record as it lies in the topic.
#[derive(Debug)]
pub struct Found<'r> {
    /// Where it lies.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Its key.
    pub key: Option<&'r [u8]>,
    /// Its payload.
    pub payload: Option<&'r [u8]>,
    /// The event id in its header. `None`: the relay has not written it.
    pub event_id: Option<Uuid>,
    /// The row's id in its header.
    pub seq: Option<i64>,
    /// It is a copy that an operator has asked for.
    pub is_replay: bool,
}

/// Reads stretches of topics.
pub struct Auditor {
    native: BaseConsumer<Quiet>,
    header_event_id: String,
    header_seq: String,
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auditor").finish_non_exhaustive()
    }
}

impl Auditor {
    /// Starts the client. Does not wait for a connection.
    pub fn start(
        settings: &KafkaSettings,
        header_event_id: &str,
        header_seq: &str,
    ) -> Result<Auditor, KafkaError> {
        let mut config = settings.client();
        config.set("group.id", "outbox-relay-reconcile").set("enable.auto.commit", "false");
        // A record that is gone before we read it must not be passed over in silence.
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
        // The relay's records belong to no transaction, and somebody else's open one must not hide them.
        config.set("isolation.level", "read_uncommitted");
        config.set("fetch.wait.max.ms", "50").set("queued.max.messages.kbytes", READ_AHEAD_KB);
        let native = config
            .create_with_context(Quiet)
            .map_err(|error| classify::request_error("start a reader", &error, None))?;
        Ok(Auditor { native, header_event_id: header_event_id.to_owned(), header_seq: header_seq.to_owned() })
    }

    /// The partitions of a topic and what each holds. Empty: the topic is not there. Fails when no broker answers.
    pub fn marks(&self, topic: &str) -> Result<BTreeMap<i32, Marks>, KafkaError> {
        const WHAT: &str = "read the ends of a topic";
        let failed = |error: RdKafkaError| classify::request_error(WHAT, &error, None);
        let metadata = self.native.fetch_metadata(Some(topic), METADATA_DEADLINE).map_err(failed)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let Some(found) = found else { return Ok(BTreeMap::new()) };
        match found.error().map(Code::from) {
            None => {}
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(BTreeMap::new()),
            Some(code) => {
                let text = format!("{topic}: {code}");
                return Err(KafkaError { what: WHAT, text, class: classify::class(code) });
            }
        }
        let mark = |partition: i32| {
            let (low, end) =
                self.native.fetch_watermarks(topic, partition, METADATA_DEADLINE).map_err(failed)?;
            Ok((partition, Marks { low, end }))
        };
        found.partitions().iter().map(|partition| mark(partition.id())).collect()
    }

    /// Shows `see` every record of these stretches of a topic, in order within each partition. The stretches of a partition are in
    /// ascending order, do not overlap and lie within its marks. Fails when no broker answers, or the topic may not be read.
    pub fn read(
        &self,
        topic: &str,
        stretches: &[Stretch],
        mut see: impl FnMut(&Found<'_>),
    ) -> Result<(), KafkaError> {
        const WHAT: &str = "read a topic";
        let failed = |error: RdKafkaError| classify::request_error(WHAT, &error, None);
        let mut open: BTreeMap<i32, VecDeque<Stretch>> = BTreeMap::new();
        for stretch in stretches {
            open.entry(stretch.partition).or_default().push_back(*stretch);
        }
        let mut assignment = TopicPartitionList::new();
        for (partition, stretches) in &open {
            let from = Offset::Offset(stretches[0].from);
            assignment.add_partition_offset(topic, *partition, from).map_err(failed)?;
        }
        self.native.assign(&assignment).map_err(failed)?;
        // What was paused in an earlier read stays so, also over a new assignment.
        self.native.resume(&assignment).map_err(failed)?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            let (partition, offset) = match self.native.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let reading = open.get(&partition).and_then(|stretches| stretches.front());
                    if reading.is_some_and(|stretch| (stretch.from..=stretch.to).contains(&offset)) {
                        see(&self.found(&message));
                    }
                    (partition, offset)
                }
                // Behind the last record of a transaction nothing comes any more.
                Some(Err(RdKafkaError::PartitionEOF(partition))) => (partition, i64::MAX),
                Some(Err(error)) => {
                    let error = failed(error);
                    if error.class != "unreachable" {
                        return Err(error);
                    }
                    if heard.elapsed() >= SILENCE {
                        return Err(error);
                    }
                    continue;
                }
                None if heard.elapsed() >= SILENCE => {
                    let text = format!("{topic}: no record came for {} s", SILENCE.as_secs());
                    return Err(KafkaError { what: WHAT, text, class: "unreachable" });
                }
                None => continue,
            };
            heard = Instant::now();
            self.go_on(topic, &mut open, partition, offset).map_err(failed)?;
        }
        self.native.unassign().map_err(failed)
    }

    /// The partition has been read up to `offset`: the next stretch of it, or none.
    fn go_on(
        &self,
        topic: &str,
        open: &mut BTreeMap<i32, VecDeque<Stretch>>,
        partition: i32,
        offset: i64,
    ) -> Result<(), RdKafkaError> {
        let Some(stretches) = open.get_mut(&partition) else { return Ok(()) };
        let mut ended = false;
        while stretches.front().is_some_and(|stretch| offset >= stretch.to) {
            stretches.pop_front();
            ended = true;
        }
        match stretches.front() {
            Some(next) if ended && next.from > offset.saturating_add(1) => {
                self.native.seek(topic, partition, Offset::Offset(next.from), METADATA_DEADLINE)
            }
            Some(_) => Ok(()),
            None => {
                open.remove(&partition);
                let mut done = TopicPartitionList::new();
                done.add_partition(topic, partition);
                self.native.pause(&done)
            }
        }
    }

    fn found<'r>(&self, message: &'r BorrowedMessage<'_>) -> Found<'r> {
        let mut found = Found {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key(),
            payload: message.payload(),
            event_id: None,
            seq: None,
            is_replay: false,
        };
        for header in message.headers().into_iter().flat_map(Headers::iter) {
            let text = || std::str::from_utf8(header.value?).ok();
            // The relay's own come first; a producer's of the same name does not count.
            if header.key == self.header_event_id && found.event_id.is_none() {
                found.event_id = text().and_then(|text| text.parse().ok());
            } else if header.key == self.header_seq && found.seq.is_none() {
                found.seq = text().and_then(|text| text.parse().ok());
            } else if header.key == HEADER_REPLAY {
                found.is_replay = true;
            }
        }
        found
    }
}
