//! What librdkafka tells on the polling thread of a producer: reports, errors, statistics, log lines.
//!
//! Owns what is known of one producer and its brokers. Reports are only copied into the inbox; nothing is decided here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::settings::STATISTICS_EVERY;
use super::vitals::{BrokerState, Vital};
use super::{Inbox, Report, Weather, classify, status};
use crate::receipt::Receipt;
use crate::{crash_point, task};

/// A trouble that lasts is said again this often: librdkafka reports it with every attempt to connect.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What the callbacks learn, read from other threads.
#[derive(Debug)]
pub(super) struct Callbacks {
    pub inbox: Arc<Inbox>,
    pub generation: u32,
    /// A report that was not a success has come in: nothing more is handed over until it has been judged.
    pub tripped: AtomicBool,
    pub dead: AtomicBool,
    pub warm: AtomicBool,
    pub connected: AtomicBool,
    /// Nobody waits for it any more: what it says about its end is no trouble.
    pub given_up: AtomicBool,
    /// No broker can be reached, says librdkafka, since one was.
    all_down: AtomicBool,
    /// The last connection that failed was a login that was refused.
    refused_login: AtomicBool,
    /// Until when a quota holds requests back, as far as is known.
    throttled_until: Mutex<Option<Instant>>,
    /// Classes of errors that were logged, and when. Brokers may be in different troubles.
    said: Mutex<HashMap<&'static str, Instant>>,
    /// Why no broker can be used, as of the last connection that failed.
    trouble: Mutex<Option<(Code, String)>>,
}

/// The part of librdkafka's statistics that we read.
#[derive(serde::Deserialize)]
struct Statistics<'a> {
    #[serde(borrow)]
    brokers: HashMap<Cow<'a, str>, BrokerStatistics<'a>>,
    #[serde(borrow)]
    eos: Option<IdempotenceStatistics<'a>>,
    /// Records in the queue, and how many it takes.
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    msg_max: u64,
}

#[derive(serde::Deserialize)]
struct BrokerStatistics<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(default)]
    throttle: Throttle,
    /// Below 0: not known by its number yet, only as an address to ask.
    #[serde(default)]
    nodeid: i64,
    #[serde(default)]
    txretries: u64,
    #[serde(default)]
    req_timeouts: u64,
    #[serde(default)]
    rtt: RoundTrip,
}

/// Microseconds, of the requests answered since the last statistics.
#[derive(Default, serde::Deserialize)]
struct RoundTrip {
    p95: i64,
}

/// For how many milliseconds the broker said it would hold our next request back, in answers since the last statistics.
#[derive(Default, serde::Deserialize)]
struct Throttle {
    max: i64,
}

#[derive(serde::Deserialize)]
struct IdempotenceStatistics<'a> {
    #[serde(borrow)]
    idemp_state: Cow<'a, str>,
}

