//! Rows on their way and what has become of each: bookkeeping without decisions.

use std::sync::Arc;

use crate::crash_point;
use crate::message::OutboxRow;
use crate::position::Position;
use crate::receipt::Receipt;
use crate::store::deferred::DueRow;
use crate::store::settle::{Attempt, Death, Deferral, Outcome, Reason, Replayed};
use crate::verdict::Route;

use super::lanes::Opening;
use super::{Decided, Entering, Written};

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
    /// Its delivery is at-most-once: settled first, tried once after that.
    Dropped,
}

impl Fate {
    fn is_decided(&self) -> bool {
        !matches!(self, Fate::Waiting | Fate::InFlight | Fate::Returned)
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
    /// The position of its stream once all rows are settled.
    pub next: Position,
    /// The lane that it is a page of; `None`: a page of main.
    pub lane: Option<usize>,
    /// Of a lane: what comes with the position.
    pub as_of: Option<String>,
    /// Of main: lanes that end with it.
    pub closed: Vec<usize>,
    /// Of main: lanes that begin before this page.
    pub opened: Vec<Opening>,
    pub begun: std::time::Instant,
    /// When its last row was offered, or offered again.
    pub offered_at: std::time::Instant,
    /// Attempts that failed.
    pub attempts: Vec<Attempt>,
    /// Rows that went out again because their producer was replaced.
    pub resent: Vec<usize>,
    /// So many rows, the first ones, may have been sent by the leader before us. Only known where traces are wanted.
    pub repeats: usize,
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
            lane: None,
            as_of: None,
            closed: Vec::new(),
            opened: Vec::new(),
            begun: std::time::Instant::now(),
            offered_at: std::time::Instant::now(),
            attempts: Vec::new(),
            resent: Vec::new(),
            repeats: 0,
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

    /// Rows that are tried once after the settlement.
    pub fn take_once(&mut self) -> Vec<OutboxRow> {
        let dropped = self.rows.iter().zip(&self.fates).filter(|(_, fate)| matches!(fate, Fate::Dropped));
        dropped.map(|(row, _)| row.clone()).collect()
    }

    /// What the settlement records, once every row is decided.
    pub fn decided(self) -> Decided {
        let mut outcome = Outcome::default();
        outcome.published.reserve(self.rows.len());
        outcome.rare.attempts = self.attempts;
        let mut entering = Vec::new();
        let rows = self.rows.len();
        for (row, fate) in self.rows.into_iter().zip(self.fates) {
            match fate {
                Fate::Published(receipt) => outcome.published.push((row.id, receipt)),
                Fate::Expired => outcome.expired.push(row.id),
                Fate::PutOff(refused) if refused.class.is_some() && crash_point::bug("swallows_error") => {}
                Fate::PutOff(deferral) => {
                    entering.push(Entering::of(&deferral, row.topic, row.key));
                    outcome.deferred.push(*deferral);
                }
                Fate::Dead(death) => outcome.rare.dead.push(*death),
                Fate::Dropped => outcome.dropped.push(row.id),
                Fate::Waiting | Fate::InFlight | Fate::Returned => unreachable!("every row is decided"),
            }
        }
        Decided {
            outcome,
            position: Some(self.next),
            rows,
            bytes: self.bytes,
            entering,
            ..Decided::default()
        }
    }
}

/// Deferred rows on their way, key by key: what failed before goes alone, and the next only after its confirm; what merely waited
/// goes together.
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
    /// Rows that went with others, through the main producer.
    pub together: Vec<bool>,
    /// How many of these are in flight, of each chain.
    pub flying: Vec<usize>,
    /// Chains of which one has failed in company.
    pub has_failed: Vec<bool>,
    pub begun: std::time::Instant,
    /// When the last of these was offered.
    pub offered_at: std::time::Instant,
    /// Attempts that failed.
    pub attempts: Vec<Attempt>,
    pub settled: Option<tokio::sync::oneshot::Sender<Written>>,
}

