//! The judgement over a stretch of rows: what settlements say of each, and what is in the topics. Pure.
//!
//! Owns what counts as missing, moved, altered, a duplicate. Must not await, log, read a clock or ask anybody: it is told what was
//! read ([`Judge::expect`], [`Judge::see`]) and says what is still unknown ([`Stranger`]).
//!
//! A row is judged by its records together. It is **there** if any of its receipts leads to its record, or if its record was seen
//! elsewhere (**moved**: a receipt that is wrong; nothing is lost). It is **missing** if settlements say that it is published and
//! no record of it was found although none of its receipts' places has been emptied by Kafka's own retention or compaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::report::Report;
use crate::kafka::{Marks, Stretch};
use crate::store::reconcile::{Named, Place, Row, Run};

/// Between two expected records that are further apart the partition is not read.
const GAP: i64 = 500;

/// A record that was read.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Its partition.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// The event id in its header.
    pub event_id: Option<Uuid>,
    /// The row's id in its header.
    pub seq: Option<i64>,
    /// It is a copy that an operator has asked for.
    pub is_replay: bool,
    /// A hash of its key.
    pub key: u64,
    /// A digest of its payload, if it has one and payloads are compared.
    pub payload: Option<u64>,
    /// This place was read before, for other rows: what is there has been counted.
    pub again: bool,
}

/// A record that belongs to no row of this stretch.
#[derive(Debug, Clone)]
pub struct Stranger {
    /// Where it is.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its place there.
    pub offset: i64,
    /// The event id in its header; `None`: the relay has not written it.
    pub event_id: Option<Uuid>,
    /// The row's id in its header.
    pub seq: Option<i64>,
    /// It is a copy that an operator has asked for.
    pub is_replay: bool,
}

#[derive(Debug)]
struct Judged {
    row: Row,
    named: Option<Named>,
    /// Records of its own that were found, wherever.
    records: u32,
    /// Of these, how many a receipt led to.
    by_receipt: u32,
    /// Records that were counted before, with other rows.
    known: u32,
    /// Copies in its own topic that operators have asked for.
    replays: u32,
    /// And in others.
    copies_elsewhere: u32,
    receipts: u32,
    /// Receipts without an offset: the broker recognised a repeated batch.
    unplaced: u32,
    /// Receipts whose place Kafka has emptied since.
    expired: u32,
    compacted: u32,
    /// Receipts whose place is empty, and nobody may say whether compaction has done that.
    doubtful: u32,
    is_altered: bool,
}

/// A record that a receipt leads to.
#[derive(Debug, Clone, Copy)]
struct Expected {
    /// Index of the row.
    row: usize,
    is_copy: bool,
    found: bool,
}

type Places = BTreeMap<(i32, i64), Expected>;

/// The judgement over the rows of a stretch of ids.
#[derive(Debug)]
pub struct Judge {
    rows: Vec<Judged>,
    by_event: HashMap<Uuid, usize>,
    places: HashMap<Arc<str>, Places>,
    compares_payloads: bool,
}

impl Judge {
    /// Begins with the rows, in ascending order of id, and what settlements say of their ids.
    pub fn new(rows: Vec<Row>, runs: &[Run], compares_payloads: bool) -> Judge {
        let mut judge = Judge {
            by_event: rows.iter().enumerate().map(|(index, row)| (row.event_id, index)).collect(),
            rows: rows.into_iter().map(Judged::new).collect(),
            places: HashMap::new(),
            compares_payloads,
        };
        judge.name(runs);
        judge
    }

    /// Takes in what settlements say; of several words about a row the strongest counts.
    pub fn name(&mut self, runs: &[Run]) {
        for run in runs {
            let first = self.rows.partition_point(|judged| judged.row.id < run.first);
            for judged in self.rows[first..].iter_mut().take_while(|judged| judged.row.id <= run.last) {
                judged.named = judged.named.max(Some(run.named));
            }
        }
    }

    /// Ids of rows that settlements call published, in ascending order.
    pub fn published(&self) -> Vec<i64> {
        self.ids(|judged| judged.named == Some(Named::Published))
    }

    /// Ids of rows of which settlements say nothing but that they were put off, and that are not among `deferred` (ascending).
    pub fn no_longer_deferred(&self, deferred: &[i64]) -> Vec<i64> {
        self.ids(|judged| {
            judged.named == Some(Named::Deferred) && deferred.binary_search(&judged.row.id).is_err()
        })
    }

    /// These rows were put off, are not there any more, and no settlement says what became of them.
    pub fn lose_sight_of(&mut self, ids: &[i64]) {
        for judged in &mut self.rows {
            if ids.binary_search(&judged.row.id).is_ok() {
                judged.named = None;
            }
        }
    }

    fn ids(&self, of: impl Fn(&Judged) -> bool) -> Vec<i64> {
        self.rows.iter().filter(|judged| of(judged)).map(|judged| judged.row.id).collect()
    }

    /// A receipt says that a record of a row is there.
    pub fn expect(&mut self, place: Place) {
        let Ok(index) = self.rows.binary_search_by_key(&place.id, |judged| judged.row.id) else { return };
        let judged = &mut self.rows[index];
        let topic = place.copy_in.clone().unwrap_or_else(|| Arc::clone(&judged.row.topic));
        let is_copy = place.copy_in.is_some();
        judged.receipts += u32::from(!is_copy);
        let Some(offset) = place.receipt.offset else {
            judged.unplaced += u32::from(!is_copy);
            return;
        };
        let expected = Expected { row: index, is_copy, found: false };
        self.places.entry(topic).or_default().insert((place.receipt.partition, offset), expected);
    }

