//! Nothing committed is lost, nothing else appears, and what arrives is what was written.

use std::sync::Arc;

use super::history::{Delivery, Record, Row, State};
use super::index::Index;
use super::verdict::{Change, Finding, Report, key};

/// Reports lost rows, phantoms and altered records, and counts what became of the rows.
pub fn check(index: &Index<'_>, report: &mut Report) {
    for (record, row) in index.stream.iter().zip(&index.row_of) {
        let row = row.map(|row| &index.history.rows[row]);
        match row {
            Some(row) if row.committed => compare(row, record, report),
            _ => report.add(Finding::Phantom {
                id: row.map(|row| row.id),
                event: record.event,
                place: (*record).into(),
            }),
        }
    }
    let excused = index.history.rows.iter().enumerate().filter(|(_, row)| index.is_excused(row));
    report.counts().lost_by_server = excused.filter(|(no, _)| index.first[*no].is_some()).count() as u64;
    count_removed(index, report);
    for (no, row) in index.committed() {
        let (state, arrived) = (index.state(row), index.first[no].is_some());
        count_state(state, report);
        if arrived {
            continue;
        }
        if row.delivery == Delivery::AtMostOnce {
            report.counts().at_most_once_lost += u64::from(!waits(state));
        } else if is_lost(state) {
            report.add(Finding::Lost {
                id: row.id,
                event: row.event,
                topic: Arc::clone(&row.topic),
                key: key(row),
                version: row.version,
                state,
            });
        }
    }
}

fn compare(row: &Row, record: &Record, report: &mut Report) {
    let changes = [
        (Change::Topic, row.topic != record.topic),
        (Change::Key, row.key != record.key),
        (Change::Content, row.digest != record.digest),
        (Change::Seq, record.seq.is_some_and(|seq| seq != row.id)),
    ];
    for (change, differs) in changes {
        if differs {
            report.add(Finding::Altered { id: row.id, event: row.event, change, place: record.into() });
        }
    }
}

/// Still to come; whether it has waited too long is said by the check of the tables.
fn waits(state: Option<State>) -> bool {
    matches!(state, Some(State::Pending | State::Deferred))
}

/// Of a row that did not arrive. Only an at-most-once row may be dropped.
fn is_lost(state: Option<State>) -> bool {
    match state {
        Some(State::Pending | State::Deferred | State::Dead | State::Expired) => false,
        Some(State::Published { .. } | State::PassedBy | State::Gone | State::Dropped) | None => true,
    }
}

fn count_state(state: Option<State>, report: &mut Report) {
    let counts = report.counts();
    match state {
        Some(State::Dead) => counts.dead += 1,
        Some(State::Expired) => counts.expired += 1,
        Some(State::Pending | State::Deferred) => counts.pending += 1,
        _ => {}
    }
}

/// Rows of which nothing is left but what the consumer that read along had seen.
fn count_removed(index: &Index<'_>, report: &mut Report) {
    if index.removed == 0 {
        return;
    }
    let mut left = vec![false; index.history.rows.len()];
    for row in index.row_of[index.removed..].iter().flatten() {
        left[*row] = true;
    }
    let mut removed = vec![false; index.history.rows.len()];
    for row in index.row_of[..index.removed].iter().flatten() {
        removed[*row] = !left[*row];
    }
    report.counts().removed = removed.iter().filter(|removed| **removed).count() as u64;
}
