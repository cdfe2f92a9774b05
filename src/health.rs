//! What the probes say. Liveness: every loop that runs has *tried* lately, whether or not it succeeded; an outage of
//! Postgres or Kafka never fails it, for a restart would not help. Readiness: settings, database and brokers were right
//! once, and Postgres has answered within the last minute; it does not flap on a short outage, and a standby is ready. Start-up:
//! the loops try; whether anything answers them is not its business, or a pod would be killed for somebody else's outage.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a loop may go without trying, and Postgres without answering. Each loop tries at least every few seconds, whether or not
/// rows wait: a minute without is a hung one. A fast restart or a failover of Postgres is over by then.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The loops under watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the loops")]
pub enum Loop {
    Follow,
    Lead,
    Read,
    Send,
    Settle,
    Sample,
}

/// What has to be right once before the process counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The primary was reached, and its schema fits this binary.
    Postgres,
    /// The brokers told their metadata.
    Kafka,
}

const LOOPS: [(Loop, &str); 6] = [
    (Loop::Follow, "follow"),
    (Loop::Lead, "lead"),
    (Loop::Read, "read"),
    (Loop::Send, "send"),
    (Loop::Settle, "settle"),
    (Loop::Sample, "sample"),
];
const CONDITIONS: [(Condition, &str); 2] = [(Condition::Postgres, "postgres"), (Condition::Kafka, "kafka")];

/// The state behind `/livez` and `/readyz`. The loops write it without locks, the probes read it.
pub struct Health {
    started: Instant,
    patience: Duration,
    loops: [Watched; LOOPS.len()],
    conditions: [Reached; CONDITIONS.len()],
    stopping: AtomicBool,
}

#[derive(Default)]
struct Watched {
    running: AtomicU32,
    /// Milliseconds after `started`.
    tried: AtomicU64,
}

#[derive(Default)]
struct Reached {
    reached: AtomicBool,
    waiting_for: Mutex<String>,
    /// Since when it has been out of reach, and why.
    away: Mutex<Option<(Duration, String)>>,
}

/// A probe's answer: whether all is well, and one line per thing looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether the probe succeeds.
    pub ok: bool,
    /// Plain text, a line each.
    pub text: String,
}

/// Keeps a loop under watch until it is dropped: a loop that ended on purpose is not a stalled one.
#[must_use = "the loop is watched for as long as this lives"]
pub struct Running {
    health: Arc<Health>,
    watched: Loop,
}

