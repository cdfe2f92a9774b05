//! One librdkafka producer and the thread that polls it.
//!
//! Owns the [`Inbox`] and the end of a producer: it is purged and dropped on its own thread, because dropping blocks. What
//! the thread hears is taken in by `callbacks`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::OwnedHeaders;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use tokio::sync::Notify;

use super::callbacks::Callbacks;
use super::vitals::{Vital, Vitals};
use super::{KafkaError, NotTaken, Pulse, Report, Weather, classify};
use crate::{crash_point, task};

/// One round of polling. Events are handled when they come; the length only matters at the end of the producer, and
/// each round ends with up to a millisecond of spinning, so short rounds would cost an idle relay real CPU.
const POLL_ROUND: Duration = Duration::from_secs(5);

/// How long a broker may take to answer a question about topics.
pub(super) const METADATA_DEADLINE: Duration = Duration::from_secs(5);

/// Errors remembered until somebody counts them.
const ERRORS_KEPT: usize = 1000;

/// Where the reports of all producers of a term arrive.
#[derive(Debug, Default)]
pub struct Inbox {
    reports: Mutex<Vec<Report>>,
    arrived: Notify,
    errors: Mutex<Vec<&'static str>>,
    vitals: Mutex<Vitals>,
}

impl Inbox {
    /// Takes what has arrived, leaving `empty` (cleared) in its place.
    pub fn take(&self, empty: &mut Vec<Report>) {
        empty.clear();
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *reports, empty);
    }

    /// Waits for a report that has not been taken.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes the classes of the errors that are about no record (connections, logins), at most [`ERRORS_KEPT`].
    pub fn take_errors(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the producers are, as of their last statistics.
    pub fn pulse(&self) -> Pulse {
        self.vitals().pulse()
    }

    pub(super) fn put_vital(&self, generation: u32, vital: Vital) {
        self.vitals().take(generation, vital);
    }

    fn vitals(&self) -> MutexGuard<'_, Vitals> {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put_error(&self, class: &'static str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_KEPT {
            errors.push(class);
        }
    }

    pub(super) fn put(&self, report: Report) {
        let was_empty = {
            let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            reports.push(report);
            reports.len() == 1
        };
        if was_empty {
            self.arrived.notify_one();
        }
    }
}

/// Polls until the producer is given up: without it no report would ever arrive. Its last reference goes with the thread.
fn poll(native: &BaseProducer<Callbacks>, closing: &AtomicBool, round: Duration) {
    while !closing.load(Ordering::Acquire) {
        crash_point::work("poll");
        if crash_point::ends("poll") {
            task::ended("poll", task::ENDED);
        }
        native.poll(round);
    }
}

/// A record about to be handed over; everything is borrowed, librdkafka copies.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub timestamp_ms: i64,
    pub headers: OwnedHeaders,
}

