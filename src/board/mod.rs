//! The status page: how the relay is, for a browser at `/` and for programs at `/api/status`.
//!
//! Owns what is shown and how old it is. Whoever asks never causes a question to the database: a task of the relay gathers, at its own
//! pace and only while somebody looks, and the page is served as well while Postgres, Kafka or both are away. Shows no payload, no key
//! and no header; what it says of errors was scrubbed before it was kept.

mod chart;
mod gather;
mod page;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio::sync::Notify;

use crate::metrics::{Dependency, Metrics};
use crate::store::inspect::{LetterGroup, Status, Term};
use crate::telemetry::{self, Change};

pub use self::gather::gather;
pub use self::page::{page, style_digest};

/// Somebody who has asked within this time is still looking.
const LOOKED_AT: Duration = Duration::from_secs(60);
/// Between two points of a chart.
const POINT_EVERY: Duration = Duration::from_secs(5);
/// Points of a chart: ten minutes.
const POINTS: usize = 120;

/// What was found in the database.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The same as `outbox-relay status -o json` says.
    #[serde(flatten)]
    pub status: Status,
    /// Causes of dead letters, the most frequent first.
    pub groups: Vec<LetterGroup>,
    /// Leases that settled something, the newest first.
    pub terms: Vec<Term>,
}

/// One point of the charts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Point {
    /// Unix seconds.
    pub at: f64,
    /// Age of the oldest message that waits, in seconds.
    pub lag_seconds: f64,
    /// Messages that are unread, retried or behind one that is; what waits in lanes is not sampled.
    pub waiting: f64,
    /// Ids a second that reading has passed, whoever leads: messages that were delivered, or put off. Lanes are not in it.
    pub passed: f64,
}

/// What is shown.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// The version of this relay.
    pub version: &'static str,
    /// Its name in the lease.
    pub relay: String,
    /// This relay leads.
    pub leads: bool,
    /// Kafka confirms nothing, so nothing more is handed over.
    pub circuit_open: bool,
    /// Messages that a comparison has not found in Kafka, and rows that nobody accounts for, which only the leader knows.
    pub lost: u64,
    /// The last call to Postgres succeeded.
    pub postgres_up: bool,
    /// Some broker is connected.
    pub kafka_up: bool,
    /// Seconds since `found` was gathered; null: not yet.
    pub age_seconds: Option<f64>,
    /// Why the database could not be asked when that was tried last.
    pub trouble: Option<String>,
    /// What the database said when it was asked last; null: not yet.
    pub found: Option<Found>,
    /// The last ten minutes, the oldest first.
    pub points: Vec<Point>,
    /// What this relay has logged lately, at `log.level` and at information at least, the newest first.
    pub changes: Vec<Change>,
}

/// What the page knows; shared by those who find out and those who serve.
pub struct Board {
    relay: String,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    asked: Notify,
    told: Notify,
}

#[derive(Default)]
struct State {
    found: Option<(Instant, Found)>,
    trouble: Option<String>,
    asked_at: Option<Instant>,
    points: VecDeque<Point>,
    /// How far reading had come, and when.
    passed: Option<(Instant, i64)>,
}

impl Board {
    /// Knows nothing yet. `relay` is the relay's name in the lease.
    pub fn new(relay: String, metrics: Arc<Metrics>) -> Board {
        Board { relay, metrics, state: Mutex::default(), asked: Notify::new(), told: Notify::new() }
    }

    /// What is known now. The first one to look after a while waits for an answer of the database, for a second at most.
    pub async fn look(&self) -> Facts {
        let is_first = {
            let mut state = self.state();
            let first = state.asked_at.is_none_or(|at| at.elapsed() >= LOOKED_AT);
            state.asked_at = Some(Instant::now());
            first
        };
        if is_first {
            let told = self.told.notified();
            self.asked.notify_one();
            let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        }
        self.facts()
    }

    fn facts(&self) -> Facts {
        let state = self.state();
        Facts {
            version: env!("CARGO_PKG_VERSION"),
            relay: self.relay.clone(),
            leads: self.metrics.leader.get() > 0.0,
            circuit_open: self.metrics.circuit_open.get() > 0.0,
            lost: (self.metrics.unaccounted_messages.get() + self.metrics.reconcile_missing_messages.get())
                as u64,
            postgres_up: self.metrics.is_dependency_up(Dependency::Postgres),
            kafka_up: self.metrics.is_dependency_up(Dependency::Kafka),
            age_seconds: state.found.as_ref().map(|(at, _)| at.elapsed().as_secs_f64()),
            trouble: state.trouble.clone(),
            found: state.found.as_ref().map(|(_, found)| found.clone()),
            points: state.points.iter().copied().collect(),
            changes: telemetry::changes(),
        }
    }

    /// Takes in how much waits, as the gauges show it, and how far reading has come; a point every five seconds.
    pub fn note(&self, waiting: f64, oldest: Option<f64>, position: i64) {
        let now = Instant::now();
        let at =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut state = self.state();
        let passed = match state.passed {
            Some((before, _)) if now.duration_since(before) < POINT_EVERY.mul_f64(0.9) => return,
            Some((before, from)) => {
                (position - from).max(0) as f64 / now.duration_since(before).as_secs_f64()
            }
            None => 0.0,
        };
        state.passed = Some((now, position));
        if state.points.len() == POINTS {
            state.points.pop_front();
        }
        let lag_seconds = oldest.map_or(0.0, |oldest| (at - oldest).max(0.0));
        state.points.push_back(Point { at, lag_seconds, waiting, passed });
    }

    fn is_looked_at(&self) -> bool {
        self.state().asked_at.is_some_and(|at| at.elapsed() < LOOKED_AT)
    }

    fn tell(&self, found: Result<Found, String>) {
        {
            let mut state = self.state();
            match found {
                Ok(found) => (state.found, state.trouble) = (Some((Instant::now(), found)), None),
                Err(trouble) => state.trouble = Some(trouble),
            }
        }
        self.told.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