impl Running {
    /// The loop is trying: to be called in every round, also when nothing works.
    pub fn tick(&self) {
        self.health.tick(self.watched);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.health.loops[self.watched as usize].running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    /// Nothing runs, nothing was reached. The configuration has been loaded, or there would be no `Health`.
    pub fn new(patience: Duration) -> Health {
        Health {
            started: Instant::now(),
            patience,
            loops: Default::default(),
            conditions: Default::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Puts a loop under watch.
    pub fn running(self: &Arc<Self>, watched: Loop) -> Running {
        self.tick(watched);
        self.loops[watched as usize].running.fetch_add(1, Ordering::Relaxed);
        Running { health: Arc::clone(self), watched }
    }

    /// The loop is trying; for those who do not hold its [`Running`].
    pub fn tick(&self, watched: Loop) {
        let now = self.elapsed().as_millis() as u64;
        self.loops[watched as usize].tried.store(now, Ordering::Relaxed);
    }

    /// This condition holds. It is not taken back when a connection drops.
    pub fn reached(&self, condition: Condition) {
        self.conditions[condition as usize].reached.store(true, Ordering::Relaxed);
    }

    /// It has just answered.
    pub fn heard(&self, condition: Condition) {
        self.away(condition).take();
    }

    /// It has just not answered, and why. The reason is shown to whoever asks `/readyz`: no connection strings.
    pub fn missed(&self, condition: Condition, reason: &str) {
        let now = self.elapsed();
        let mut away = self.away(condition);
        let since = away.take().map_or(now, |(since, _)| since);
        *away = Some((since, reason.to_owned()));
    }

    fn away(&self, condition: Condition) -> MutexGuard<'_, Option<(Duration, String)>> {
        self.conditions[condition as usize].away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this condition holds.
    pub fn has_reached(&self, condition: Condition) -> bool {
        self.conditions[condition as usize].reached.load(Ordering::Relaxed)
    }

    /// This condition does not hold yet, and why; also takes it back where waiting cannot help (a schema that no
    /// longer fits). The reason is shown to whoever asks `/readyz`: no connection strings.
    pub fn waiting(&self, condition: Condition, reason: &str) {
        let state = &self.conditions[condition as usize];
        *state.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        state.reached.store(false, Ordering::Relaxed);
    }

    /// The process drains and will end: not ready any more, still alive.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The answer of `/livez`.
    pub fn live(&self) -> Report {
        self.live_at(self.elapsed())
    }

    /// The answer of `/startupz`.
    pub fn started(&self) -> Report {
        let mut report = Report { ok: true, text: String::new() };
        let has_tried = |watched: Loop| self.loops[watched as usize].running.load(Ordering::Relaxed) > 0;
        let tries = has_tried(Loop::Sample) && (has_tried(Loop::Follow) || has_tried(Loop::Lead));
        report.line("loops", (!tries).then_some("not started yet"));
        report
    }

    /// The answer of `/readyz`.
    pub fn ready(&self) -> Report {
        self.ready_at(self.elapsed())
    }

    fn ready_at(&self, now: Duration) -> Report {
        let mut report = Report { ok: true, text: String::new() };
        report.line("configuration", None);
        for (condition, name) in CONDITIONS {
            let state = &self.conditions[condition as usize];
            let reason = state.waiting_for.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = if reason.is_empty() { "not reached yet" } else { &reason };
            let away = self.away(condition);
            let away = away.as_ref().map(|(since, why)| (now.saturating_sub(*since), why));
            let away = away.filter(|(long, _)| *long >= self.patience);
            let away = away.map(|(long, why)| format!("out of reach for {} s: {why}", long.as_secs()));
            let problem = if state.reached.load(Ordering::Relaxed) { away.as_deref() } else { Some(reason) };
            report.line(name, problem);
        }
        if self.stopping.load(Ordering::Relaxed) {
            report.line("process", Some("stopping"));
        }
        report
    }

    fn live_at(&self, now: Duration) -> Report {
        let mut report = Report { ok: true, text: String::new() };
        report.line("process", None);
        for (watched, name) in LOOPS {
            let state = &self.loops[watched as usize];
            if state.running.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let tried = Duration::from_millis(state.tried.load(Ordering::Relaxed));
            let silent = now.saturating_sub(tried);
            let stalled = format!("has not tried for {} s", silent.as_secs());
            report.line(name, (silent > self.patience).then_some(&stalled));
        }
        report
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Default for Health {
    fn default() -> Self {
        Health::new(PATIENCE)
    }
}

impl Report {
    fn line(&mut self, name: &str, problem: Option<&str>) {
        self.ok &= problem.is_none();
        self.text.push_str(&format!("{name}: {}\n", problem.unwrap_or("ok")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(report: Report, ok: bool, text: &str) {
        assert_eq!(report, Report { ok, text: text.to_owned() });
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn places_match_the_lists() {
        assert!(LOOPS.iter().enumerate().all(|(at, (watched, _))| *watched as usize == at));
        assert!(CONDITIONS.iter().enumerate().all(|(at, (condition, _))| *condition as usize == at));
    }

    #[test]
    fn a_running_loop_that_stops_trying_fails_liveness() {
        let health = Arc::new(Health::new(60 * SECOND));
        check(health.live_at(1000 * SECOND), true, "process: ok\n");
        let read = health.running(Loop::Read);
        let send = health.running(Loop::Send);
        read.tick();
        check(health.live_at(59 * SECOND), true, "process: ok\nread: ok\nsend: ok\n");
        let stalled = "process: ok\nread: has not tried for 75 s\nsend: has not tried for 75 s\n";
        let late = health.live_at(75 * SECOND + Duration::from_millis(500));
        check(late, false, stalled);
        drop((read, send));
        check(health.live_at(1000 * SECOND), true, "process: ok\n");
    }

    #[test]
    fn readiness_waits_for_both_dependencies_once() {
        let health = Arc::new(Health::default());
        check(
            health.ready(),
            false,
            "configuration: ok\npostgres: not reached yet\nkafka: not reached yet\n",
        );
        health.waiting(Condition::Postgres, "schema outbox is missing: run outbox-relay migrate");
        health.reached(Condition::Kafka);
        let reason = "postgres: schema outbox is missing: run outbox-relay migrate\n";
        check(health.ready(), false, &format!("configuration: ok\n{reason}kafka: ok\n"));
        health.reached(Condition::Postgres);
        check(health.ready(), true, "configuration: ok\npostgres: ok\nkafka: ok\n");
        health.missed(Condition::Postgres, "postgres is not reachable");
        let minute = health.elapsed() + PATIENCE;
        check(health.ready(), true, "configuration: ok\npostgres: ok\nkafka: ok\n");
        let away = "postgres: out of reach for 60 s: postgres is not reachable\n";
        check(health.ready_at(minute), false, &format!("configuration: ok\n{away}kafka: ok\n"));
        assert!(health.live().ok, "a restart would not help");
        health.heard(Condition::Postgres);
        check(health.ready_at(minute), true, "configuration: ok\npostgres: ok\nkafka: ok\n");
        health.stopping();
        check(health.ready(), false, "configuration: ok\npostgres: ok\nkafka: ok\nprocess: stopping\n");
        assert!(health.live().ok);
    }
}