impl Callbacks {
    pub fn new(inbox: Arc<Inbox>, generation: u32) -> Callbacks {
        Callbacks {
            inbox,
            generation,
            tripped: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            warm: AtomicBool::new(false),
            connected: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            all_down: AtomicBool::new(false),
            refused_login: AtomicBool::new(false),
            throttled_until: Mutex::default(),
            said: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    /// What is known of the brokers.
    pub fn weather(&self, now: Instant) -> Weather {
        Weather {
            connected: self.connected.load(Ordering::Relaxed),
            all_down: self.all_down.load(Ordering::Relaxed),
            throttled: lock(&self.throttled_until).is_some_and(|until| now < until),
            refused_login: self.refused_login.load(Ordering::Relaxed),
        }
    }

    pub fn trouble(&self) -> MutexGuard<'_, Option<(Code, String)>> {
        lock(&self.trouble)
    }

    fn take_statistics(&self, statistics: &Statistics<'_>, now: Instant) {
        let up = statistics.brokers.values().any(|broker| broker.state == "UP");
        self.connected.store(up, Ordering::Relaxed);
        if up {
            self.all_down.store(false, Ordering::Relaxed);
            self.refused_login.store(false, Ordering::Relaxed);
        }
        let throttle = statistics.brokers.values().map(|broker| broker.throttle.max).max().unwrap_or(0);
        if throttle > 0 && self.is_throttled_for(Duration::from_millis(throttle.unsigned_abs()), now) {
            self.inbox.put_error("throttled");
            tracing::warn!(producer = self.generation, "kafka holds this relay back by a quota");
        }
        let assigned = statistics.eos.as_ref().is_some_and(|eos| eos.idemp_state == "Assigned");
        self.warm.store(up && assigned, Ordering::Relaxed);
        // Its end may have come in between: then nothing would take it away again.
        if !self.given_up.load(Ordering::Acquire) {
            self.inbox.put_vital(self.generation, vital(statistics));
        }
    }

    /// A broker holds us back for so long: it answers, and then reads nothing more from this connection. So no answer in that
    /// time means nothing; the one after it says how it goes on, and the statistics after that one. Returns whether that is
    /// news.
    fn is_throttled_for(&self, time: Duration, now: Instant) -> bool {
        let mut known = lock(&self.throttled_until);
        let is_news = known.is_none_or(|until| until <= now);
        *known = (*known).max(Some(now + time + 2 * STATISTICS_EVERY));
        is_news
    }

    /// An error that is about no record.
    fn take_error(&self, code: Option<Code>, reason: &str) {
        let class = match code {
            Some(Code::Fatal) => {
                self.dead.store(true, Ordering::Release);
                "fatal"
            }
            // No broker is left, and what the last one did was to refuse our login: nothing is out of reach.
            Some(Code::AllBrokersDown) => {
                self.connected.store(false, Ordering::Relaxed);
                self.all_down.store(true, Ordering::Relaxed);
                if self.refused_login.load(Ordering::Relaxed) { "authentication" } else { "unreachable" }
            }
            Some(code) => {
                let class = classify::class(code);
                self.refused_login.store(class == "authentication", Ordering::Relaxed);
                // Without how long it took: who says it again and again compares it with the last time.
                let reason = reason.split(" (after ").next().unwrap_or(reason);
                *self.trouble() = Some((code, reason.to_owned()));
                class
            }
            None => "other",
        };
        if self.given_up.load(Ordering::Acquire) {
            return;
        }
        // The binding calls this twice for each error.
        let mut said = lock(&self.said);
        if said.get(class).is_some_and(|at| at.elapsed() < SAY_EVERY) {
            return;
        }
        said.insert(class, Instant::now());
        // The end of a producer (told with the code that it died of, and then as fatal) is counted by whoever replaces it,
        // which may be before this is heard.
        if class != "fatal" {
            self.inbox.put_error(class);
        }
        tracing::warn!(producer = self.generation, class, reason, "kafka reports an error");
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // "enable.gapless.guarantee is experimental", at every start: our tests show what it does.
        if facility == "CONFWARN" || self.given_up.load(Ordering::Acquire) {
            tracing::debug!(target: "librdkafka", facility, message);
            return;
        }
        // A broker that hangs up on us, as one does that speaks another protocol, is no error to librdkafka: only a line for those
        // who want to read it, as `check` does.
        if facility == "FAIL" && message.contains("Disconnected") {
            let reason = message.split_once("]: ").map_or(message, |(_, reason)| reason);
            let reason = reason.split(" (after ").next().unwrap_or(reason).to_owned();
            self.trouble().get_or_insert((Code::BrokerTransportFailure, reason));
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
        task::within("statistics", || {
            crash_point::work("statistics");
            if let Ok(statistics) = serde_json::from_slice(statistics) {
                self.take_statistics(&statistics, Instant::now());
            }
        });
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        task::within("error", || {
            crash_point::work("error");
            self.take_error(error.rdkafka_error_code(), reason);
        });
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, opaque: usize) {
        task::within("delivery", || {
            crash_point::work("delivery");
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
        });
    }
}

fn vital(statistics: &Statistics<'_>) -> Vital {
    let brokers = statistics.brokers.values();
    let known = brokers.clone().filter(|broker| broker.nodeid >= 0);
    Vital {
        brokers: known.map(|broker| (broker.nodeid, BrokerState::of(&broker.state))).collect(),
        round_trip_p95_us: brokers.clone().map(|broker| broker.rtt.p95).max().unwrap_or(0),
        queue_fill: statistics.msg_cnt as f64 / statistics.msg_max.max(1) as f64,
        retries: brokers.clone().map(|broker| broker.txretries).sum(),
        timeouts: brokers.map(|broker| broker.req_timeouts).sum(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(callbacks: &Callbacks) -> Vec<&'static str> {
        callbacks.inbox.take_errors()
    }

    #[test]
    fn a_refused_login_is_not_a_broker_out_of_reach() {
        let callbacks = Callbacks::new(Arc::default(), 1);
        callbacks.take_error(Some(Code::Authentication), "wrong");
        callbacks.take_error(Some(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(taken(&callbacks), ["authentication"]);
        let weather = callbacks.weather(Instant::now());
        assert!(weather.all_down && weather.refused_login);
        // Now it is really away.
        callbacks.take_error(Some(Code::BrokerTransportFailure), "connection refused");
        callbacks.take_error(Some(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(taken(&callbacks), ["unreachable"]);
        assert!(!callbacks.weather(Instant::now()).refused_login);
    }

    #[test]
    fn statistics_become_the_pulse_of_the_clients() {
        let callbacks = Callbacks::new(Arc::default(), 1);
        let text = r#"{"msg_cnt":500,"msg_max":1000,"brokers":{
            "a:9092/bootstrap":{"state":"UP","nodeid":-1,"rtt":{"p95":9000}},
            "a:9092/1":{"state":"UP","nodeid":1,"txretries":3,"req_timeouts":1,"rtt":{"p95":2500}},
            "b:9092/2":{"state":"TRY_CONNECT","nodeid":2,"txretries":4}}}"#;
        callbacks.take_statistics(&serde_json::from_str(text).expect("statistics"), Instant::now());
        let pulse = callbacks.inbox.pulse();
        assert_eq!((pulse.up, pulse.down, pulse.idle), (1, 1, 0));
        assert_eq!((pulse.retries, pulse.timeouts), (7, 1));
        assert_eq!((pulse.round_trip_p95, pulse.queue_fill), (0.009, 0.5));
    }

    #[test]
    fn a_quota_holds_for_as_long_as_the_broker_said_although_no_answer_comes() {
        let callbacks = Callbacks::new(Arc::default(), 1);
        let statistics = |throttle: i64, now| {
            let text = format!(r#"{{"brokers":{{"b":{{"state":"UP","throttle":{{"max":{throttle}}}}}}}}}"#);
            callbacks.take_statistics(&serde_json::from_str(&text).expect("statistics"), now);
        };
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        statistics(0, start);
        assert!(!callbacks.weather(start).throttled);
        statistics(5000, start);
        (1..=6).for_each(|second| statistics(0, after(second)));
        assert!(callbacks.weather(after(6)).throttled, "one answer and its statistics may be on their way");
        statistics(2000, after(6));
        assert_eq!(taken(&callbacks), ["throttled"], "it is still the same one");
        assert!(callbacks.weather(after(9)).throttled);
        assert!(!callbacks.weather(after(10)).throttled);
        statistics(100, after(60));
        assert_eq!(taken(&callbacks), ["throttled"]);
    }
}