    /// The topics in which something is expected.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.places.keys().cloned().collect()
    }

    /// What has to be read of a topic, now that it is known what its partitions hold: stretches in ascending order. Places that
    /// Kafka's retention has emptied are taken note of.
    pub fn stretches(&mut self, topic: &str, marks: &BTreeMap<i32, Marks>) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let Some(places) = self.places.get(topic) else { return stretches };
        for ((partition, offset), expected) in places {
            let Some(marks) = marks.get(partition) else { continue };
            if *offset < marks.low {
                self.rows[expected.row].expired += u32::from(!expected.is_copy);
            } else if *offset < marks.end {
                match stretches.last_mut() {
                    Some(last) if last.partition == *partition && offset - last.to <= GAP => {
                        last.to = *offset
                    }
                    _ => stretches.push(Stretch { partition: *partition, from: *offset, to: *offset }),
                }
            }
        }
        stretches
    }

    /// A record was read. Returns it if it belongs to no row of this stretch, and was not counted before.
    pub fn see(&mut self, topic: &Arc<str>, seen: &Seen) -> Option<Stranger> {
        let place = (seen.partition, seen.offset);
        if let Some(expected) = self.places.get_mut(topic).and_then(|places| places.get_mut(&place))
            && seen.event_id == Some(self.rows[expected.row].row.event_id)
        {
            expected.found = true;
            let judged = &mut self.rows[expected.row];
            if expected.is_copy {
                // Whoever reads the row's own topic knows nothing of a copy elsewhere.
                judged.replays += u32::from(judged.row.topic == *topic);
                judged.copies_elsewhere += u32::from(judged.row.topic != *topic);
            } else {
                judged.by_receipt += 1;
                judged.records += 1;
            }
            let same_payload = !self.compares_payloads || judged.row.payload == seen.payload;
            judged.is_altered |= judged.row.key != seen.key || !same_payload;
            return None;
        }
        if let Some(index) = seen.event_id.and_then(|event| self.by_event.get(&event))
            && (self.rows[*index].row.topic == *topic)
        {
            let judged = &mut self.rows[*index];
            match (seen.is_replay, seen.again) {
                (true, _) => judged.replays += 1,
                (false, true) => judged.known += 1,
                (false, false) => judged.records += 1,
            }
            return None;
        }
        let Seen { partition, offset, event_id, seq, is_replay, .. } = *seen;
        (!seen.again).then(|| Stranger {
            topic: Arc::clone(topic),
            partition,
            offset,
            event_id,
            seq,
            is_replay,
        })
    }

    /// The topic has been read. What is not there although its place is: compaction may have taken it. `None`: whether the topic is
    /// compacted this login may not know.
    pub fn read_through(&mut self, topic: &str, marks: &BTreeMap<i32, Marks>, is_compacted: Option<bool>) {
        let Some(places) = self.places.get(topic).filter(|_| is_compacted != Some(false)) else { return };
        for ((partition, offset), expected) in places {
            let lies_within = |marks: &Marks| (marks.low..marks.end).contains(offset);
            if !expected.found && !expected.is_copy && marks.get(partition).is_some_and(lies_within) {
                let judged = &mut self.rows[expected.row];
                judged.compacted += u32::from(is_compacted.is_some());
                judged.doubtful += u32::from(is_compacted.is_none());
            }
        }
    }

    /// Adds what was found to a report.
    pub fn conclude(self, report: &mut Report) {
        for judged in &self.rows {
            report.rows += 1;
            match judged.named {
                None if judged.row.passed => report.unaccounted(judged.row.id),
                None => report.pending += 1,
                Some(Named::Deferred) => report.deferred += 1,
                Some(Named::Dead) => report.dead += 1,
                Some(Named::Expired) => report.expired += 1,
                Some(Named::Dropped) => report.dropped += 1,
                Some(Named::Published) => {
                    report.published += 1;
                    judged.conclude(report);
                }
            }
        }
    }
}

impl Judged {
    fn new(row: Row) -> Judged {
        Judged {
            row,
            named: None,
            records: 0,
            by_receipt: 0,
            known: 0,
            replays: 0,
            copies_elsewhere: 0,
            receipts: 0,
            unplaced: 0,
            expired: 0,
            compacted: 0,
            doubtful: 0,
            is_altered: false,
        }
    }

    fn conclude(&self, report: &mut Report) {
        let id = self.row.id;
        report.duplicates += i64::from(self.records.saturating_sub(1));
        report.replayed += i64::from(self.replays + self.copies_elsewhere);
        if self.is_altered {
            report.altered(id);
        }
        if self.records + self.known + self.replays > 0 {
            let is_lost_from_sight = self.by_receipt == 0 && self.replays == 0 && self.unplaced == 0;
            if is_lost_from_sight && self.expired + self.compacted + self.doubtful == 0 {
                report.moved(id);
            } else {
                report.verified += 1;
            }
        } else if self.expired > 0 {
            report.removed += 1;
        } else if self.compacted > 0 {
            report.compacted += 1;
        } else if self.doubtful > 0 || self.unplaced > 0 && self.unplaced == self.receipts {
            report.unverified += 1;
        } else {
            report.missing(id);
        }
    }
}
