//! The series of one topic, resolved once: counting through a [`TopicMetrics`] hashes nothing and takes no lock.

use prometheus::local::LocalHistogram;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::{
    AttemptResult, Builder, DeadReason, DeferReason, Labelled, Outcome, RedeliveryCause, TopicSetting,
};

/// The per-topic vectors.
pub(super) struct Vectors {
    read: IntCounterVec,
    messages: IntCounterVec,
    attempts: IntCounterVec,
    redeliveries: IntCounterVec,
    deferred: IntCounterVec,
    dead_lettered: IntCounterVec,
    published_bytes: IntCounterVec,
    oldest_pending: GaugeVec,
    setting_drift: GaugeVec,
    delivery_seconds: HistogramVec,
    retry_seconds: HistogramVec,
    dead_letters: GaugeVec,
}

/// Handles to one topic's series. Call once per batch with sums.
pub struct TopicMetrics {
    read: IntCounter,
    messages: Labelled<Outcome, IntCounter>,
    attempts: Labelled<AttemptResult, IntCounter>,
    redeliveries: Labelled<RedeliveryCause, IntCounter>,
    deferred: Labelled<DeferReason, IntCounter>,
    dead_lettered: Labelled<DeadReason, IntCounter>,
    published_bytes: IntCounter,
    delivery_seconds: Histogram,
    retry_seconds: Histogram,
    pub(super) oldest_pending: Gauge,
    pub(super) setting_drift: Labelled<TopicSetting, Gauge>,
    pub(super) dead_letters: Gauge,
}

impl Vectors {
    pub(super) fn new(build: &Builder) -> Vectors {
        Vectors {
            read: build.counters("outbox_read_messages_total"),
            messages: build.counters("outbox_messages_total"),
            attempts: build.counters("outbox_attempts_total"),
            redeliveries: build.counters("outbox_redeliveries_total"),
            deferred: build.counters("outbox_deferred_total"),
            dead_lettered: build.counters("outbox_dead_lettered_total"),
            published_bytes: build.counters("outbox_published_bytes_total"),
            oldest_pending: build.gauges("outbox_oldest_pending_timestamp_seconds"),
            setting_drift: build.gauges("outbox_topic_setting_drift"),
            delivery_seconds: build.histograms("outbox_delivery_seconds"),
            retry_seconds: build.histograms("outbox_retry_seconds"),
            dead_letters: build.gauges("outbox_dead_letters"),
        }
    }

    pub(super) fn topic(&self, name: &str) -> TopicMetrics {
        TopicMetrics {
            read: self.read.with_label_values(&[name]),
            messages: Labelled::new(|label| self.messages.with_label_values(&[name, label])),
            attempts: Labelled::new(|label| self.attempts.with_label_values(&[name, label])),
            redeliveries: Labelled::new(|label| self.redeliveries.with_label_values(&[name, label])),
            deferred: Labelled::new(|label| self.deferred.with_label_values(&[name, label])),
            dead_lettered: Labelled::new(|label| self.dead_lettered.with_label_values(&[name, label])),
            published_bytes: self.published_bytes.with_label_values(&[name]),
            oldest_pending: self.oldest_pending.with_label_values(&[name]),
            setting_drift: Labelled::new(|label| self.setting_drift.with_label_values(&[name, label])),
            delivery_seconds: self.delivery_seconds.with_label_values(&[name]),
            retry_seconds: self.retry_seconds.with_label_values(&[name]),
            dead_letters: self.dead_letters.with_label_values(&[name]),
        }
    }
}

impl TopicMetrics {
    /// Rows read for the first time.
    pub fn read(&self, rows: u64) {
        self.read.inc_by(rows);
    }

    /// Rows that reached an outcome.
    pub fn messages(&self, outcome: Outcome, rows: u64) {
        self.messages.of(outcome).inc_by(rows);
    }

    /// Attempts with a result.
    pub fn attempts(&self, result: AttemptResult, attempts: u64) {
        self.attempts.of(result).inc_by(attempts);
    }

    /// Rows sent again.
    pub fn redeliveries(&self, cause: RedeliveryCause, rows: u64) {
        self.redeliveries.of(cause).inc_by(rows);
    }

    /// Rows passed over.
    pub fn deferred(&self, reason: DeferReason, rows: u64) {
        self.deferred.of(reason).inc_by(rows);
    }

    /// Rows that became dead letters.
    pub fn dead_lettered(&self, reason: DeadReason, rows: u64) {
        self.dead_lettered.of(reason).inc_by(rows);
    }

    /// Confirmed bytes.
    pub fn published_bytes(&self, bytes: u64) {
        self.published_bytes.inc_by(bytes);
    }

    /// A setting has begun to drift, or drifts no more. Topics that share a series are counted in it.
    pub fn setting_drift(&self, setting: TopicSetting, drifts: bool) {
        self.setting_drift.of(setting).add(if drifts { 1.0 } else { -1.0 });
    }

    /// A row that had been rejected was confirmed so long after its first rejection.
    pub fn retry_seconds(&self, seconds: f64) {
        self.retry_seconds.observe(seconds);
    }

    /// A buffer for the delivery times of a batch: `observe` per record costs an addition, `flush` once per batch
    /// publishes them, and so does dropping it. It belongs to one task.
    pub fn local_delivery_seconds(&self) -> LocalHistogram {
        self.delivery_seconds.local()
    }
}
