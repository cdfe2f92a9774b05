//! Pairs rows with their records in one walk, so that every check is a walk as well. It judges only whether the
//! history can be judged at all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::history::{Expectation, History, Record, Removed, Row, State};
use super::verdict::{Finding, Place, Report};

/// A row's number in [`History::rows`].
pub type RowNo = usize;

/// The history with its threads tied together.
pub struct Index<'h> {
    /// All of it.
    pub history: &'h History,
    /// Everything that was ever in a topic: removed records first, then what is still there; each partition in order.
    pub stream: Vec<&'h Record>,
    /// Of each record of the stream: its row, if there is one.
    pub row_of: Vec<Option<RowNo>>,
    /// Of each row: its first record.
    pub first: Vec<Option<&'h Record>>,
    /// Further records, of the few rows that have some, in order.
    pub more: HashMap<RowNo, Vec<&'h Record>>,
    /// Removed records at the head of the stream.
    pub removed: usize,
}

impl<'h> Index<'h> {
    /// Ties the threads, and reports a history that cannot be one.
    pub fn build(history: &'h History, report: &mut Report) -> Index<'h> {
        let rows = rows_by_event(history, report);
        check_frame(history, report);
        let (stream, removed) = stream(history, report);
        let mut index = Index {
            history,
            row_of: Vec::with_capacity(stream.len()),
            first: vec![None; history.rows.len()],
            more: HashMap::new(),
            stream,
            removed,
        };
        for record in &index.stream {
            let row = record.event.and_then(|event| rows.get(&event).copied());
            index.row_of.push(row);
            if let Some(row) = row {
                match &mut index.first[row] {
                    Some(_) => index.more.entry(row).or_default().push(record),
                    first @ None => *first = Some(record),
                }
            }
        }
        let counts = report.counts();
        counts.records = index.stream.len() as u64;
        counts.rows = history.rows.iter().filter(|row| row.committed).count() as u64;
        counts.rolled_back = history.rows.len() as u64 - counts.rows;
        if counts.rows == 0 {
            report.unsound("no row was committed, so nothing was shown");
        }
        index
    }

    /// Rows that must be accounted for, with their numbers: committed, and not known to be lost by the server.
    pub fn committed(&self) -> impl Iterator<Item = (RowNo, &'h Row)> {
        let rows = self.history.rows.iter().enumerate();
        rows.filter(|(_, row)| row.committed && !self.is_excused(row))
    }

    /// Whether the scenario says that the server may have lost this row.
    pub fn is_excused(&self, row: &Row) -> bool {
        row.lost_by_server && self.history.expectation == Expectation::AsynchronousPromotion
    }

    /// What the database says of a row. Do not ask for excused rows: another one may have got the id.
    pub fn state(&self, row: &Row) -> Option<State> {
        self.history.table.get(&row.id).copied()
    }

    /// All records of a row, in order.
    pub fn records(&self, row: RowNo) -> impl Iterator<Item = &'h Record> {
        self.first[row].into_iter().chain(self.more.get(&row).into_iter().flatten().copied())
    }
}

fn rows_by_event(history: &History, report: &mut Report) -> HashMap<Uuid, RowNo> {
    let mut rows = HashMap::with_capacity(history.rows.len());
    let mut ids = HashSet::with_capacity(history.rows.len());
    for (no, row) in history.rows.iter().enumerate() {
        if rows.insert(row.event, no).is_some() {
            report.unsound(format!("event {} belongs to two rows", row.event));
        }
        if row.committed && !row.lost_by_server && !ids.insert(row.id) {
            report.unsound(format!("two committed rows have id {}", row.id));
        }
        if row.lost_by_server && history.expectation != Expectation::AsynchronousPromotion {
            report.unsound(format!("the server lost committed row {}, which nobody expected", row.id));
        }
    }
    rows
}

fn check_frame(history: &History, report: &mut Report) {
    for fault in history.faults.iter().filter(|fault| fault.to < fault.from) {
        report.unsound(format!("fault {} was healed before it began", fault.name));
    }
    for records in [&history.records, &history.seen] {
        let mut last: HashMap<(&str, i32), i64> = HashMap::new();
        for record in records {
            // A consumer that reads along sees a topic that was created again from 0.
            let again = std::ptr::eq(records, &raw const history.seen) && record.offset == 0;
            let before = last.insert((&record.topic, record.partition), record.offset);
            if before.is_some_and(|before| before >= record.offset) && !again {
                report.unsound(format!("{} was read after a later offset", Place::from(record)));
            }
        }
    }
}

/// What was taken away, ready to be asked.
#[derive(Default)]
struct Taken<'h> {
    offsets: HashMap<(&'h str, i32), Vec<std::ops::Range<i64>>>,
    events: HashMap<&'h str, Vec<&'h HashSet<Uuid>>>,
}

impl<'h> Taken<'h> {
    fn new(removed: &'h [Removed]) -> Taken<'h> {
        let mut taken = Taken::default();
        for removed in removed {
            match removed {
                Removed::Offsets { topic, partition, offsets } => {
                    taken.offsets.entry((topic, *partition)).or_default().push(offsets.clone());
                }
                Removed::Events { topic, events } => taken.events.entry(topic).or_default().push(events),
            }
        }
        taken
    }

    fn by_place(&self, record: &Record) -> bool {
        let ranges = self.offsets.get(&(&*record.topic, record.partition));
        ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&record.offset)))
    }

    fn by_event(&self, record: &Record) -> bool {
        let Some(sets) = self.events.get(&*record.topic) else { return false };
        record.event.is_some_and(|event| sets.iter().any(|set| set.contains(&event)))
    }
}

/// The stream, and how many removed records are at its head.
fn stream<'h>(history: &'h History, report: &mut Report) -> (Vec<&'h Record>, usize) {
    if history.expectation != Expectation::Removed {
        return (history.records.iter().collect(), 0);
    }
    let taken = Taken::new(&history.removed);
    let is_taken = |record: &&Record| taken.by_place(record) || taken.by_event(record);
    let mut stream: Vec<&Record> = history.seen.iter().filter(is_taken).collect();
    let removed = stream.len();
    if removed == 0 {
        report.unsound("records were to be removed, and none was seen that is said to be removed");
    }
    let identity =
        |record: &Record| (Arc::clone(&record.topic), record.partition, record.offset, record.event);
    let known: HashSet<_> = stream.iter().map(|record| identity(record)).collect();
    for record in &history.records {
        if !known.contains(&identity(record)) {
            stream.push(record);
        } else if let (true, Some(event)) = (taken.by_place(record), record.event) {
            report.add(Finding::StillThere { event, place: record.into() });
        }
    }
    (stream, removed)
}
