//! Every metric the relay exports: its name, its labels, its help, and typed handles to count with.
//! No other file names a metric. Nothing here is updated per message: callers add up a batch and add it once.
//! Series stand at zero before the first message, and label values are bounded: a [`TopicMetrics`] has all series of
//! its topic from first sight, and beyond [`TOPICS_MAX`] topics the rest shares one.

mod labels;
mod load;
mod series;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
};
use prometheus::{Opts, Registry, TextEncoder};

use crate::policy::Policies;
use crate::telemetry::events;

pub use labels::{
    AttemptResult, BacklogState, BrokerLink, DeadReason, DeferReason, Dependency, KafkaErrorClass, Label,
    Operation, Outcome, RedeliveryCause, SpanFate, StopCause, Table, TopicSetting,
};
pub use load::Load;
pub use series::{Kind, SERIES, Series};
pub use topic::TopicMetrics;

/// Topics with series of their own; 200 topics are about 9,000 lines of text, which Prometheus reads without effort.
pub const TOPICS_MAX: usize = 200;
/// The topic label that all further topics share.
pub const OTHER_TOPIC: &str = "__other__";

/// The relay's metrics, with a registry of their own. One per process, shared by reference.
pub struct Metrics {
    registry: Registry,
    topics: Mutex<Topics>,
    vectors: topic::Vectors,
    kafka_errors: Labelled<KafkaErrorClass, IntCounter>,
    database_errors: Labelled<Operation, IntCounter>,
    database_seconds: Labelled<Operation, Histogram>,
    backlog: Labelled<BacklogState, Gauge>,
    reading_stopped: Labelled<StopCause, Gauge>,
    dependency_up: Labelled<Dependency, Gauge>,
    topic_lane: GaugeVec,
    topic_info: GaugeVec,
    kafka_brokers: Labelled<BrokerLink, Gauge>,
    kafka_retries: IntCounter,
    kafka_request_timeouts: IntCounter,
    runtime_busy_seconds: Counter,
    table_bytes: Labelled<Table, Gauge>,
    trace_spans: Labelled<SpanFate, IntCounter>,
    /// In the order of [`EVENTS`] that are counted, and one more for all others.
    log_lines: Vec<IntCounter>,
    build_info: GaugeVec,
    config_info: GaugeVec,
    /// A statement found that another leader had taken over, so it changed nothing.
    pub fencing_rejections: IntCounter,
    /// This process became the leader.
    pub leader_transitions: IntCounter,
    /// A producer ended and its spare took its place.
    pub producer_replaced: IntCounter,
    /// When the last record was confirmed, in Unix seconds.
    pub last_delivery_timestamp: Gauge,
    /// The sweep found rows that nobody accounts for.
    pub loss_incidents: IntCounter,
    /// Such rows that are not published yet.
    pub unaccounted_messages: Gauge,
    /// Messages that the newest reconciliations have not found in Kafka.
    pub reconcile_missing_messages: Gauge,
    /// Records that they have found beyond the first of their row.
    pub reconcile_duplicate_messages: Gauge,
    /// When the newest one ended, in Unix seconds.
    pub reconcile_last_success_timestamp: Gauge,
    /// When the last confirmed heartbeat row was written, in Unix seconds.
    pub heartbeat_confirmed_timestamp: Gauge,
    /// 1 while planned work is announced and its end is still to come.
    pub maintenance: Gauge,
    /// When planned work that nobody has ended is to end, in Unix seconds.
    pub maintenance_end_timestamp: Gauge,
    /// When the oldest row of the ring was written, in Unix seconds.
    pub oldest_slot_timestamp: Gauge,
    /// When the oldest open transaction began, in Unix seconds.
    pub oldest_transaction_timestamp: Gauge,
    /// When the oldest open dead letter died, in Unix seconds.
    pub oldest_dead_letter_timestamp: Gauge,
    /// Since when the longest blocked key waits, in Unix seconds.
    pub oldest_blocked_key_timestamp: Gauge,
    /// When the first of the certificates that we present expires, in Unix seconds.
    pub certificate_expiry_timestamp: Gauge,
    /// 95 of 100 requests were answered within so many seconds.
    pub kafka_round_trip_p95: Gauge,
    /// Share of librdkafka's queue that is used.
    pub kafka_queue_ratio: Gauge,
    /// Threads of the runtime.
    pub runtime_workers: Gauge,
    /// Tasks that are alive.
    pub runtime_tasks: Gauge,
    /// Tasks that wait for a worker.
    pub runtime_queued_tasks: Gauge,
    /// How late timers ran.
    pub runtime_delay_seconds: Histogram,
    /// Keys whose rows wait.
    pub blocked_keys: Gauge,
    /// 1 while Kafka makes no progress and nothing more is handed over.
    pub circuit_open: Gauge,
    /// `retry.deferred_max`.
    pub deferred_limit: Gauge,
    /// `retention.published`, in seconds.
    pub retention_published: Gauge,
    rate_limit: Gauge,
    /// 1 while this process leads.
    pub leader: Gauge,
    /// The epoch of our lease, or the last one seen.
    pub lease_epoch: Gauge,
    /// Until when the leader trusts its lease, in Unix seconds; 0 on a standby.
    pub lease_expiry_timestamp: Gauge,
    /// Rows handed to Kafka and not yet settled.
    pub in_flight_messages: Gauge,
    /// Their bytes.
    pub in_flight_bytes: Gauge,
    /// Properties in `kafka.unsafe`.
    pub unsafe_settings: Gauge,
    /// From handing over a batch to its last report.
    pub publish_seconds: Histogram,
    /// Rows of a settled batch.
    pub batch_messages: Histogram,
}

