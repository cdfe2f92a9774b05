//! The list of all series: name, type, labels and help. README's metric table is tested against it.

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "Prometheus' own words")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As Prometheus writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the columns of README's table")]
pub struct Series {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets.
    pub buckets: &'static [f64],
}

/// From a poll without work up to an outbox that waited an hour; 5 ms and 15 ms are the service levels of the bar.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 900.0, 3600.0,
];
/// Single round trips; whatever takes longer than half a minute has failed.
const CALL_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const ROWS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 25000.0, 50000.0,
];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Series {
    Series { name, kind: Kind::Counter, labels, help, buckets: &[] }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Series {
    Series { name, kind: Kind::Gauge, labels, help, buckets: &[] }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    help: &'static str,
) -> Series {
    Series { name, kind: Kind::Histogram, labels, help, buckets }
}

/// All metrics of the relay; those of the process (`process_*`) come from the prometheus crate.
pub const SERIES: &[Series] = &[
    counter(
        "outbox_read_messages_total",
        &["topic"],
        "Outbox rows read for the first time: what services produced.",
    ),
    counter(
        "outbox_messages_total",
        &["topic", "outcome"],
        "Outbox rows that reached an outcome: delivered, dead_lettered, dropped, expired or discarded.",
    ),
    counter(
        "outbox_attempts_total",
        &["topic", "result"],
        "Attempts to send a row: ack, rejected, throttled or unknown.",
    ),
    counter(
        "outbox_redeliveries_total",
        &["topic", "cause"],
        "Rows sent again although they may have arrived: takeover, crash, producer_replaced, requeue or replay.",
    ),
    counter(
        "outbox_deferred_total",
        &["topic", "reason"],
        "Rows passed over for now: retry, behind (an earlier row of the key waits) or scheduled.",
    ),
    counter(
        "outbox_dead_lettered_total",
        &["topic", "reason"],
        "Outbox rows that became dead letters: too_large, refused, expired or other.",
    ),
    counter(
        "outbox_published_bytes_total",
        &["topic"],
        "Bytes of key, payload and headers that Kafka confirmed, uncompressed.",
    ),
    counter(
        "outbox_fencing_rejections_total",
        &[],
        "Statements that changed nothing because another leader had taken over.",
    ),
    counter("outbox_leader_transitions_total", &[], "How often this process became the leader."),
    counter(
        "outbox_producer_replaced_total",
        &[],
        "Kafka producers that ended and were replaced by their spare.",
    ),
    counter(
        "outbox_loss_incidents_total",
        &[],
        "Times that the sweep found rows that no settlement accounts for.",
    ),
    counter(
        "outbox_kafka_errors_total",
        &["class"],
        "Errors from Kafka: unreachable, throttled, topic, record, authentication, authorization, fatal or other.",
    ),
    counter("outbox_database_errors_total", &["operation"], "Failed database operations."),
    gauge(
        "outbox_backlog_messages",
        &["state"],
        "Rows not yet published: ready (upper bound, exact at zero), retrying, blocked, scheduled or laned.",
    ),
    gauge(
        "outbox_oldest_pending_timestamp_seconds",
        &["topic"],
        "When the oldest pending row was written, 0 when none; the first unread row's time for topics without rows that are deferred or in a lane.",
    ),
    gauge(
        "outbox_last_delivery_timestamp_seconds",
        &[],
        "When Kafka last confirmed a record; 0 before the first.",
    ),
    gauge(
        "outbox_table_bytes",
        &["table"],
        "Size of message, ledger, attempt, deferred and dead_letter with their indexes.",
    ),
    gauge(
        "outbox_oldest_slot_timestamp_seconds",
        &[],
        "When the oldest row of outbox.message was written, 0 when there is none.",
    ),
    gauge(
        "outbox_oldest_transaction_timestamp_seconds",
        &[],
        "When the oldest open transaction of the server began, 0 when there is none; of other logins only where the relay's has pg_read_all_stats.",
    ),
    gauge(
        "outbox_reconcile_missing_messages",
        &[],
        "Messages that a reconciliation has not found in Kafka, and that no later one over the same window has found.",
    ),
    gauge(
        "outbox_reconcile_duplicate_messages",
        &[],
        "Records beyond the first of their row that these reconciliations have found.",
    ),
    gauge(
        "outbox_reconcile_last_success_timestamp_seconds",
        &[],
        "When the newest reconciliation ended, whatever it found, in Unix seconds; 0 if there was none.",
    ),
    gauge(
        "outbox_heartbeat_confirmed_timestamp_seconds",
        &[],
        "When the last heartbeat row that Kafka confirmed was written, by the database's clock, in Unix seconds; 0 while heartbeats are off or none was confirmed.",
    ),
    gauge(
        "outbox_maintenance",
        &[],
        "1 while planned work is announced and its end, by the database's clock, is still to come.",
    ),
    gauge(
        "outbox_maintenance_end_timestamp_seconds",
        &[],
        "When announced planned work is to end, in Unix seconds, until somebody ends it or no topic is paused any more; 0 if there is none.",
    ),
    gauge(
        "outbox_unaccounted_messages",
        &[],
        "Rows that were passed by, that no settlement accounts for, and that are not published yet.",
    ),
    gauge("outbox_blocked_keys", &[], "Keys whose later rows wait for a deferred one."),
    gauge(
        "outbox_circuit_open",
        &[],
        "1 while Kafka makes no progress: nothing more is handed over, no row is charged.",
    ),
    gauge(
        "outbox_topic_lane",
        &["topic", "cause"],
        "1 for each topic that is read on its own, with the cause.",
    ),
    gauge(
        "outbox_topic_setting_drift",
        &["topic", "setting"],
        "1 while a setting of a topic is not as this leader saw it first, or can lose records; looked at about once a minute.",
    ),
    gauge(
        "outbox_retention_published_seconds",
        &[],
        "How long published rows stay before their slot is emptied: retention.published.",
    ),
    gauge("outbox_deferred_limit", &[], "Deferred rows at which reading stops: retry.deferred_max."),
    gauge(
        "outbox_rate_limit",
        &[],
        "Records a second, tries again included, that all topics together may have: relay.rate, or what operators have set; 0 without a limit.",
    ),
    gauge("outbox_reading_stopped", &["cause"], "1 while nothing is read: deferred_limit or window_full."),
    gauge("outbox_leader", &[], "1 while this process leads, 0 on a standby."),
    gauge("outbox_lease_epoch", &[], "The epoch of the lease that this process holds or last saw."),
    gauge(
        "outbox_lease_expiry_timestamp_seconds",
        &[],
        "Until when the leader trusts its lease without another beat; 0 on a standby.",
    ),
    gauge("outbox_dependency_up", &["dependency"], "1 while the last call to postgres or kafka succeeded."),
    gauge("outbox_in_flight_messages", &[], "Rows handed to Kafka and not yet settled."),
    gauge("outbox_in_flight_bytes", &[], "Bytes handed to Kafka and not yet settled."),
    gauge("outbox_unsafe_settings", &[], "Properties named in kafka.unsafe: promises given up."),
    gauge("outbox_dead_letters", &["topic"], "Open dead letters, counted up to 100,000 a topic."),
    gauge(
        "outbox_oldest_dead_letter_timestamp_seconds",
        &[],
        "When the oldest open dead letter died, in Unix seconds; 0 when there is none.",
    ),
    gauge(
        "outbox_oldest_blocked_key_timestamp_seconds",
        &[],
        "Since when the longest blocked key waits, in Unix seconds; 0 when none does.",
    ),
    gauge(
        "outbox_topic_info",
        &["topic", "owner", "tier", "delivery"],
        "Always 1; owner, tier and delivery of a topic as the configuration says.",
    ),
    gauge(
        "outbox_certificate_expiry_timestamp_seconds",
        &[],
        "When the first of the client certificates that the relay presents expires, in Unix seconds; 0 without any.",
    ),
    gauge(
        "outbox_kafka_brokers",
        &["state"],
        "Brokers by the state of our best connection: up, down (wanted and not there) or idle (nothing goes there).",
    ),
    gauge(
        "outbox_kafka_round_trip_p95_seconds",
        &[],
        "95 of 100 requests of the last second to the slowest broker were answered within this time.",
    ),
    gauge(
        "outbox_kafka_queue_ratio",
        &[],
        "Share of librdkafka's queue that is used, of the fullest producer.",
    ),
    counter("outbox_kafka_retries_total", &[], "Requests that librdkafka sent again."),
    counter(
        "outbox_kafka_request_timeouts_total",
        &[],
        "Requests of librdkafka that were not answered in time.",
    ),
    counter(
        "outbox_log_lines_total",
        &["event", "level"],
        "Warnings and errors logged, by the event's name in docs/logs.md, those that were left out for being too many included.",
    ),
    counter(
        "outbox_trace_spans_total",
        &["result"],
        "Spans that were exported, or dropped because the queue was full or the collector did not take them.",
    ),
    gauge("outbox_runtime_workers", &[], "Worker threads of the async runtime."),
    gauge("outbox_runtime_tasks", &[], "Tasks that are alive in the async runtime."),
    gauge("outbox_runtime_queued_tasks", &[], "Tasks that wait in the runtime's global queue for a worker."),
    counter(
        "outbox_runtime_busy_seconds_total",
        &[],
        "Seconds that the runtime's workers were busy, all together.",
    ),
    gauge("outbox_build_info", &["version"], "Always 1; the version of the binary."),
    gauge("outbox_config_info", &["digest"], "Always 1; a fingerprint of the effective configuration."),
    histogram(
        "outbox_delivery_seconds",
        &["topic"],
        SECONDS,
        "From a row's insert, or its deliver_after if that is later, to Kafka's confirm, by the database's clock.",
    ),
    histogram(
        "outbox_retry_seconds",
        &["topic"],
        SECONDS,
        "From a row's first rejection to Kafka's confirm, of rows that were rejected at least once.",
    ),
    histogram("outbox_publish_seconds", &[], SECONDS, "From handing a batch to Kafka to its last report."),
    histogram("outbox_database_seconds", &["operation"], CALL_SECONDS, "Duration of database operations."),
    histogram(
        "outbox_runtime_delay_seconds",
        &[],
        CALL_SECONDS,
        "How late a timer of the runtime ran: how long ready work waits for a worker.",
    ),
    histogram("outbox_batch_messages", &[], ROWS, "Rows of a settled batch."),
];

/// The line of a metric that this crate exports.
pub(super) fn find(name: &str) -> &'static Series {
    SERIES.iter().find(|line| line.name == name).unwrap_or_else(|| panic!("{name} is not listed in SERIES"))
}
