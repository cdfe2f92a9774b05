//! What the judge found, with the ids, keys and places that prove it, one line each. It must not decide anything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::history::{Micros, Record, Row, State};

/// Of each kind so many are kept as proof; all are counted.
const KEPT: u64 = 20;

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl From<&Record> for Place {
    fn from(record: &Record) -> Place {
        Place { topic: Arc::clone(&record.topic), partition: record.partition, offset: record.offset }
    }
}

/// What differs between a row and its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the parts of a record")]
pub enum Change {
    Topic,
    Key,
    Content,
    Seq,
}

/// A broken promise. `id` is the outbox row's.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the fields are what each line prints")]
pub enum Finding {
    /// Committed, and in no topic.
    Lost { id: i64, event: Uuid, topic: Arc<str>, key: String, version: i64, state: Option<State> },
    /// In a topic, and rolled back (`id` is known) or never inserted.
    Phantom { id: Option<i64>, event: Option<Uuid>, place: Place },
    /// A later version of the key came before the first record of an earlier one, which is there or still to come.
    Reordered { key: String, earlier: (i64, i64), at: Option<Place>, later: (i64, i64), before: Place },
    /// A key's records lie in two partitions, so nobody can read them in order.
    Scattered { topic: Arc<str>, key: String, partitions: (i32, i32) },
    /// A copy at a time when nothing was broken.
    DuplicateOutside { id: i64, event: Uuid, first: Place, copy: Place, at: Micros },
    /// More copies in an interval of faults than `bound`.
    DuplicatesAbove { faults: String, from: Micros, to: Micros, copies: u64, bound: u64 },
    /// A record is not what its row says.
    Altered { id: i64, event: Uuid, change: Change, place: Place },
    /// Marked as published, and not where the receipt says, or nowhere.
    PublishedWithoutRecord { id: i64, event: Uuid, state: State, found: Option<Place> },
    /// Passed by the position, and named by no settlement.
    Unaccounted { id: i64, event: Uuid, found: Option<Place> },
    /// Not dealt with although everything had been well for long enough.
    PendingLongAfterHeal { id: i64, event: Uuid, state: State, waited: Micros },
    /// A partition has more than a window of records of an epoch after the first of a later one.
    StaleEpoch { topic: Arc<str>, partition: i32, epoch: i64, after: i64, records: u64, bound: u64 },
    /// A record of an at-most-once row came again.
    CopyOfAtMostOnce { id: i64, event: Uuid, first: Place, copy: Place },
    /// A series is not between what the history allows.
    MetricsDisagree { series: String, value: f64, least: f64, most: f64 },
    /// A record that the scenario says it removed is still there: the fault did not happen.
    StillThere { event: Uuid, place: Place },
    /// The history cannot show what it is to show: the harness is wrong, not the relay.
    Unsound { what: String },
}

/// Makes [`Kind`] from the variants' names, so that no list of them can be forgotten.
macro_rules! kinds {
    ($($name:ident)*) => {
        /// What kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[allow(missing_docs, reason = "see Finding")]
        pub enum Kind { $($name),* }

        impl Finding {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Finding::$name { .. } => Kind::$name),* }
            }
        }
    };
}

kinds! {
    Lost Phantom Reordered Scattered DuplicateOutside DuplicatesAbove Altered PublishedWithoutRecord
    Unaccounted PendingLongAfterHeal StaleEpoch CopyOfAtMostOnce MetricsDisagree StillThere Unsound
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

/// A time on the harness's clock as a person reads it.
fn seconds(at: Micros) -> String {
    format!("{:.3} s", at as f64 / 1e6)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Lost { id, event, topic, key, version, state } => {
                write!(
                    f,
                    "lost: row {id} ({topic}, key {key}, version {version}, event {event}) is in no topic; "
                )?;
                match state {
                    Some(state) => write!(f, "the database says {state:?}"),
                    None => write!(f, "the database does not know it"),
                }
            }
            Finding::Phantom { id: Some(id), place, .. } => {
                write!(f, "phantom: {place} is row {id}, which was rolled back")
            }
            Finding::Phantom { event: Some(event), place, .. } => {
                write!(f, "phantom: {place} has event {event}, which nobody inserted")
            }
            Finding::Phantom { place, .. } => write!(f, "phantom: {place} has no event id"),
            Finding::Reordered { key, earlier, at, later, before } => {
                write!(
                    f,
                    "reordered: key {key}: version {} (row {}) at {before} came before ",
                    later.1, later.0
                )?;
                match at {
                    Some(place) => write!(f, "version {} (row {}) at {place}", earlier.1, earlier.0),
                    None => write!(f, "version {} (row {}), which still waits", earlier.1, earlier.0),
                }
            }
            Finding::Scattered { topic, key, partitions: (one, other) } => {
                write!(f, "scattered: key {key} of {topic} is in partitions {one} and {other}")
            }
            Finding::DuplicateOutside { id, event, first, copy, at } => write!(
                f,
                "duplicate outside of every fault: row {id} (event {event}) is at {first}, again at {copy} after {}",
                seconds(*at)
            ),
            Finding::DuplicatesAbove { faults, from, to, copies, bound } => write!(
                f,
                "too many duplicates: {copies}, at most {bound}, from {} to {} ({faults})",
                seconds(*from),
                seconds(*to)
            ),
            Finding::Altered { id, event, change, place } => {
                write!(f, "altered: {place} has another {change:?} than row {id} (event {event})")
            }
            Finding::PublishedWithoutRecord { id, event, state, found } => {
                write!(f, "published without record: row {id} (event {event}) is {state:?}, ")?;
                match found {
                    Some(place) => write!(f, "but its record is at {place}"),
                    None => write!(f, "but no topic has it"),
                }
            }
            Finding::Unaccounted { id, event, found } => {
                write!(
                    f,
                    "unaccounted: row {id} (event {event}) was passed by and no settlement names it, "
                )?;
                match found {
                    Some(place) => write!(f, "its record is at {place}"),
                    None => write!(f, "and no topic has it"),
                }
            }
            Finding::PendingLongAfterHeal { id, event, state, waited } => write!(
                f,
                "pending: row {id} (event {event}) is {state:?} {} after the last heal and its commit",
                seconds(*waited)
            ),
            Finding::StaleEpoch { topic, partition, epoch, after, records, bound } => write!(
                f,
                "stale epoch: {topic}/{partition} has {records} records of epoch {epoch} after the first of {after}, at most {bound}"
            ),
            Finding::CopyOfAtMostOnce { id, event, first, copy } => {
                write!(
                    f,
                    "copy of an at-most-once row: row {id} (event {event}) is at {first}, again at {copy}"
                )
            }
            Finding::MetricsDisagree { series, value, least, most } if least == most => {
                write!(f, "metrics disagree: {series} is {value}, the truth is {least}")
            }
            Finding::MetricsDisagree { series, value, least, most } => {
                write!(f, "metrics disagree: {series} is {value}, the truth allows {least} to {most}")
            }
            Finding::StillThere { event, place } => {
                write!(f, "still there: {place} (event {event}) was to be removed")
            }
            Finding::Unsound { what } => write!(f, "unsound history: {what}"),
        }
    }
}