impl DueBatch {
    /// `rows` are in order of id. Rows of one key form a chain; every row without key is a chain of its own.
    /// A row that has to get behind an earlier one is in no chain.
    pub fn new(rows: Vec<DueRow>, settled: tokio::sync::oneshot::Sender<Written>) -> DueBatch {
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
            together: vec![false; rows.len()],
            flying: vec![0; chains.len()],
            has_failed: vec![false; chains.len()],
            begun: std::time::Instant::now(),
            offered_at: std::time::Instant::now(),
            chains,
            chain_of,
            rows,
            in_flight: 0,
            attempts: Vec::new(),
            settled: Some(settled),
        }
    }

    /// Nothing of the chain is offered any more; what was not stays deferred as it is. Returns those that are due by themselves:
    /// nobody would look at them again.
    pub fn end_chain(&mut self, chain: usize) -> Vec<usize> {
        self.ready.retain(|ready| *ready != chain);
        let rest = std::mem::take(&mut self.chains[chain]);
        rest.into_iter().filter(|index| self.rows[*index].reason != Reason::Behind).collect()
    }

    /// Rows that went with others and have no report.
    pub fn together_in_flight(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows.len())
            .filter(|index| self.together[*index] && matches!(self.fates[*index], Fate::InFlight))
    }

    /// Nothing is in flight and nothing may be offered.
    pub fn is_through(&self) -> bool {
        self.in_flight == 0 && self.ready.is_empty()
    }

    /// What the settlement records: rows behind one that failed are left as they were.
    pub fn decided(self) -> Decided {
        let mut decided = Decided { settled: self.settled, ..Decided::default() };
        decided.outcome.rare.attempts = self.attempts;
        let mut once = Vec::new();
        for (due, fate) in self.rows.into_iter().zip(self.fates) {
            match fate {
                Fate::Published(receipt) => match due.replay {
                    None => decided.outcome.published.push((due.row.id, receipt)),
                    Some(request) => {
                        let topic = Arc::clone(&due.row.topic);
                        decided.outcome.rare.replayed.push(Replayed {
                            request,
                            topic,
                            id: due.row.id,
                            receipt,
                        });
                    }
                },
                Fate::Expired => decided.outcome.expired.push(due.row.id),
                Fate::Dead(death) => decided.outcome.rare.dead.push(*death),
                Fate::Dropped => {
                    decided.outcome.dropped.push(due.row.id);
                    once.push(due.row.clone());
                }
                Fate::PutOff(deferral) => {
                    decided.entering.push(Entering::of(&deferral, due.row.topic, due.row.key));
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
        decided.once = once;
        decided
    }
}

/// The number that travels with a record: which route, which batch, which row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub route: Route,
    pub no: u64,
    pub index: usize,
}

const INDEX_BITS: u32 = 24;
const ROUTE_SHIFT: u32 = 62;

impl Tag {
    pub fn encode(self) -> usize {
        (((self.route as u64) << ROUTE_SHIFT) | self.no << INDEX_BITS | self.index as u64) as usize
    }

    pub fn decode(opaque: usize) -> Tag {
        let bits = opaque as u64;
        Tag {
            route: match bits >> ROUTE_SHIFT {
                0 => Route::Main,
                1 => Route::Alone,
                2 => Route::Once,
                _ => Route::Copy,
            },
            no: (bits & ((1 << ROUTE_SHIFT) - 1)) >> INDEX_BITS,
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
            Tag { route: Route::Main, no: 0, index: 0 },
            Tag { route: Route::Alone, no: 1, index: 2 },
            Tag { route: Route::Once, no: 7, index: 0 },
            Tag { route: Route::Main, no: (1 << 38) - 1, index: (1 << 24) - 1 },
        ] {
            assert_eq!(Tag::decode(tag.encode()), tag);
        }
    }
}
