//! The metrics say what happened. Exactly, where nothing went wrong; within what the history allows, where something
//! did: a process that dies between counting and settling lets its successor count the same row again.
//!
//! Only series that the relays have are held against the truth.

use std::collections::BTreeMap;

use super::history::{Expectation, Metrics, State};
use super::index::Index;
use super::verdict::{Finding, Report};

/// What is true of a topic.
#[derive(Default)]
struct Truth {
    rows: u64,
    published: u64,
    dead: u64,
    dropped: u64,
    expired: u64,
    /// What was requeued may reach its outcome again.
    requeued: u64,
    records: u64,
    /// A row of it is not dealt with.
    waits: bool,
}

/// Reports series that disagree.
pub fn check(index: &Index<'_>, report: &mut Report) {
    let history = index.history;
    if history.metrics.values.is_empty() {
        return;
    }
    let truth = truth(index);
    let mut compare = Compare { metrics: &history.metrics, report };
    // What every new leader and every new producer may count once more.
    let again = match history.takeovers.len().saturating_sub(1) + history.replacements.len() {
        0 if history.faults.is_empty() => Some(0),
        0 => None,
        terms => Some(terms as u64 * history.bounds.window_rows),
    };
    for (topic, truth) in &truth {
        let outcome = |outcome| [("topic", *topic), ("outcome", outcome)];
        // Every confirm is a record of its own, also those that nobody settled. Removed records may not have been
        // seen by anyone.
        let unseen = history.expectation == Expectation::Removed;
        let records = if unseen { u64::MAX } else { truth.records };
        let messages = "outbox_messages_total";
        compare.series(messages, &outcome("delivered"), truth.published, records);
        compare.series(
            "outbox_attempts_total",
            &[("topic", topic), ("result", "ack")],
            truth.published,
            records,
        );
        let most = |rows: u64| again.map_or(u64::MAX, |again| rows + again);
        compare.series(messages, &outcome("dead_lettered"), truth.dead, most(truth.dead + truth.requeued));
        compare.series(messages, &outcome("dropped"), truth.dropped, most(truth.dropped));
        compare.series(messages, &outcome("expired"), truth.expired, most(truth.expired));
        // A new leader reads from the last settled position, which no window bounds.
        let read_most = if again == Some(0) { truth.rows } else { u64::MAX };
        let read_least = if truth.waits { 0 } else { truth.rows };
        compare.series("outbox_read_messages_total", &[("topic", topic)], read_least, read_most);
    }
    let terms = history.takeovers.len() as u64;
    compare.series("outbox_leader_transitions_total", &[], terms, terms);
    if history.expectation != Expectation::AsynchronousPromotion {
        compare.series("outbox_loss_incidents_total", &[], 0, 0);
        compare.series("outbox_unaccounted_messages", &[], 0, 0);
    }
    if !truth.values().any(|truth| truth.waits) {
        for state in ["ready", "retrying", "blocked", "scheduled", "laned"] {
            compare.series("outbox_backlog_messages", &[("state", state)], 0, 0);
        }
    }
}

fn truth<'h>(index: &Index<'h>) -> BTreeMap<&'h str, Truth> {
    let mut truth: BTreeMap<&str, Truth> = BTreeMap::new();
    for (_, row) in index.committed() {
        let topic = truth.entry(&row.topic).or_default();
        topic.rows += 1;
        topic.requeued += u64::from(index.history.requeued.contains(&row.event));
        match index.state(row) {
            Some(State::Published { .. } | State::Gone) => topic.published += 1,
            Some(State::Dead) => topic.dead += 1,
            Some(State::Dropped) => topic.dropped += 1,
            Some(State::Expired) => topic.expired += 1,
            Some(State::Pending | State::Deferred) => topic.waits = true,
            Some(State::PassedBy) | None => {}
        }
    }
    for record in &index.stream {
        truth.entry(&record.topic).or_default().records += 1;
    }
    truth
}

struct Compare<'a> {
    metrics: &'a Metrics,
    report: &'a mut Report,
}

impl Compare<'_> {
    /// The series lies between both, if there is such a series; where counts went down with a process, not above.
    fn series(&mut self, name: &str, labels: &[(&str, &str)], least: u64, most: u64) {
        let Some(value) = self.metrics.get(name, labels) else { return };
        let bound = |rows: u64| if rows == u64::MAX { f64::INFINITY } else { rows as f64 };
        let (least, most) = (if self.metrics.complete { bound(least) } else { 0.0 }, bound(most));
        if !(least..=most).contains(&value) {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let series = format!("{name}{{{}}}", labels.join(","));
            self.report.add(Finding::MetricsDisagree { series, value, least, most });
        }
    }
}
