//! What a reconciliation comes to: counts, the first ids of each kind, and what they mean together.
//!
//! The fields are the JSON report, which `outbox.reconciliation` keeps and `reconcile --output json` prints. Pure.

use serde::{Deserialize, Serialize};

/// Ids of a kind that a report names.
const SAMPLES: usize = 100;
/// Missing ones are all that a repair knows of.
const MISSING: usize = 100_000;

/// What was found. Counts are of rows, unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The window: ids from here …
    pub from_id: i64,
    /// … to here.
    pub until_id: i64,
    /// Rows of the window that are left in `outbox.message`.
    pub rows: i64,
    /// Ids of the window without a row: rolled back, skipped by the sequence, or removed by retention.
    pub gaps: i64,
    /// Settled as published.
    pub published: i64,
    /// Put off, and still waiting.
    pub deferred: i64,
    /// Dead letters.
    pub dead: i64,
    /// Their `expires_at` had passed.
    pub expired: i64,
    /// At-most-once rows that count as lost.
    pub dropped: i64,
    /// Not dealt with yet.
    pub pending: i64,
    /// Their record is where the receipt says.
    pub verified: i64,
    /// Their record's place has been emptied by the topic's retention.
    pub removed: i64,
    /// Their record is not at its place in a compacted topic.
    pub compacted: i64,
    /// The broker named no offset, and the record was not met; or its place is empty, and whether the topic is compacted this login
    /// may not read (DESCRIBE_CONFIGS).
    pub unverified: i64,
    /// Settled as published, and no record of them is there.
    pub missing: i64,
    /// Passed by the position, and no settlement says what became of them.
    pub unaccounted: i64,
    /// Their record is there, at another offset than the receipt says.
    pub moved: i64,
    /// Their record says something else than the row.
    pub altered: i64,
    /// Records beyond the first of their row.
    pub duplicates: i64,
    /// Records that are copies which operators have asked for.
    pub replayed: i64,
    /// Records between ours that the relay has not written, or that belong to no row.
    pub foreign: i64,
    /// Event ids that more than one row carries. `None`: the window is too large to count them within the server's deadline.
    pub shared_event_ids: Option<i64>,
    /// Payloads were compared too: this login may read them.
    pub compared_payloads: bool,
    /// Ids of missing rows; the first hundred thousand.
    pub missing_ids: Vec<i64>,
    /// Ids of unaccounted rows; the first hundred, as in the lists below.
    pub unaccounted_ids: Vec<i64>,
    /// Ids of rows whose receipt is wrong.
    pub moved_ids: Vec<i64>,
    /// Ids of altered rows.
    pub altered_ids: Vec<i64>,
    /// Where foreign records are: topic, partition, offset.
    pub foreign_places: Vec<(String, i32, i64)>,
    /// Event ids that more than one row carries.
    pub shared: Vec<String>,
}

impl Report {
    /// Nothing that was committed is lost, and every record says what its row says.
    pub fn is_sound(&self) -> bool {
        self.missing == 0 && self.unaccounted == 0 && self.altered == 0
    }

    pub(super) fn missing(&mut self, id: i64) {
        note(&mut self.missing, &mut self.missing_ids, MISSING, id);
    }

    pub(super) fn unaccounted(&mut self, id: i64) {
        note(&mut self.unaccounted, &mut self.unaccounted_ids, SAMPLES, id);
    }

    pub(super) fn moved(&mut self, id: i64) {
        note(&mut self.moved, &mut self.moved_ids, SAMPLES, id);
    }

    pub(super) fn altered(&mut self, id: i64) {
        note(&mut self.altered, &mut self.altered_ids, SAMPLES, id);
    }

    pub(super) fn foreign(&mut self, topic: &str, partition: i32, offset: i64) {
        note(&mut self.foreign, &mut self.foreign_places, SAMPLES, (topic.to_owned(), partition, offset));
    }
}

fn note<T>(count: &mut i64, list: &mut Vec<T>, most: usize, found: T) {
    *count += 1;
    if list.len() < most {
        list.push(found);
    }
}
