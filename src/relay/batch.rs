//! Rows on their way and what has become of each: bookkeeping without decisions.

use std::sync::Arc;

use crate::message::OutboxRow;
use crate::position::Position;
use crate::receipt::Receipt;
use crate::store::deferred::DueRow;
use crate::store::settle::{Attempt, Death, Deferral, Outcome, Reason};

use super::Decided;

/// Where a row stands.
#[derive(Debug)]
pub(super) enum Fate {
    /// Not handed over yet, or not yet again.
    Waiting,
    /// Handed to librdkafka, no report yet.
    InFlight,
    /// Came back with a failure that has not been judged.
    Returned,
    /// Confirmed.
    Published(Receipt),
    /// Its `expires_at` had passed.
    Expired,
    /// Put off (again).
    PutOff(Box<Deferral>),
    /// It becomes a dead letter.
    Dead(Box<Death>),
}

impl Fate {
    fn is_decided(&self) -> bool {
        matches!(self, Fate::Published(_) | Fate::Expired | Fate::PutOff(_) | Fate::Dead(_))
    }
}

/// A page on its way.
#[derive(Debug)]
pub(super) struct Batch {
    pub no: u64,
    pub rows: Vec<OutboxRow>,
    pub fates: Vec<Fate>,
    /// Rows whose fate is not decided.
    pub open: usize,
    /// The first row that was never offered to the publisher.
    pub offered: usize,
    pub bytes: usize,
    /// The position once all rows are settled.
    pub next: Position,
    pub begun: std::time::Instant,
    /// Attempts that failed.
    pub attempts: Vec<Attempt>,
}

impl Batch {
    pub fn new(no: u64, rows: Vec<OutboxRow>, next: Position) -> Batch {
        Batch {
            no,
            fates: rows.iter().map(|_| Fate::Waiting).collect(),
            open: rows.len(),
            offered: 0,
            bytes: 0,
            rows,
            next,
            begun: std::time::Instant::now(),
            attempts: Vec::new(),
        }
    }

    /// Decides or changes a row's fate.
    pub fn set(&mut self, index: usize, fate: Fate) {
        debug_assert!(!self.fates[index].is_decided(), "a decided row is decided once");
        if fate.is_decided() {
            self.open -= 1;
        }
        self.fates[index] = fate;
    }

    /// What the settlement records, once every row is decided.
    pub fn decided(self) -> Decided {
        let mut outcome = Outcome::default();
        outcome.published.reserve(self.rows.len());
        outcome.rare.attempts = self.attempts;
        for (row, fate) in self.rows.iter().zip(self.fates) {
            match fate {
                Fate::Published(receipt) => outcome.published.push((row.id, receipt)),
                Fate::Expired => outcome.expired.push(row.id),
                Fate::PutOff(deferral) => outcome.deferred.push(*deferral),
                Fate::Dead(death) => outcome.rare.dead.push(*death),
                Fate::Waiting | Fate::InFlight | Fate::Returned => unreachable!("every row is decided"),
            }
        }
        Decided {
            outcome,
            position: Some(self.next),
            rows: self.rows.len(),
            bytes: self.bytes,
            ..Decided::default()
        }
    }
}

/// Deferred rows on their way, key by key: one in flight per key, and the next only after its confirm.
#[derive(Debug)]
pub(super) struct DueBatch {
    pub no: u64,
    pub rows: Vec<DueRow>,
    pub fates: Vec<Fate>,
    /// Indexes of rows that go one after another; the last one is next.
    pub chains: Vec<Vec<usize>>,
    /// Chains with a row that may be offered now.
    pub ready: Vec<usize>,
    /// The chain of each row.
    pub chain_of: Vec<usize>,
    pub in_flight: usize,
    /// Attempts that failed.
    pub attempts: Vec<Attempt>,
    pub settled: Option<tokio::sync::oneshot::Sender<usize>>,
}

impl DueBatch {
    /// `rows` are in order of id. Rows of one key form a chain; every row without key is a chain of its own.
    /// A row that has to get behind an earlier one is in no chain.
    pub fn new(rows: Vec<DueRow>, settled: tokio::sync::oneshot::Sender<usize>) -> DueBatch {
        let mut chains: Vec<Vec<usize>> = Vec::new();
        let mut by_key = std::collections::HashMap::new();
        let mut chain_of = Vec::with_capacity(rows.len());
        for (index, due) in rows.iter().enumerate() {
            let chain = match &due.row.key {
                _ if due.waits => {
                    chain_of.push(usize::MAX);
                    continue;
                }
                Some(key) if !due.passable => {
                    *by_key.entry((Arc::clone(&due.row.topic), key.clone())).or_insert(chains.len())
                }
                _ => chains.len(),
            };
            if chain == chains.len() {
                chains.push(Vec::new());
            }
            chains[chain].push(index);
            chain_of.push(chain);
        }
        chains.iter_mut().for_each(|chain| chain.reverse());
        DueBatch {
            no: 0,
            fates: rows.iter().map(|_| Fate::Waiting).collect(),
            ready: (0..chains.len()).rev().collect(),
            chains,
            chain_of,
            rows,
            in_flight: 0,
            attempts: Vec::new(),
            settled: Some(settled),
        }
    }

    /// Nothing is in flight and nothing may be offered.
    pub fn is_through(&self) -> bool {
        self.in_flight == 0 && self.ready.is_empty()
    }

    /// What the settlement records: rows behind one that failed are left as they were.
    pub fn decided(self) -> Decided {
        let mut decided = Decided { settled: self.settled, ..Decided::default() };
        decided.outcome.rare.attempts = self.attempts;
        for (due, fate) in self.rows.into_iter().zip(self.fates) {
            match fate {
                Fate::Published(receipt) => decided.outcome.published.push((due.row.id, receipt)),
                Fate::Expired => decided.outcome.expired.push(due.row.id),
                Fate::Dead(death) => decided.outcome.rare.dead.push(*death),
                Fate::PutOff(deferral) => {
                    decided.outcome.deferred.push(*deferral);
                    continue;
                }
                Fate::Waiting | Fate::InFlight | Fate::Returned => continue,
            }
            decided.left += 1;
            decided.outcome.departed.push(due.row.id);
            // Neither a scheduled row nor one that others may pass has blocked its key.
            if due.reason != Reason::Scheduled {
                let key = if due.passable { None } else { due.row.key };
                decided.departed.push((due.row.topic, key));
            }
        }
        // Dead rows leave by becoming dead letters.
        let dead: Vec<i64> = decided.outcome.rare.dead.iter().map(|death| death.id).collect();
        decided.outcome.departed.retain(|id| !dead.contains(id));
        decided
    }
}

/// The number that travels with a record: which batch, which row, which route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub due: bool,
    pub no: u64,
    pub index: usize,
}

const INDEX_BITS: u32 = 24;
const DUE_BIT: u64 = 1 << 63;

impl Tag {
    pub fn encode(self) -> usize {
        let due = if self.due { DUE_BIT } else { 0 };
        (due | self.no << INDEX_BITS | self.index as u64) as usize
    }

    pub fn decode(opaque: usize) -> Tag {
        let bits = opaque as u64;
        Tag {
            due: bits & DUE_BIT != 0,
            no: (bits & !DUE_BIT) >> INDEX_BITS,
            index: (bits & ((1 << INDEX_BITS) - 1)) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_as_it_was() {
        for tag in [
            Tag { due: false, no: 0, index: 0 },
            Tag { due: true, no: 1, index: 2 },
            Tag { due: false, no: (1 << 39) - 1, index: (1 << 24) - 1 },
        ] {
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
    }
}