/// The columns of the table that a run prints. Rows are committed ones unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Committed rows.
    pub rows: u64,
    /// Rows of transactions that were rolled back.
    pub rolled_back: u64,
    /// Records, removed ones included.
    pub records: u64,
    /// Copies of at-least-once rows inside of fault intervals.
    pub duplicates: u64,
    /// At-most-once rows that did not arrive.
    pub at_most_once_lost: u64,
    /// Dead letters.
    pub dead: u64,
    /// Rows that ended as expired.
    pub expired: u64,
    /// Rows that are pending or deferred in the end.
    pub pending: u64,
    /// Rows whose only records were removed by the harness.
    pub removed: u64,
    /// Rows that the promoted server lacks and a topic has.
    pub lost_by_server: u64,
}

/// Fault intervals that touch each other count as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// The faults' names.
    pub faults: String,
    /// When the first began.
    pub from: Micros,
    /// When the last was healed, and the slack.
    pub to: Micros,
    /// Copies of at-least-once rows in it.
    pub copies: u64,
    /// How many there may be.
    pub bound: u64,
}

/// The judge's answer.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What there was.
    pub counts: Counts,
    /// The fault intervals with their copies.
    pub intervals: Vec<Interval>,
    /// How many findings of each kind; kinds without any are absent.
    pub totals: BTreeMap<Kind, u64>,
    /// The first of each kind.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Every promise held.
    pub fn is_clean(&self) -> bool {
        self.totals.is_empty()
    }

    /// How many findings of a kind.
    pub fn total(&self, kind: Kind) -> u64 {
        self.totals.get(&kind).copied().unwrap_or(0)
    }
}

impl fmt::Display for Verdict {
    /// The counts, then a line for each finding that was kept.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { rows, records, duplicates, .. } = self.counts;
        let word = if self.is_clean() { "holds" } else { "broken" };
        writeln!(f, "{word}: {rows} rows, {records} records, {duplicates} duplicates inside of faults")?;
        for (kind, total) in &self.totals {
            writeln!(f, "{kind:?}: {total}")?;
            for finding in self.findings.iter().filter(|finding| finding.kind() == *kind) {
                writeln!(f, "  {finding}")?;
            }
            if *total > KEPT {
                writeln!(f, "  and {} more", total - KEPT)?;
            }
        }
        Ok(())
    }
}

/// A verdict in the making.
#[derive(Default)]
pub struct Report {
    verdict: Verdict,
}

impl Report {
    /// The counts so far.
    pub fn counts(&mut self) -> &mut Counts {
        &mut self.verdict.counts
    }

    /// Counts a finding, and keeps it if it is among the first of its kind.
    pub fn add(&mut self, finding: Finding) {
        let total = self.verdict.totals.entry(finding.kind()).or_default();
        *total += 1;
        if *total <= KEPT {
            self.verdict.findings.push(finding);
        }
    }

    /// The harness is wrong.
    pub fn unsound(&mut self, what: impl Into<String>) {
        self.add(Finding::Unsound { what: what.into() });
    }

    /// Notes the intervals.
    pub fn intervals(&mut self, intervals: Vec<Interval>) {
        self.verdict.intervals = intervals;
    }

    /// The end.
    pub fn into_verdict(self) -> Verdict {
        self.verdict
    }
}

/// A key as a person reads it.
pub fn key(row: &Row) -> String {
    match &row.key {
        Some(key) => String::from_utf8_lossy(key).escape_debug().to_string(),
        None => "none".to_owned(),
    }
}
