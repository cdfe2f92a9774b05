//! Lag and backlog: sampled on a connection of their own, by leader and standbys alike, so that they do not vanish with the
//! leader; every five seconds, and every second while something waits, unless that would cost more than a fiftieth of a connection.
//! Table sizes and the oldest transaction change slowly and are looked at less often.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::board::Board;
use crate::health::{Condition, Health, Loop};
use crate::metrics::{BacklogState, Dependency, Metrics, Operation, Table};
use crate::store::tables::{self, Tables};
use crate::store::{Server, Session, backlog, heartbeat};

/// How often is sampled while nothing waits, or the server does not answer.
const EVERY: Duration = Duration::from_secs(5);
/// … and while something waits: whoever looks at a backlog wants to see it shrink.
const EVERY_WHILE_WAITING: Duration = Duration::from_secs(1);
/// A sample counts deferred rows: with many of them it takes long, and the next one comes after so many times as long, but soon
/// enough not to pass for a stalled loop.
const REST: u32 = 50;
/// How often tables are measured: that asks the file system about a hundred files.
const TABLES_EVERY: Duration = Duration::from_secs(10);

/// Samples for ever, on whichever server is the current one. Nothing that fails ends it. `heartbeats`: some are written, so
/// how far they have come is looked at, too.
pub async fn sample(
    server: watch::Receiver<Server>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    board: Arc<Board>,
    heartbeats: bool,
) -> Result<(), Infallible> {
    let running = health.running(Loop::Sample);
    let mut session: Option<Session> = None;
    let (mut pause, mut measured) = (Duration::ZERO, None::<Instant>);
    loop {
        tokio::time::sleep(pause).await;
        pause = EVERY;
        running.tick();
        crate::crash_point::work("sample");
        let started = Instant::now();
        let sampled = async {
            if session.is_none() {
                let server = server.borrow().clone();
                session = Some(server.connect("sample").await?);
            }
            let session = session.as_mut().expect("it was opened above");
            if heartbeats {
                metrics.heartbeat_confirmed_timestamp.set(heartbeat::confirmed(session).await?);
            }
            if measured.is_none_or(|at| at.elapsed() >= TABLES_EVERY) {
                show_tables(&tables::measure(session).await?, &metrics);
                measured = Some(Instant::now());
            }
            backlog::sample(session).await
        };
        match sampled.await {
            Ok(sample) => {
                metrics.database_seconds(Operation::Sample, started.elapsed().as_secs_f64());
                metrics.set_dependency_up(Dependency::Postgres, true);
                health.heard(Condition::Postgres);
                metrics.set_backlog(BacklogState::Ready, sample.ready as u64);
                metrics.set_backlog(BacklogState::Retrying, sample.deferred.retrying.max(0) as u64);
                metrics.set_backlog(BacklogState::Blocked, sample.deferred.behind.max(0) as u64);
                metrics.set_backlog(BacklogState::Scheduled, sample.deferred.scheduled.max(0) as u64);
                let waiting = sample.ready + sample.deferred.retrying + sample.deferred.behind;
                let unread_at = sample.first_unread.as_ref().map(|(_, at)| *at);
                let oldest = sample.oldest_waiting.values().copied().chain(unread_at).reduce(f64::min);
                board.note(waiting.max(0) as f64, oldest, sample.position);
                let unread = sample.first_unread.as_ref().map(|(topic, at)| (topic.as_str(), *at));
                metrics.set_oldest_pending(unread, &sample.oldest_waiting);
                metrics.set_dead_letters(&sample.dead_letters);
                metrics.oldest_dead_letter_timestamp.set(sample.oldest_dead_letter.unwrap_or(0.0));
                metrics.oldest_blocked_key_timestamp.set(sample.oldest_blocked_key.unwrap_or(0.0));
                metrics.lease_epoch.set(sample.epoch as f64);
                metrics.reconcile_missing_messages.set(sample.reconciled.missing as f64);
                metrics.reconcile_duplicate_messages.set(sample.reconciled.duplicates as f64);
                metrics.reconcile_last_success_timestamp.set(sample.reconciled.ended);
                let announced = sample.maintenance;
                metrics.maintenance.set(f64::from(u8::from(announced.is_some_and(|work| work.holds))));
                metrics.maintenance_end_timestamp.set(announced.map_or(0.0, |work| work.ends));
                if sample.ready > 0 || !sample.oldest_waiting.is_empty() {
                    pause = EVERY_WHILE_WAITING.max(started.elapsed() * REST).min(4 * EVERY);
                }
            }
            // Whoever leads or follows says it; here only the gauge does.
            Err(error) => {
                session = None;
                metrics.database_error(Operation::Sample);
                metrics.set_dependency_up(Dependency::Postgres, false);
                health.missed(Condition::Postgres, &error.to_string());
                tracing::debug!(error = %error, "backlog could not be measured");
            }
        }
    }
}

fn show_tables(tables: &Tables, metrics: &Metrics) {
    for (table, bytes) in [
        (Table::Message, tables.message),
        (Table::Ledger, tables.ledger),
        (Table::Attempt, tables.attempt),
        (Table::Deferred, tables.deferred),
        (Table::DeadLetter, tables.dead_letter),
    ] {
        metrics.set_table_bytes(table, bytes.max(0) as u64);
    }
    metrics.oldest_transaction_timestamp.set(tables.oldest_transaction);
}
