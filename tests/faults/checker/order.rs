//! A key's records come in the order in which its writers took turns, by first appearance and across retries.
//!
//! A copy of an earlier version behind a later one is no inversion: its first record came before. An earlier row that
//! still waits while a later one is out is one already, whatever happens next. Dead, expired and dropped rows have
//! left the order; so have rows without key. A dropped row may arrive all the same, and late: the relay gave its request up
//! while a broker had not read it, and nothing takes a request back. README states that; what was confirmed is in order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::history::{Delivery, Record, Row, State};
use super::index::{Index, RowNo};
use super::verdict::{Finding, Report, key};

/// What is known of a key while its records go by.
struct Turn<'h> {
    /// The latest version that has come, its row and record.
    latest: (i64, RowNo),
    record: &'h Record,
    scattered: bool,
}

/// Reports keys whose order was broken.
pub fn check(index: &Index<'_>, report: &mut Report) {
    let mut turns: HashMap<(&str, &[u8]), Turn<'_>> = HashMap::new();
    let mut begun: HashSet<RowNo> = HashSet::with_capacity(index.first.len());
    for (record, no) in index.stream.iter().zip(&index.row_of) {
        let Some(no) = *no else { continue };
        let row = &index.history.rows[no];
        let Some(group) = group(index, row) else { continue };
        let turn = turns.entry(group).or_insert(Turn { latest: (row.version, no), record, scattered: false });
        check_partition(turn, row, record, report);
        if !begun.insert(no) || turn.latest.1 == no {
            continue;
        }
        let (version, latest) = turn.latest;
        if version > row.version {
            report.add(reordered(row, Some(record), &index.history.rows[latest], turn.record));
        } else if version == row.version {
            report.unsound(format!("key {} of {} has version {version} twice", key(row), row.topic));
        } else {
            (turn.latest, turn.record) = ((row.version, no), record);
        }
    }
    check_waiting(index, &turns, report);
}

/// The order that a row belongs to, if any.
fn group<'h>(index: &Index<'h>, row: &'h Row) -> Option<(&'h str, &'h [u8])> {
    let history = index.history;
    let free = !row.committed
        || index.is_excused(row)
        || (row.delivery == Delivery::AtMostOnce && index.state(row) == Some(State::Dropped))
        || history.requeued.contains(&row.event)
        || history.unordered.contains(&row.topic);
    if free { None } else { row.key.as_deref().map(|key| (&*row.topic, key)) }
}

fn check_partition(turn: &mut Turn<'_>, row: &Row, record: &Record, report: &mut Report) {
    if record.partition != turn.record.partition && record.topic == turn.record.topic && !turn.scattered {
        turn.scattered = true;
        report.add(Finding::Scattered {
            topic: Arc::clone(&row.topic),
            key: key(row),
            partitions: (turn.record.partition, record.partition),
        });
    }
}

/// Rows that did not come, will come, and have been passed.
fn check_waiting(index: &Index<'_>, turns: &HashMap<(&str, &[u8]), Turn<'_>>, report: &mut Report) {
    for (no, row) in index.committed() {
        let waits = matches!(index.state(row), Some(State::Pending | State::Deferred));
        if index.first[no].is_some() || !waits || row.delivery == Delivery::AtMostOnce {
            continue;
        }
        let turn = group(index, row).and_then(|group| turns.get(&group));
        if let Some(turn) = turn.filter(|turn| turn.latest.0 > row.version) {
            report.add(reordered(row, None, &index.history.rows[turn.latest.1], turn.record));
        }
    }
}

fn reordered(earlier: &Row, at: Option<&Record>, later: &Row, before: &Record) -> Finding {
    Finding::Reordered {
        key: key(earlier),
        earlier: (earlier.id, earlier.version),
        at: at.map(Into::into),
        later: (later.id, later.version),
        before: before.into(),
    }
}