#[derive(Default)]
struct Topics {
    policies: Policies,
    known: HashMap<String, Arc<TopicMetrics>>,
    other: Option<Arc<TopicMetrics>>,
}

/// The children of a one-label vector, by label value, resolved once.
pub(crate) struct Labelled<L, T> {
    children: Vec<T>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label, T> Labelled<L, T> {
    pub(crate) fn new(child: impl Fn(&'static str) -> T) -> Self {
        Labelled {
            children: L::ALL.iter().map(|label| child(label.as_str())).collect(),
            label: std::marker::PhantomData,
        }
    }

    pub(crate) fn of(&self, label: L) -> &T {
        &self.children[label.index()]
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All series of the process at zero; those of topics follow on first sight.
    pub fn new() -> Metrics {
        let build = Builder { registry: Registry::new() };
        build.register(ProcessCollector::for_self());
        let kafka_errors = build.counters("outbox_kafka_errors_total");
        let database_errors = build.counters("outbox_database_errors_total");
        let database_seconds = build.histograms("outbox_database_seconds");
        let backlog = build.gauges("outbox_backlog_messages");
        let reading_stopped = build.gauges("outbox_reading_stopped");
        let table_bytes = build.gauges("outbox_table_bytes");
        let dependency_up = build.gauges("outbox_dependency_up");
        let trace_spans = build.counters("outbox_trace_spans_total");
        let log_lines = build.counters("outbox_log_lines_total");
        let kafka_brokers = build.gauges("outbox_kafka_brokers");
        let metrics = Metrics {
            topics: Mutex::default(),
            vectors: topic::Vectors::new(&build),
            kafka_errors: Labelled::new(|label| kafka_errors.with_label_values(&[label])),
            database_errors: Labelled::new(|label| database_errors.with_label_values(&[label])),
            database_seconds: Labelled::new(|label| database_seconds.with_label_values(&[label])),
            backlog: Labelled::new(|label| backlog.with_label_values(&[label])),
            reading_stopped: Labelled::new(|label| reading_stopped.with_label_values(&[label])),
            dependency_up: Labelled::new(|label| dependency_up.with_label_values(&[label])),
            table_bytes: Labelled::new(|label| table_bytes.with_label_values(&[label])),
            trace_spans: Labelled::new(|label| trace_spans.with_label_values(&[label])),
            log_lines: events::counted()
                .map(|(level, event)| log_lines.with_label_values(&[event, &level.as_str().to_lowercase()]))
                .collect(),
            loss_incidents: build.counter("outbox_loss_incidents_total"),
            unaccounted_messages: build.gauge("outbox_unaccounted_messages"),
            reconcile_missing_messages: build.gauge("outbox_reconcile_missing_messages"),
            reconcile_duplicate_messages: build.gauge("outbox_reconcile_duplicate_messages"),
            reconcile_last_success_timestamp: build.gauge("outbox_reconcile_last_success_timestamp_seconds"),
            heartbeat_confirmed_timestamp: build.gauge("outbox_heartbeat_confirmed_timestamp_seconds"),
            maintenance: build.gauge("outbox_maintenance"),
            maintenance_end_timestamp: build.gauge("outbox_maintenance_end_timestamp_seconds"),
            oldest_slot_timestamp: build.gauge("outbox_oldest_slot_timestamp_seconds"),
            oldest_transaction_timestamp: build.gauge("outbox_oldest_transaction_timestamp_seconds"),
            topic_lane: build.gauges("outbox_topic_lane"),
            topic_info: build.gauges("outbox_topic_info"),
            kafka_brokers: Labelled::new(|label| kafka_brokers.with_label_values(&[label])),
            kafka_retries: build.counter("outbox_kafka_retries_total"),
            kafka_request_timeouts: build.counter("outbox_kafka_request_timeouts_total"),
            kafka_round_trip_p95: build.gauge("outbox_kafka_round_trip_p95_seconds"),
            kafka_queue_ratio: build.gauge("outbox_kafka_queue_ratio"),
            runtime_busy_seconds: build.seconds("outbox_runtime_busy_seconds_total"),
            runtime_workers: build.gauge("outbox_runtime_workers"),
            runtime_tasks: build.gauge("outbox_runtime_tasks"),
            runtime_queued_tasks: build.gauge("outbox_runtime_queued_tasks"),
            runtime_delay_seconds: build.histogram("outbox_runtime_delay_seconds"),
            oldest_dead_letter_timestamp: build.gauge("outbox_oldest_dead_letter_timestamp_seconds"),
            oldest_blocked_key_timestamp: build.gauge("outbox_oldest_blocked_key_timestamp_seconds"),
            certificate_expiry_timestamp: build.gauge("outbox_certificate_expiry_timestamp_seconds"),
            circuit_open: build.gauge("outbox_circuit_open"),
            build_info: build.gauges("outbox_build_info"),
            config_info: build.gauges("outbox_config_info"),
            fencing_rejections: build.counter("outbox_fencing_rejections_total"),
            leader_transitions: build.counter("outbox_leader_transitions_total"),
            producer_replaced: build.counter("outbox_producer_replaced_total"),
            last_delivery_timestamp: build.gauge("outbox_last_delivery_timestamp_seconds"),
            blocked_keys: build.gauge("outbox_blocked_keys"),
            deferred_limit: build.gauge("outbox_deferred_limit"),
            retention_published: build.gauge("outbox_retention_published_seconds"),
            rate_limit: build.gauge("outbox_rate_limit"),
            leader: build.gauge("outbox_leader"),
            lease_epoch: build.gauge("outbox_lease_epoch"),
            lease_expiry_timestamp: build.gauge("outbox_lease_expiry_timestamp_seconds"),
            in_flight_messages: build.gauge("outbox_in_flight_messages"),
            in_flight_bytes: build.gauge("outbox_in_flight_bytes"),
            unsafe_settings: build.gauge("outbox_unsafe_settings"),
            publish_seconds: build.histogram("outbox_publish_seconds"),
            batch_messages: build.histogram("outbox_batch_messages"),
            registry: build.registry,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        metrics
    }

    /// The handles of a topic, to be kept by whoever counts for it. All its series exist from now on.
    pub fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        let mut topics = self.topics();
        if let Some(known) = topics.known.get(name) {
            return Arc::clone(known);
        }
        if topics.known.len() >= TOPICS_MAX {
            let other = topics.other.get_or_insert_with(|| Arc::new(self.vectors.topic(OTHER_TOPIC)));
            return Arc::clone(other);
        }
        let policy = topics.policies.of(name);
        let owner = policy.owner.as_deref().unwrap_or_default();
        let info = [name, owner, policy.tier.as_str(), policy.delivery.as_str()];
        self.topic_info.with_label_values(&info).set(1.0);
        let new = Arc::new(self.vectors.topic(name));
        topics.known.insert(name.to_owned(), Arc::clone(&new));
        new
    }

    /// What the configuration says of topics. Those that it names in full have their series from now on.
    pub fn set_policies(&self, policies: &Policies) {
        self.topics().policies = policies.clone();
        policies.names().for_each(|name| drop(self.topic(name)));
    }

    /// Sets the number of open dead letters, for every topic seen so far or named here.
    pub fn set_dead_letters(&self, letters: &BTreeMap<String, u64>) {
        letters.keys().for_each(|topic| drop(self.topic(topic)));
        let topics = self.topics();
        for (name, topic) in &topics.known {
            topic.dead_letters.set(letters.get(name).copied().unwrap_or(0) as f64);
        }
        if let Some(other) = &topics.other {
            let unnamed = letters.iter().filter(|(name, _)| !topics.known.contains_key(*name));
            other.dead_letters.set(unnamed.map(|(_, letters)| *letters).sum::<u64>() as f64);
        }
    }

    /// Sets the number of brokers whose connections stand so.
    pub fn set_kafka_brokers(&self, link: BrokerLink, brokers: usize) {
        self.kafka_brokers.of(link).set(brokers as f64);
    }

    /// What librdkafka has counted since the start: requests sent again, and requests without an answer in time.
    pub fn set_kafka_counts(&self, retries: u64, timeouts: u64) {
        raise(&self.kafka_retries, retries);
        raise(&self.kafka_request_timeouts, timeouts);
    }

    /// How long the runtime's workers have been busy since the start.
    pub fn set_runtime_busy(&self, seconds: f64) {
        self.runtime_busy_seconds.inc_by((seconds - self.runtime_busy_seconds.get()).max(0.0));
    }

    /// Sets the age of what waits, for every topic seen so far. `unread` is topic and time of the first unread row,
    /// `waiting` the oldest row of each topic that has one deferred or in its lane; times are Unix seconds of `created_at`.
    /// A topic without such rows gets the first unread row's time: it cannot have waited longer than that.
    pub fn set_oldest_pending(&self, unread: Option<(&str, f64)>, waiting: &BTreeMap<String, f64>) {
        for topic in waiting.keys().map(String::as_str).chain(unread.map(|(topic, _)| topic)) {
            self.topic(topic);
        }
        let unread = unread.map(|(_, time)| time);
        let oldest =
            |known: Option<f64>| known.into_iter().chain(unread).min_by(f64::total_cmp).unwrap_or(0.0);
        let topics = self.topics();
        for (name, topic) in &topics.known {
            topic.oldest_pending.set(oldest(waiting.get(name).copied()));
        }
        if let Some(other) = &topics.other {
            let unnamed = waiting.iter().filter(|(name, _)| !topics.known.contains_key(*name));
            other.oldest_pending.set(oldest(unnamed.map(|(_, time)| *time).min_by(f64::total_cmp)));
        }
    }

    /// Counts one error that Kafka or librdkafka reported.
    pub fn kafka_error(&self, class: KafkaErrorClass) {
        self.kafka_errors.of(class).inc();
    }

    /// Counts one failed database operation.
    pub fn database_error(&self, operation: Operation) {
        self.database_errors.of(operation).inc();
    }

    /// Counts spans that came to this end.
    pub fn spans(&self, fate: SpanFate, spans: u64) {
        self.trace_spans.of(fate).inc_by(spans);
    }

    /// Spans that were dropped so far.
    pub fn dropped_spans(&self) -> u64 {
        self.trace_spans.of(SpanFate::Dropped).get()
    }

    /// Sets how many lines of warning and error there have been since the start, by event.
    pub fn set_log_lines(&self, counts: &[u64]) {
        self.log_lines.iter().zip(counts).for_each(|(counter, count)| raise(counter, *count));
    }

    /// Notes how long a database operation took, in seconds.
    pub fn database_seconds(&self, operation: Operation, seconds: f64) {
        self.database_seconds.of(operation).observe(seconds);
    }

    /// Sets the number of rows in a state.
    pub fn set_backlog(&self, state: BacklogState, rows: u64) {
        self.backlog.of(state).set(rows as f64);
    }

    /// Says whether reading stands still for this cause.
    pub fn set_reading_stopped(&self, cause: StopCause, stopped: bool) {
        self.reading_stopped.of(cause).set(f64::from(u8::from(stopped)));
    }

    /// This process leads no more: what only a leader knows goes back to zero, for others report it now.
    pub fn end_term(&self) {
        for gauge in [
            &self.leader,
            &self.lease_expiry_timestamp,
            &self.in_flight_messages,
            &self.in_flight_bytes,
            &self.blocked_keys,
            &self.circuit_open,
            &self.rate_limit,
            &self.unaccounted_messages,
            &self.oldest_slot_timestamp,
        ] {
            gauge.set(0.0);
        }
        let topics = self.topics();
        for topic in topics.known.values().chain(&topics.other) {
            TopicSetting::ALL.iter().for_each(|setting| topic.setting_drift.of(*setting).set(0.0));
        }
        drop(topics);
        self.topic_lane.reset();
        self.set_backlog(BacklogState::Laned, 0);
        StopCause::ALL.iter().for_each(|cause| self.set_reading_stopped(*cause, false));
    }

    /// How many records a second all topics together may have; `None` is no limit.
    pub fn set_rate_limit(&self, rate: Option<u32>) {
        self.rate_limit.set(rate.map_or(0.0, f64::from));
    }

    /// Sets the size of a table.
    pub fn set_table_bytes(&self, table: Table, bytes: u64) {
        self.table_bytes.of(table).set(bytes as f64);
    }

    /// Says that a topic is read on its own, for this cause, or no longer. Lanes are few, so the names are bounded.
    pub fn set_topic_lane(&self, topic: &str, cause: &str, open: bool) {
        if open {
            self.topic_lane.with_label_values(&[topic, cause]).set(1.0);
        } else {
            // It may have gone with the end of a lease.
            let _ = self.topic_lane.remove_label_values(&[topic, cause]);
        }
    }

    /// Says whether the last call to this dependency succeeded.
    pub fn set_dependency_up(&self, dependency: Dependency, up: bool) {
        self.dependency_up.of(dependency).set(f64::from(u8::from(up)));
    }

    /// Whether the last call to this dependency succeeded.
    pub fn is_dependency_up(&self, dependency: Dependency) -> bool {
        self.dependency_up.of(dependency).get() > 0.0
    }

    /// Publishes the configuration's fingerprint, so that replicas with different settings stand out.
    pub fn set_config(&self, digest: &str) {
        self.config_info.reset();
        self.config_info.with_label_values(&[digest]).set(1.0);
    }

    /// All series in Prometheus' text format.
    pub fn gather_text(&self) -> String {
        let mut text = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("names were checked at registration, and memory takes it");
        String::from_utf8(text).expect("names, labels and numbers are UTF-8")
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets a counter to a count that somebody else keeps.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// Makes and registers metrics from their line in [`SERIES`].
struct Builder {
    registry: Registry,
}

const CHECKED: &str = "a test registers every line of SERIES";

impl Builder {
    fn register(&self, collector: impl prometheus::core::Collector + 'static) {
        self.registry.register(Box::new(collector)).expect(CHECKED);
    }

    fn vector<V: prometheus::core::Collector + Clone + 'static>(
        &self,
        name: &str,
        make: impl Fn(Opts, &Series) -> prometheus::Result<V>,
    ) -> V {
        let line = series::find(name);
        let vector = make(Opts::new(name, line.help), line).expect(CHECKED);
        self.register(vector.clone());
        vector
    }

    fn counters(&self, name: &str) -> IntCounterVec {
        self.vector(name, |opts, line| IntCounterVec::new(opts, line.labels))
    }

    fn gauges(&self, name: &str) -> GaugeVec {
        self.vector(name, |opts, line| GaugeVec::new(opts, line.labels))
    }

    fn histograms(&self, name: &str) -> HistogramVec {
        self.vector(name, |opts, line| {
            HistogramVec::new(HistogramOpts::from(opts).buckets(line.buckets.to_vec()), line.labels)
        })
    }

    fn counter(&self, name: &str) -> IntCounter {
        self.vector(name, |opts, _| IntCounter::with_opts(opts))
    }

    fn seconds(&self, name: &str) -> Counter {
        self.vector(name, |opts, _| Counter::with_opts(opts))
    }

    fn gauge(&self, name: &str) -> Gauge {
        self.vector(name, |opts, _| Gauge::with_opts(opts))
    }

    fn histogram(&self, name: &str) -> Histogram {
        self.vector(name, |opts, line| {
            Histogram::with_opts(HistogramOpts::from(opts).buckets(line.buckets.to_vec()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }

    #[test]
    fn every_listed_series_exists_at_zero_and_no_other() {
        let metrics = Metrics::new();
        metrics.topic("orders");
        metrics.set_config("abc");
        metrics.set_topic_lane("orders", "missing", true);
        let text = metrics.gather_text();
        let found: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .filter(|(name, _)| name.starts_with("outbox_"))
            .collect();
        let mut listed: Vec<(&str, &str)> =
            SERIES.iter().map(|line| (line.name, line.kind.as_str())).collect();
        listed.sort_unstable();
        assert_eq!(found, listed);
        check(&text, r#"outbox_messages_total{outcome="dead_lettered",topic="orders"} 0"#);
        check(&text, r#"outbox_delivery_seconds_bucket{topic="orders",le="0.015"} 0"#);
        check(&text, r#"outbox_kafka_errors_total{class="throttled"} 0"#);
        check(&text, r#"outbox_reading_stopped{cause="deferred_limit"} 0"#);
        check(&text, concat!(r#"outbox_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#));
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }

    #[test]
    fn what_the_configuration_says_of_a_topic_stands_beside_it() {
        let metrics = Metrics::new();
        let rule = |glob: &str, change| (glob.parse().expect("a pattern"), change);
        let policies = Policies::new(
            crate::policy::Policy::default(),
            vec![
                rule(
                    "orders",
                    crate::policy::Change { owner: Some("checkout".into()), ..Default::default() },
                ),
                rule(
                    "log.*",
                    crate::policy::Change {
                        delivery: Some(crate::policy::Delivery::AtMostOnce),
                        ..Default::default()
                    },
                ),
            ],
        );
        metrics.set_policies(&policies);
        check(
            &metrics.gather_text(),
            r#"outbox_topic_info{delivery="at_least_once",owner="checkout",tier="standard",topic="orders"} 1"#,
        );
        check(&metrics.gather_text(), r#"outbox_dead_letters{topic="orders"} 0"#);
        metrics.set_dead_letters(&BTreeMap::from([("log.web".to_owned(), 7)]));
        let text = metrics.gather_text();
        check(&text, r#"outbox_dead_letters{topic="log.web"} 7"#);
        check(
            &text,
            r#"outbox_topic_info{delivery="at_most_once",owner="",tier="standard",topic="log.web"} 1"#,
        );
        metrics.set_dead_letters(&BTreeMap::new());
        check(&metrics.gather_text(), r#"outbox_dead_letters{topic="log.web"} 0"#);
    }

    #[test]
    fn batches_are_added_up() {
        let metrics = Metrics::new();
        let orders = metrics.topic("orders");
        orders.messages(Outcome::Delivered, 5);
        metrics.topic("orders").messages(Outcome::Delivered, 2);
        let latency = orders.local_delivery_seconds();
        latency.observe(0.004);
        latency.observe(0.02);
        latency.flush();
        metrics.database_seconds(Operation::Poll, 0.001);
        let text = metrics.gather_text();
        check(&text, r#"outbox_messages_total{outcome="delivered",topic="orders"} 7"#);
        check(&text, r#"outbox_delivery_seconds_bucket{topic="orders",le="0.005"} 1"#);
        check(&text, r#"outbox_delivery_seconds_count{topic="orders"} 2"#);
        check(&text, r#"outbox_database_seconds_count{operation="poll"} 1"#);
    }

    #[test]
    fn topics_beyond_the_cap_share_one_label() {
        let metrics = Metrics::new();
        for at in 0..TOPICS_MAX + 5 {
            metrics.topic(&format!("topic-{at}")).read(1);
        }
        let text = metrics.gather_text();
        check(&text, r#"outbox_read_messages_total{topic="topic-0"} 1"#);
        check(&text, r#"outbox_read_messages_total{topic="__other__"} 5"#);
    }

    #[test]
    fn the_oldest_pending_row_is_true_for_every_topic() {
        let metrics = Metrics::new();
        metrics.topic("quiet");
        metrics.set_oldest_pending(Some(("orders", 50.0)), &BTreeMap::from([("sick".to_owned(), 20.0)]));
        let text = metrics.gather_text();
        check(&text, r#"outbox_oldest_pending_timestamp_seconds{topic="sick"} 20"#);
        check(&text, r#"outbox_oldest_pending_timestamp_seconds{topic="orders"} 50"#);
        check(&text, r#"outbox_oldest_pending_timestamp_seconds{topic="quiet"} 50"#);
        metrics.set_oldest_pending(None, &BTreeMap::new());
        check(&metrics.gather_text(), r#"outbox_oldest_pending_timestamp_seconds{topic="sick"} 0"#);
    }
}
