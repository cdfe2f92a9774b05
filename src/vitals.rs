//! How the process itself is: its Kafka clients, the async runtime, the certificates it presents. For gauges, on leaders and
//! standbys alike. Nothing here touches a row or a database.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::certificate;
use crate::kafka::{Inbox, Pulse};
use crate::metrics::{BrokerLink, Metrics};
use crate::telemetry;

/// How often is looked; each look also measures how late its timer ran.
const EVERY: Duration = Duration::from_millis(500);

/// Certificates are read again this often: they are replaced while we run.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// Looks for ever. Nothing that fails ends it.
pub async fn watch(
    inbox: Arc<Inbox>,
    certificates: Vec<PathBuf>,
    metrics: Arc<Metrics>,
) -> Result<(), Infallible> {
    let mut certificates_read: Option<Instant> = None;
    loop {
        crate::crash_point::work("vitals");
        let due = Instant::now() + EVERY;
        tokio::time::sleep_until(due.into()).await;
        metrics.runtime_delay_seconds.observe(due.elapsed().as_secs_f64());
        take_runtime(&metrics);
        take_pulse(&inbox.pulse(), &metrics);
        metrics.set_log_lines(&telemetry::counts());
        if !certificates.is_empty() && certificates_read.is_none_or(|at| at.elapsed() >= CERTIFICATES_EVERY) {
            certificates_read = Some(Instant::now());
            // One that cannot be read keeps its last known date: a connection that needs it says what is wrong.
            if let Some(at) = first_expiry(&certificates).await {
                metrics.certificate_expiry_timestamp.set(at as f64);
            }
        }
    }
}

fn take_pulse(pulse: &Pulse, metrics: &Metrics) {
    metrics.set_kafka_brokers(BrokerLink::Up, pulse.up);
    metrics.set_kafka_brokers(BrokerLink::Down, pulse.down);
    metrics.set_kafka_brokers(BrokerLink::Idle, pulse.idle);
    metrics.kafka_round_trip_p95.set(pulse.round_trip_p95);
    metrics.kafka_queue_ratio.set(pulse.queue_fill);
    metrics.set_kafka_counts(pulse.retries, pulse.timeouts);
}

fn take_runtime(metrics: &Metrics) {
    let runtime = tokio::runtime::Handle::current().metrics();
    let workers = runtime.num_workers();
    metrics.runtime_workers.set(workers as f64);
    metrics.runtime_tasks.set(runtime.num_alive_tasks() as f64);
    metrics.runtime_queued_tasks.set(runtime.global_queue_depth() as f64);
    let busy: Duration = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
    metrics.set_runtime_busy(busy.as_secs_f64());
}

async fn first_expiry(certificates: &[PathBuf]) -> Option<i64> {
    let mut first = None;
    for path in certificates {
        let Ok(pem) = tokio::fs::read_to_string(path).await else { continue };
        first = certificate::expiry(&pem).into_iter().chain(first).min();
    }
    first
}
