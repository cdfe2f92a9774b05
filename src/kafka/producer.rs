//! One librdkafka producer and the thread that polls it.
//!
//! Owns the report callback, which only copies numbers into the [`Inbox`], and the end of a producer: it is purged
//! and dropped on its own thread, because dropping blocks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
};
use tokio::sync::Notify;

use super::{KafkaError, NotTaken, Report, Weather, classify, status};
use crate::receipt::Receipt;

/// One round of polling. Events are handled when they come; the length only matters at the end of the producer, and
/// each round ends with up to a millisecond of spinning, so short rounds would cost an idle relay real CPU.
const POLL_ROUND: Duration = Duration::from_secs(5);

/// How long a broker may take to answer a question about topics.
pub(super) const METADATA_DEADLINE: Duration = Duration::from_secs(5);

/// Errors remembered until somebody counts them.
const ERRORS_KEPT: usize = 1000;

/// A trouble that lasts is said again this often: librdkafka reports it with every attempt to connect.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// Where the reports of all producers of a term arrive.
#[derive(Debug, Default)]
pub struct Inbox {
    reports: Mutex<Vec<Report>>,
    arrived: Notify,
    errors: Mutex<Vec<&'static str>>,
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

    fn put_error(&self, class: &'static str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_KEPT {
            errors.push(class);
        }
    }

    fn put(&self, report: Report) {
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

/// What the callbacks learn, read from other threads.
#[derive(Debug)]
struct Callbacks {
    inbox: Arc<Inbox>,
    generation: u32,
    /// A report that was not a success has come in: nothing more is handed over until it has been judged.
    tripped: AtomicBool,
    dead: AtomicBool,
    warm: AtomicBool,
    connected: AtomicBool,
    /// No broker can be reached, says librdkafka, since one was.
    all_down: AtomicBool,
    /// A quota held requests back in the last statistics interval.
    throttled: AtomicBool,
    /// The last connection that failed was a login that was refused.
    refused_login: AtomicBool,
    /// Nobody waits for it any more: what it says about its end is no trouble.
    given_up: AtomicBool,
    /// Classes of errors that were logged, and when. One trouble may be of two classes in turn: a refused login, and
    /// that all brokers are out of reach.
    said: Mutex<HashMap<&'static str, Instant>>,
    /// Why no broker can be used, as of the last connection that failed.
    trouble: Mutex<Option<(Code, String)>>,
}

/// The part of librdkafka's statistics that we read.
#[derive(serde::Deserialize)]
struct Statistics<'a> {
    #[serde(borrow)]
    brokers: HashMap<std::borrow::Cow<'a, str>, BrokerStatistics<'a>>,
    #[serde(borrow)]
    eos: Option<IdempotenceStatistics<'a>>,
}

#[derive(serde::Deserialize)]
struct BrokerStatistics<'a> {
    #[serde(borrow)]
    state: std::borrow::Cow<'a, str>,
    #[serde(default)]
    throttle: Throttle,
}

/// Milliseconds for which brokers held requests back.
#[derive(Default, serde::Deserialize)]
struct Throttle {
    max: i64,
}

#[derive(serde::Deserialize)]
struct IdempotenceStatistics<'a> {
    #[serde(borrow)]
    idemp_state: std::borrow::Cow<'a, str>,
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // "enable.gapless.guarantee is experimental", at every start: our tests show what it does.
        if facility == "CONFWARN" || self.given_up.load(Ordering::Acquire) {
            tracing::debug!(target: "librdkafka", facility, message);
            return;
        }
        match level {
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, message),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::info!(target: "librdkafka", facility, message)
            }
            // librdkafka retries by itself; what needs a human is said by us.
            _ => tracing::warn!(target: "librdkafka", facility, message),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        crate::crash_point::work("statistics");
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let up = statistics.brokers.values().any(|broker| broker.state == "UP");
        self.connected.store(up, Ordering::Relaxed);
        if up {
            self.all_down.store(false, Ordering::Relaxed);
            self.refused_login.store(false, Ordering::Relaxed);
        }
        let throttled = statistics.brokers.values().any(|broker| broker.throttle.max > 0);
        if throttled && !self.throttled.swap(true, Ordering::Relaxed) {
            self.inbox.put_error("throttled");
            tracing::warn!(producer = self.generation, "kafka holds this relay back by a quota");
        }
        self.throttled.store(throttled, Ordering::Relaxed);
        let assigned = statistics.eos.is_some_and(|eos| eos.idemp_state == "Assigned");
        self.warm.store(up && assigned, Ordering::Relaxed);
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let class = code.map_or("other", classify::class);
        match code {
            Some(Code::Fatal) => self.dead.store(true, Ordering::Release),
            Some(Code::AllBrokersDown) => {
                self.connected.store(false, Ordering::Relaxed);
                self.all_down.store(true, Ordering::Relaxed);
            }
            Some(code) => {
                // Without how long it took: who says it again and again compares it with the last time.
                let reason = reason.split(" (after ").next().unwrap_or(reason);
                if class == "authentication" {
                    self.refused_login.store(true, Ordering::Relaxed);
                }
                *self.trouble() = Some((code, reason.to_owned()));
            }
            None => {}
        }
        if self.given_up.load(Ordering::Acquire) {
            return;
        }
        // The binding calls this twice for each error.
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.get(class).is_some_and(|at| at.elapsed() < SAY_EVERY) {
            return;
        }
        said.insert(class, Instant::now());
        self.inbox.put_error(class);
        tracing::warn!(producer = self.generation, class, reason, "kafka reports an error");
    }
}

