//! The judge: holds what was committed, what was broken and what the tables say against the topics read back.
//!
//! Pure: no server, no clock, no randomness, nothing asynchronous; everything comes in as a [`History`], and the same
//! history always gets the same [`Verdict`]. It knows nothing of how the relay works, only what the relay promises:
//!
//! | promise | where | findings |
//! |---|---|---|
//! | nothing committed is lost, nothing else appears, every byte arrives | [`arrival`] | lost, phantom, altered |
//! | a key's records come in the order in which its writers took turns | [`order`] | reordered, scattered |
//! | copies only around faults and within the window; none of at-most-once rows | [`copies`] | duplicate … |
//! | a deposed leader emits at most one window | [`epochs`] | stale epoch |
//! | the database says what happened | [`tables`] | published without record, unaccounted, pending long after heal |
//! | the metrics say what happened | [`metrics`] | metrics disagree |
//!
//! A history that cannot show anything (no rows, tables read too early, one event twice) is not clean either: it is
//! *unsound*, a fault of the harness. [`index`] pairs rows with records once, in one walk; every check is linear.
#![allow(
    dead_code,
    unused_imports,
    reason = "two binaries include this module: one runs its tests, the other judges with it, neither needs all of it"
)]

mod arrival;
mod copies;
mod epochs;
mod history;
mod index;
mod metrics;
mod order;
mod tables;
mod verdict;

#[cfg(test)]
mod tests;

#[allow(
    unused_imports,
    reason = "two binaries include this module, and neither of them needs all of it"
)]
pub use self::{
    history::{
        Bounds, Delivery, Expectation, Fault, History, Metrics, Micros, Record, Removed, Row, State, Takeover,
    },
    verdict::{Change, Counts, Finding, Interval, Kind, Place, Verdict},
};

use self::index::Index;
use self::verdict::Report;

/// Judges a whole run. A million rows take seconds; memory grows with rows and records, not with what is wrong.
pub fn judge(history: &History) -> Verdict {
    let mut report = Report::default();
    let index = Index::build(history, &mut report);
    arrival::check(&index, &mut report);
    order::check(&index, &mut report);
    copies::check(&index, &mut report);
    epochs::check(&index, &mut report);
    tables::check(&index, &mut report);
    metrics::check(&index, &mut report);
    report.into_verdict()
}
