//! What the harness hands to the judge: plain values, filled in by whoever ran the servers.
//!
//! All times are [`Micros`] of one clock, the harness's own, whatever clocks were shifted underneath.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

/// Microseconds since the harness started.
pub type Micros = i64;

/// How often a record may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Once or more: the relay's usual promise.
    AtLeastOnce,
    /// Once or not at all.
    AtMostOnce,
}

/// An outbox row that some transaction inserted, whether it was committed or rolled back. A commit whose answer got
/// lost is looked up in the database before it gets here.
#[derive(Debug, Clone)]
pub struct Row {
    /// `outbox.message.id`; a server that lost commits may hand it out again.
    pub id: i64,
    /// Its identity.
    pub event: Uuid,
    /// Where it goes.
    pub topic: Arc<str>,
    /// None: the row has no order.
    pub key: Option<Vec<u8>>,
    /// Its place among the rows of its (topic, key), from 1, in the order in which their writers took turns.
    /// Means nothing without a key.
    pub version: i64,
    /// Of payload and headers, as a consumer must see them.
    pub digest: u64,
    /// False: rolled back.
    pub committed: bool,
    /// When its transaction ended.
    pub at: Micros,
    /// What its topic promises.
    pub delivery: Delivery,
    /// Committed, and known to be missing on the server that was promoted without it.
    pub lost_by_server: bool,
}

/// A record of a topic.
#[derive(Debug, Clone)]
pub struct Record {
    /// The topic that it was read from.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Header `event-id`.
    pub event: Option<Uuid>,
    /// Header `outbox-seq`.
    pub seq: Option<i64>,
    /// Header `outbox-epoch`.
    pub epoch: Option<i64>,
    /// Of payload and headers without those that the relay adds; compared with [`Row::digest`].
    pub digest: u64,
    /// When it was appended, which Kafka knows in whole milliseconds: `message.timestamp.type = LogAppendTime`. The
    /// time that the relay sends is the row's, and the same for every copy.
    pub at: Micros,
}

/// Something was broken, and healed again.
#[derive(Debug, Clone)]
pub struct Fault {
    /// As printed.
    pub name: String,
    /// Noted before it was injected.
    pub from: Micros,
    /// Noted after it was healed. A kill is over when the process has been started again.
    pub to: Micros,
    /// Rows whose settlement this fault may undo: what was marked asynchronously in the last second before a crash
    /// or promotion of Postgres. They come again on top of the window.
    pub undone: u64,
}

impl Fault {
    /// A fault that leaves the ledger as it is.
    pub fn new(name: impl Into<String>, from: Micros, to: Micros) -> Fault {
        Fault { name: name.into(), from, to, undone: 0 }
    }

    /// One after which this many settled rows may be unsettled again.
    pub fn undoing(self, rows: u64) -> Fault {
        Fault { undone: rows, ..self }
    }
}

/// A process became the leader.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    /// Its epoch.
    pub epoch: i64,
    /// When.
    pub at: Micros,
}

/// What the database says of a row in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Marked, with its receipt. A confirm of a duplicate sequence has no offset.
    Published {
        /// Of the record.
        partition: i32,
        /// Of the record.
        offset: Option<i64>,
    },
    /// Not dealt with yet.
    Pending,
    /// The position has passed it, no settlement names it, and it is not deferred: nobody is going to read it.
    PassedBy,
    /// Passed over for now.
    Deferred,
    /// A dead letter.
    Dead,
    /// Given up under at-most-once delivery.
    Dropped,
    /// Its `expires_at` was over.
    Expired,
    /// Its slot was emptied, so it was published before.
    Gone,
}

/// The relays' metrics at the end, summed over processes.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// By name and labels, the labels sorted by name.
    pub values: BTreeMap<(String, Vec<(String, String)>), f64>,
    /// Every process that ever counted was asked at its end. A killed one takes its counts with it: then the sums may
    /// fall short of the truth, but still not exceed it.
    pub complete: bool,
}

impl Metrics {
    /// Adds to a series, as read from one process.
    pub fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut labels: Vec<(String, String)> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.sort_unstable();
        *self.values.entry((name.to_owned(), labels)).or_default() += value;
    }

    /// The sum of a series over all processes; none when no process has it.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut labels: Vec<(String, String)> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.sort_unstable();
        self.values.get(&(name.to_owned(), labels)).copied()
    }
}

/// What the run was configured to hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// `relay.window_rows`.
    pub window_rows: u64,
    /// So long after the last heal (or its commit, if that is later) no row may be pending.
    pub pending_after: Micros,
    /// So long after its heal a fault may still cause copies.
    pub slack: Micros,
}

/// Outcomes that a scenario states in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expectation {
    /// None: everything holds.
    #[default]
    Nothing,
    /// Records were taken out of a topic: [`History::removed`] may be missing, and nothing else.
    Removed,
    /// A standby was promoted that lacked commits: rows that are `lost_by_server` may be in a topic or not.
    AsynchronousPromotion,
}

/// Records that the harness took away. They count as delivered if the consumer that read along had seen them.
#[derive(Debug, Clone)]
pub enum Removed {
    /// By place: `kafka-delete-records`, or all of a deleted topic.
    Offsets {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// From the first to the one after the last.
        offsets: Range<i64>,
    },
    /// By event, where offsets cannot tell (a topic deleted and created again).
    Events {
        /// The topic.
        topic: Arc<str>,
        /// The events whose records went.
        events: HashSet<Uuid>,
    },
}

/// Everything about a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Every row that was ever inserted.
    pub rows: Vec<Row>,
    /// Every topic from offset 0, each partition in order.
    pub records: Vec<Record>,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// Every takeover, also the first.
    pub takeovers: Vec<Takeover>,
    /// When a producer ended and its spare took its place.
    pub replacements: Vec<Micros>,
    /// By row id.
    pub table: HashMap<i64, State>,
    /// When the tables were read.
    pub table_at: Micros,
    /// The metrics, read after the tables had come to rest.
    pub metrics: Metrics,
    /// What must hold.
    pub bounds: Bounds,
    /// What this scenario states instead.
    pub expectation: Expectation,
    /// What was taken away.
    pub removed: Vec<Removed>,
    /// What a consumer read along in the topics of `removed`, each partition in order.
    pub seen: Vec<Record>,
    /// Dead letters that an operator sent again: they have left their key's order, and may come twice.
    pub requeued: HashSet<Uuid>,
    /// Topics whose keys have no order: `on_failure = 'skip'`.
    pub unordered: HashSet<Arc<str>>,
}