impl Callbacks {
    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<(Code, String)>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, opaque: usize) {
        crate::crash_point::work("delivery");
        let result = match delivery {
            Ok(message) => Ok(Receipt {
                partition: message.partition(),
                // A repeated batch that the broker recognised is a success without an offset.
                offset: Some(message.offset()).filter(|offset| *offset >= 0),
            }),
            Err((error, message)) => {
                self.tripped.store(true, Ordering::Release);
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                Err(Box::new(classify::reported(code, status::of(message))))
            }
        };
        self.inbox.put(Report { opaque, generation: self.generation, result });
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
        let callbacks = Callbacks {
            inbox: Arc::clone(inbox),
            generation,
            tripped: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            warm: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            all_down: AtomicBool::new(false),
            throttled: AtomicBool::new(false),
            refused_login: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            said: Mutex::default(),
            trouble: Mutex::default(),
        };
        let native: BaseProducer<Callbacks> = config
            .create_with_context(callbacks)
            .map_err(|error| classify::request_error("start a kafka client", &error, None))?;
        let native = Arc::new(native);
        let closing = Arc::new(AtomicBool::new(false));
        let (polled, ends) = (Arc::clone(&native), Arc::clone(&closing));
        std::thread::Builder::new()
            .name(format!("kafka-{generation}"))
            .spawn(move || {
                while !ends.load(Ordering::Acquire) {
                    polled.poll(POLL_ROUND);
                }
            })
            .map_err(|error| KafkaError {
                what: "start a kafka client's thread",
                text: error.to_string(),
                class: "other",
            })?;
        Ok(Producer { native, closing })
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
        status::kill(self.native.client());
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
        let known = self.callbacks();
        Weather {
            connected: known.connected.load(Ordering::Relaxed),
            all_down: known.all_down.load(Ordering::Relaxed),
            throttled: known.throttled.load(Ordering::Relaxed),
            refused_login: known.refused_login.load(Ordering::Relaxed),
        }
    }

    /// Gives up what is queued and in flight; the reports arrive in the inbox.
    pub fn purge(&self) {
        self.native.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }

    /// Asks for the metadata of one topic, never creating it, or of all. Blocks until a broker answers or the deadline
    /// passes. Its error has the cause where librdkafka's own says only that there is no connection.
    pub(super) fn metadata(&self, what: &'static str, topic: Option<&str>) -> Result<Metadata, KafkaError> {
        let answer = self.native.client().fetch_metadata(topic, METADATA_DEADLINE);
        let mut trouble = self.callbacks().trouble();
        match answer {
            Ok(metadata) => {
                *trouble = None;
                Ok(metadata)
            }
            Err(error) => Err(classify::request_error(what, &error, trouble.as_ref())),
        }
    }

    /// The cluster's id. Blocks as [`Producer::metadata`] does.
    pub(super) fn cluster_id(&self) -> Option<String> {
        self.native.client().fetch_cluster_id(METADATA_DEADLINE)
    }

    /// Asks for the metadata of `topics` in the background, so that a spare knows their leaders.
    pub(super) fn learn(&self, topics: Vec<Arc<str>>) {
        let native = Arc::clone(&self.native);
        tokio::task::spawn_blocking(move || {
            for topic in topics {
                if let Err(error) = native.client().fetch_metadata(Some(&topic), METADATA_DEADLINE) {
                    tracing::debug!(topic = &*topic, error = %error, "spare producer could not learn a topic");
                    return;
                }
            }
        });
    }

    fn callbacks(&self) -> &Callbacks {
        self.native.context()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.callbacks().given_up.store(true, Ordering::Release);
        self.purge();
        self.closing.store(true, Ordering::Release);
        // The polling thread holds the last reference and drops it: that blocks for up to half a second.
    }
}
