//! Copies: only around faults, no more than the windows that were repeated, and none at all of at-most-once rows.

use super::history::{Delivery, Expectation, History, Micros};
use super::index::Index;
use super::verdict::{Finding, Interval, Report};

/// Kafka stamps records in whole milliseconds, rounded down: a copy made just after a fault began may seem older.
const GRAIN: Micros = 1_000;

/// Reports copies that no fault explains, and intervals that hold more than their bound.
pub fn check(index: &Index<'_>, report: &mut Report) {
    let mut intervals = intervals(index.history);
    // In the order of rows, so that the same history gets the same words.
    let mut repeated: Vec<_> = index.more.iter().collect();
    repeated.sort_unstable_by_key(|(row, _)| **row);
    for (no, copies) in repeated {
        let row = &index.history.rows[*no];
        let first = index.first[*no].expect("a copy has a first");
        if !row.committed || index.history.requeued.contains(&row.event) {
            continue;
        }
        for copy in copies {
            let (id, event) = (row.id, row.event);
            // A server that lost commits has lost settlements too, those of at-most-once rows among them.
            let forgotten = index.history.expectation == Expectation::AsynchronousPromotion;
            if row.delivery == Delivery::AtMostOnce && !forgotten {
                let (first, copy) = (first.into(), (*copy).into());
                report.add(Finding::CopyOfAtMostOnce { id, event, first, copy });
            } else if let Some(interval) = around(&mut intervals, copy.at) {
                interval.copies += 1;
                report.counts().duplicates += 1;
            } else {
                let (first, at, copy) = (first.into(), copy.at, (*copy).into());
                report.add(Finding::DuplicateOutside { id, event, first, copy, at });
            }
        }
    }
    for Interval { faults, from, to, copies, bound } in intervals.iter().filter(|i| i.copies > i.bound) {
        let (faults, from, to, copies, bound) = (faults.clone(), *from, *to, *copies, *bound);
        report.add(Finding::DuplicatesAbove { faults, from, to, copies, bound });
    }
    report.intervals(intervals);
}

/// The faults' intervals, merged where they touch, in order, each with its bound: a window for every takeover and
/// every replaced producer in it, and what faults of Postgres undid.
fn intervals(history: &History) -> Vec<Interval> {
    let mut faults: Vec<_> = history.faults.iter().collect();
    faults.sort_by_key(|fault| (fault.from, fault.to));
    let mut intervals: Vec<Interval> = Vec::new();
    for fault in faults {
        let (from, to) = (fault.from - GRAIN, fault.to + history.bounds.slack);
        match intervals.last_mut().filter(|last| last.to >= from) {
            Some(last) => {
                last.to = last.to.max(to);
                last.faults = format!("{}, {}", last.faults, fault.name);
                last.bound += fault.undone;
            }
            None => {
                let (faults, bound) = (fault.name.clone(), fault.undone);
                intervals.push(Interval { faults, from, to, copies: 0, bound });
            }
        }
    }
    let takeovers = history.takeovers.iter().map(|takeover| takeover.at);
    for at in takeovers.chain(history.replacements.iter().copied()) {
        if let Some(interval) = around(&mut intervals, at) {
            interval.bound += history.bounds.window_rows;
        }
    }
    intervals
}

/// The interval that holds this time. They are in order and apart.
fn around(intervals: &mut [Interval], at: Micros) -> Option<&mut Interval> {
    let after = intervals.partition_point(|interval| interval.from <= at);
    intervals[..after].last_mut().filter(|interval| at <= interval.to)
}
