//! `outbox.settle` on simulated tables: what one settlement changes, all of it or nothing.
//!
//! Follows the function of the newest migration step by step. Who may settle is asked before (`calls`).

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::message::OutboxRow;
use outbox_relay::position::Position;
use outbox_relay::store::settle::{Outcome, PARKED, Reason};
use uuid::Uuid;

use super::{LedgerRow, Tables, Xid};
use crate::bugs::Ms;

/// When a parked row is due.
pub const NEVER: Ms = Ms::MAX;

/// A settlement on its way; repeated only as it is.
#[derive(Debug)]
pub struct Settlement {
    pub epoch: i64,
    pub seq: i64,
    pub token: Uuid,
    pub durable: bool,
    pub position: Position,
    pub moved: bool,
    pub outcome: Outcome,
}

impl Settlement {
    /// The number of the last ledger row that it writes: lanes take theirs before main's.
    pub fn last_seq(&self) -> i64 {
        self.seq + self.outcome.rare.lanes.len() as i64
    }

    /// Whether it waits for the disk, as the function decides it.
    pub fn is_synchronous(&self) -> bool {
        let Outcome { deferred, departed, dropped, rare, .. } = &self.outcome;
        let rare = !(rare.dead.is_empty() && rare.attempts.is_empty() && rare.woken.is_empty());
        self.durable || rare || !(deferred.is_empty() && departed.is_empty() && dropped.is_empty())
    }
}

/// A row of `outbox.deferred`.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub row: Rc<OutboxRow>,
    pub reason: Reason,
    /// `None`: behind an earlier row of its key.
    pub due_at: Option<Ms>,
    pub attempts: i32,
    pub tries: i32,
    pub first_rejected: Option<Ms>,
    pub passable: bool,
}

impl Waiting {
    /// It blocks its key, and this is the key.
    pub fn key(&self) -> Option<(Arc<str>, Box<[u8]>)> {
        self.any_key().filter(|_| self.reason != Reason::Scheduled && !self.passable)
    }

    /// The key, whether it is blocked or not.
    pub fn any_key(&self) -> Option<(Arc<str>, Box<[u8]>)> {
        self.row.key.clone().map(|key| (Arc::clone(&self.row.topic), key))
    }
}

impl Tables {
    /// Applies it at the time `at`.
    pub fn settle(&mut self, xid: Xid, at: Ms, settlement: &Settlement, broken: &mut Vec<String>) {
        let Settlement { epoch, seq, outcome, .. } = settlement;
        let bound = self.newest_of(*epoch).map_or(xid, |row| row.as_of);
        if self.ledger.iter().any(|row| (row.epoch, row.seq) == (*epoch, *seq)) {
            broken.push(format!("settlement {epoch}.{seq} was written twice"));
        }
        if *epoch != self.epoch {
            broken.push(format!("deposed leader of epoch {epoch} settled under epoch {}", self.epoch));
        }
        for (step, seq) in outcome.rare.lanes.iter().zip(*seq..) {
            self.ledger.push(LedgerRow {
                epoch: *epoch,
                seq,
                lane: Some(Arc::clone(&step.topic)),
                closed: step.closed,
                position: step.position.clone(),
                as_of: step.as_of.as_ref().map_or(xid, |as_of| as_of.parse().expect("a number")),
                published: Vec::new(),
                dead: Vec::new(),
            });
        }
        self.ledger.push(LedgerRow {
            epoch: *epoch,
            seq: settlement.last_seq(),
            lane: None,
            closed: false,
            position: settlement.position.clone(),
            as_of: if settlement.moved { xid } else { bound },
            published: outcome.published.iter().map(|(id, _)| *id).collect(),
            dead: outcome.rare.dead.iter().map(|death| death.id).collect(),
        });
        let mut touched: BTreeSet<(Arc<str>, Box<[u8]>)> = BTreeSet::new();
        for id in &outcome.departed {
            let gone = self.deferred.remove(id);
            touched.extend(gone.and_then(|waiting| waiting.any_key()));
        }
        for death in &outcome.rare.dead {
            let gone = self.deferred.remove(&death.id);
            touched.extend(gone.as_ref().and_then(Waiting::any_key));
            if gone.is_none() && !self.messages.contains_key(&death.id) {
                broken.push(format!("settlement {epoch}.{seq} buried {} and did not find it", death.id));
            }
            self.dead.insert(death.id);
        }
        for deferral in &outcome.deferred {
            let due_at = match deferral.delay_ms {
                Some(PARKED) => Some(NEVER),
                delay => delay.map(|delay| at + delay as Ms),
            };
            let known = self.deferred.remove(&deferral.id);
            let row = match &known {
                Some(waiting) => Rc::clone(&waiting.row),
                None => match self.messages.get(&deferral.id) {
                    Some(stored) => Rc::clone(&stored.row),
                    None => {
                        broken.push(format!(
                            "settlement {epoch}.{seq} put {} off and did not find it",
                            deferral.id
                        ));
                        continue;
                    }
                },
            };
            let rejected = (deferral.attempts > 0).then_some(at);
            let waiting = Waiting {
                row,
                reason: deferral.reason,
                due_at,
                attempts: deferral.attempts,
                tries: deferral.tries,
                first_rejected: known.and_then(|known| known.first_rejected).or(rejected),
                passable: deferral.passable,
            };
            touched.extend(waiting.any_key());
            self.deferred.insert(deferral.id, waiting);
        }
        for (topic, rows) in &outcome.rare.woken {
            let parked = |w: &&mut Waiting| w.row.topic == *topic && w.due_at == Some(NEVER);
            for waiting in self.deferred.values_mut().filter(parked).take(*rows as usize) {
                waiting.due_at = Some(at);
            }
        }
        // The lowest waiting row of a key is its head and must be due.
        for key in touched {
            let head = self.deferred.values_mut().find(|waiting| waiting.key().as_ref() == Some(&key));
            if let Some(head) = head.filter(|head| head.due_at.is_none()) {
                head.due_at = Some(at);
            }
        }
    }

    /// The newest settlement of this epoch.
    pub fn newest_of(&self, epoch: i64) -> Option<&LedgerRow> {
        self.ledger.iter().filter(|row| row.epoch == epoch).max_by_key(|row| row.seq)
    }
}