/// A producer. Dropping it purges what it still holds and ends it in the background.
pub struct Producer {
    native: Arc<BaseProducer<Callbacks>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Producer {
    /// Starts a producer whose reports go to `inbox` under the number `generation`. Does not wait for a connection.
    pub(super) fn start(
        config: &ClientConfig,
        inbox: &Arc<Inbox>,
        generation: u32,
    ) -> Result<Producer, KafkaError> {
        Self::start_polled(config, inbox, generation, POLL_ROUND)
    }

    /// The same for a process that ends soon: the producer does within two of these rounds.
    pub(super) fn start_polled(
        config: &ClientConfig,
        inbox: &Arc<Inbox>,
        generation: u32,
        round: Duration,
    ) -> Result<Producer, KafkaError> {
        let callbacks = Callbacks::new(Arc::clone(inbox), generation);
        let native: BaseProducer<Callbacks> = config
            .create_with_context(callbacks)
            .map_err(|error| classify::request_error("start a kafka client", &error, None))?;
        let native = Arc::new(native);
        let closing = Arc::new(AtomicBool::new(false));
        let (polled, ends) = (Arc::clone(&native), Arc::clone(&closing));
        let thread = std::thread::Builder::new()
            .name(format!("kafka-{generation}"))
            .spawn(move || task::within("poll", || poll(&polled, &ends, round)))
            .map_err(|error| KafkaError {
                what: "start a kafka client's thread",
                text: error.to_string(),
                class: "other",
            })?;
        Ok(Producer { native, closing, thread: Some(thread) })
    }

    pub(super) fn send(&self, record: Outgoing<'_>, opaque: usize) -> Result<(), NotTaken> {
        let mut base: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(record.topic, opaque)
            .headers(record.headers)
            .timestamp(record.timestamp_ms);
        base.partition = record.partition;
        base.key = record.key;
        base.payload = record.payload;
        self.native.send(base).map_err(|(error, _)| classify::not_taken(error))
    }

    /// A fatal error, at the hands of a test.
    #[cfg(debug_assertions)]
    pub(super) fn kill(&self) {
        super::status::kill(self.native.client());
    }

    /// Which producer this is; its reports carry the same number.
    pub fn generation(&self) -> u32 {
        self.callbacks().generation
    }

    /// A report that was not a success came in since the last [`Producer::reset`].
    pub fn is_tripped(&self) -> bool {
        self.callbacks().tripped.load(Ordering::Acquire)
    }

    /// The failures seen so far have been judged.
    pub fn reset(&self) {
        self.callbacks().tripped.store(false, Ordering::Release);
    }

    /// It takes nothing more and has to be replaced.
    pub fn is_dead(&self) -> bool {
        self.callbacks().dead.load(Ordering::Acquire) || self.native.client().fatal_error().is_some()
    }

    /// Connected, with a producer id: the next record is confirmed within a round trip instead of half a second.
    pub fn is_warm(&self) -> bool {
        self.callbacks().warm.load(Ordering::Relaxed)
    }

    /// At least one broker is connected, as of the last statistics.
    pub fn is_connected(&self) -> bool {
        self.callbacks().connected.load(Ordering::Relaxed)
    }

    /// What it knows of the brokers.
    pub(super) fn weather(&self) -> Weather {
        self.callbacks().weather(Instant::now())
    }

    /// Gives up what is queued and in flight; the reports arrive in the inbox.
    pub fn purge(&self) {
        self.native.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// Asks for the metadata of one topic, never creating it, or of all. Blocks until a broker answers or the deadline
    /// passes. Its error has the cause where librdkafka's own says only that there is no connection.
    pub(super) fn metadata(&self, what: &'static str, topic: Option<&str>) -> Result<Metadata, KafkaError> {
        self.metadata_within(what, topic, METADATA_DEADLINE)
    }

    /// The same with a deadline of the caller's.
    pub(super) fn metadata_within(
        &self,
        what: &'static str,
        topic: Option<&str>,
        deadline: Duration,
    ) -> Result<Metadata, KafkaError> {
        let answer = self.native.client().fetch_metadata(topic, deadline);
        let mut trouble = self.callbacks().trouble();
        match answer {
            Ok(metadata) => {
                *trouble = None;
                Ok(metadata)
            }
            Err(error) => Err(classify::request_error(what, &error, trouble.as_ref())),
        }
    }

    /// Why no broker can be used, as of the last connection that failed.
    pub(super) fn trouble(&self) -> Option<(Code, String)> {
        self.callbacks().trouble().clone()
    }

    /// The cluster's id. Blocks as [`Producer::metadata`] does.
    pub(super) fn cluster_id(&self) -> Option<String> {
        self.native.client().fetch_cluster_id(METADATA_DEADLINE)
    }

    /// Asks for the metadata of `topics` in the background, so that a spare knows their leaders.
    pub(super) fn learn(&self, topics: Vec<Arc<str>>) {
        let native = Arc::clone(&self.native);
        let learn = move || {
            crash_point::work("learn");
            for topic in topics {
                if let Err(error) = native.client().fetch_metadata(Some(&topic), METADATA_DEADLINE) {
                    tracing::debug!(topic = &*topic, error = %error, "spare producer could not learn a topic");
                    return;
                }
            }
        };
        tokio::task::spawn_blocking(|| task::within("learn", learn));
    }

    /// Ends it and waits until nothing of it is left. A process that ends with threads of librdkafka at work in OpenSSL may crash
    /// on its way out. Blocks.
    pub(super) fn end(mut self) {
        let thread = self.thread.take();
        drop(self);
        // Should it have panicked, that has been said.
        let _ = thread.map(JoinHandle::join);
    }

    fn callbacks(&self) -> &Callbacks {
        self.native.context()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.callbacks().given_up.store(true, Ordering::Release);
        self.callbacks().inbox.vitals().forget(self.generation());
        self.purge();
        self.closing.store(true, Ordering::Release);
        // The polling thread holds the last reference and drops it: that blocks for up to half a second.
    }
}
