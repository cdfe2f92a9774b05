//! Statements on their way: sent, waiting for a lock, running, answered or lost.
//!
//! A client and its statement part company easily: the connection is cut, the client dies or freezes, and the server
//! goes on with what it has. Locks are those of the functions: settle and beat hold the lease row for share, takeover and resign for
//! update; beat and takeover hold the beat row.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::store::lease::Lease;
use uuid::Uuid;

use super::read::{DuePage, Incarnation, PollFrom, Polled};
use super::settle::Settlement;
use super::{LedgerRow, Postgres, Redo, Xid};
use crate::bugs::{Bug, Ms};
use crate::dice::Dice;
use crate::trace::Trace;

/// What a client asks for.
#[derive(Debug, Clone)]
pub enum Ask {
    Look,
    TakeOver { holder: Uuid, epoch: i64, beat: i64, token: Uuid },
    Beat { holder: Uuid, epoch: i64 },
    Resign { holder: Uuid, epoch: i64 },
    Inherit,
    Poll(PollFrom),
    Barrier { written: u64, token: Uuid },
    Due { since: Ms },
    Settle(Rc<Settlement>),
}

/// What it hears.
#[derive(Debug)]
pub enum Answer {
    /// The connection or the server is gone. What was asked may have been done.
    Lost,
    Seen(Lease),
    /// The new epoch, unless somebody was quicker.
    Taken(Option<i64>),
    /// The epoch is (was) the caller's.
    Ours(bool),
    Inherited(Inherited),
    Polled(Polled),
    /// Durable, or the server is another one.
    Durable(Incarnation),
    Due(DuePage),
    Settled(Settled),
}

/// What a new leader finds.
#[derive(Debug)]
pub struct Inherited {
    pub newest: LedgerRow,
    pub lanes: Vec<LedgerRow>,
    /// Blocked keys and their number of waiting rows.
    pub waiting: Vec<(Arc<str>, Box<[u8]>, u64)>,
    pub deferred: u64,
    /// By topic.
    pub parked: HashMap<Arc<str>, u64>,
}

/// What `outbox.settle` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Written,
    Repeated,
    LeaseLost,
    Forgotten,
    OutOfTurn,
}

/// A statement.
pub struct Call {
    no: u64,
    relay: usize,
    ask: Ask,
    /// It runs in this transaction, since then.
    running: Option<(Xid, Ms)>,
    /// Nobody waits for the answer any more.
    muted: bool,
}

impl Postgres {
    /// Sends a statement; the answer comes under its number.
    pub fn ask(&mut self, relay: usize, ask: Ask, now: Ms) -> u64 {
        self.next_call += 1;
        if now < self.down_until && !self.plan.pooler {
            self.answers.insert(self.next_call, Answer::Lost);
        } else {
            self.calls.push(Call { no: self.next_call, relay, ask, running: None, muted: false });
        }
        self.next_call
    }

    /// The answer, if it has come.
    pub fn answer(&mut self, no: u64) -> Option<Answer> {
        self.answers.remove(&no)
    }

    /// The connections of a relay are cut. The server finishes what runs, and perhaps even what has just arrived.
    pub fn cut(&mut self, relay: usize, dice: &mut Dice) {
        self.calls.retain_mut(|call| {
            if call.relay != relay || call.muted {
                return true;
            }
            self.answers.insert(call.no, Answer::Lost);
            call.muted = true;
            call.running.is_some() || dice.percent(50)
        });
    }

    /// A page that was read waits for the disk.
    pub fn barrier_waits(&self) -> bool {
        self.calls.iter().any(|call| matches!(call.ask, Ask::Barrier { .. }))
    }

    /// The server died: what ran is gone; behind a pooler what had not begun is sent to the next one.
    pub(super) fn lose_calls(&mut self, dice: &mut Dice) {
        let pooler = self.plan.pooler;
        self.calls.retain(|call| {
            let stays = pooler && call.running.is_none() && dice.percent(80);
            if !stays && !call.muted {
                self.answers.insert(call.no, Answer::Lost);
            }
            stays
        });
    }

    /// Some statement gets on: it begins, or it ends.
    pub fn step(&mut self, now: Ms, dice: &mut Dice, trace: &mut Trace) {
        if self.calls.is_empty() || now < self.down_until {
            return;
        }
        let at = dice.below(self.calls.len());
        let answer = match self.calls[at].running {
            Some((xid, since)) => Some(self.finish(at, xid, since, trace, now)),
            None => self.start(at, now),
        };
        if let Some(answer) = answer {
            let call = self.calls.swap_remove(at);
            if !call.muted {
                self.answers.insert(call.no, answer);
            }
        }
    }

    /// Some other statement runs of which this holds.
    fn runs(&self, holds: impl Fn(&Ask) -> bool) -> bool {
        self.calls.iter().any(|call| call.running.is_some() && holds(&call.ask))
    }

    /// Begins a statement. `None`: it waits for a lock, or it runs in a transaction of its own now.
    fn start(&mut self, at: usize, now: Ms) -> Option<Answer> {
        let for_update = |ask: &Ask| matches!(ask, Ask::TakeOver { .. } | Ask::Resign { .. });
        let for_share = |ask: &Ask| matches!(ask, Ask::Beat { .. } | Ask::Settle(_));
        let ask = self.calls[at].ask.clone();
        let locked = match &ask {
            ask if for_update(ask) => self.runs(|other| for_update(other) || for_share(other)),
            Ask::Beat { .. } => self.runs(|other| for_update(other) || matches!(other, Ask::Beat { .. })),
            // One that inserts the same ledger row has to end first.
            Ask::Settle(mine) => self.runs(|other| {
                for_update(other)
                    || matches!(other, Ask::Settle(other) if (other.epoch, other.seq) == (mine.epoch, mine.seq))
            }),
            _ => false,
        };
        if locked {
            return None;
        }
        match ask {
            Ask::Look => return Some(Answer::Seen(self.lease())),
            Ask::Inherit => return Some(Answer::Inherited(self.inherited())),
            Ask::Poll(from) => return Some(Answer::Polled(self.poll(&from))),
            Ask::Due { since } => return Some(Answer::Due(self.due(since, now))),
            Ask::Barrier { written, token } => {
                if self.flushed < written {
                    self.flush(self.written);
                }
                let blind = self.plan.has(Bug::BlindFlushBarrier);
                return Some(Answer::Durable(if blind {
                    Incarnation::Ours
                } else {
                    self.incarnation(token)
                }));
            }
            Ask::TakeOver { holder, epoch, beat, .. } => {
                let moved =
                    self.visible.beat != beat && self.visible.holder.is_some_and(|known| known != holder);
                if self.visible.epoch != epoch || moved {
                    return Some(Answer::Taken(None));
                }
            }
            Ask::Beat { holder, epoch } | Ask::Resign { holder, epoch } => {
                if self.visible.epoch != epoch || self.visible.holder != Some(holder) {
                    return Some(Answer::Ours(false));
                }
            }
            Ask::Settle(settlement) => {
                if let Some(refused) = self.refuses(&settlement) {
                    return Some(Answer::Settled(refused));
                }
            }
        }
        let xid = self.begin();
        self.log(Redo::Used(xid));
        self.calls[at].running = Some((xid, now));
        None
    }

    fn refuses(&self, settlement: &Settlement) -> Option<Settled> {
        let fenced = !self.plan.has(Bug::NoFencing);
        if fenced && settlement.epoch != self.visible.epoch {
            return Some(Settled::LeaseLost);
        }
        match self.incarnation(settlement.token) {
            Incarnation::Ours => {}
            Incarnation::Other if !fenced => {}
            Incarnation::Other | Incarnation::Gone => return Some(Settled::Forgotten),
        }
        let newest = self.visible.newest_of(settlement.epoch).map(|row| row.seq);
        match newest {
            Some(newest) if newest >= settlement.seq => Some(Settled::Repeated),
            Some(newest) if newest == settlement.seq - 1 => None,
            _ => Some(Settled::OutOfTurn),
        }
    }

    /// Commits a statement that runs.
    fn finish(&mut self, at: usize, xid: Xid, since: Ms, trace: &mut Trace, now: Ms) -> Answer {
        let relay = self.calls[at].relay;
        match self.calls[at].ask.clone() {
            Ask::TakeOver { holder, token, .. } => {
                self.commit(xid, Redo::TakeOver(xid, holder), true);
                self.token = Some(token);
                self.takeovers += 1;
                let epoch = self.visible.epoch;
                trace.say(now, "postgres", || format!("relay {relay} takes over, epoch {epoch}"));
                Answer::Taken(Some(epoch))
            }
            Ask::Beat { .. } => {
                self.commit(xid, Redo::Beat(xid), true);
                Answer::Ours(true)
            }
            Ask::Resign { .. } => {
                self.commit(xid, Redo::Resign(xid), true);
                trace.say(now, "postgres", || format!("relay {relay} resigns"));
                Answer::Ours(true)
            }
            Ask::Settle(settlement) => {
                let synchronous = settlement.is_synchronous();
                trace.say(now, "postgres", || {
                    let Settlement { epoch, seq, position, outcome, .. } = &*settlement;
                    let published: Vec<i64> = outcome.published.iter().map(|(id, _)| *id).collect();
                    let deferred: Vec<_> = outcome.deferred.iter().map(|d| (d.id, d.delay_ms)).collect();
                    let dead: Vec<i64> = outcome.rare.dead.iter().map(|d| d.id).collect();
                    let how = if synchronous { "" } else { ", asynchronous" };
                    let late = position.late.as_ref().map(|late| (&late.snapshot, late.after));
                    let lanes = outcome.rare.lanes.iter().map(|step| {
                        let closed = if step.closed { " closed" } else { "" };
                        format!(
                            ", lane {} at {} high {}{closed}",
                            step.topic, step.position.snapshot, step.position.high
                        )
                    });
                    let lanes: String = lanes.collect();
                    format!(
                        "settles {epoch}.{seq} to {} high {} late {late:?}: published {published:?} \
                         deferred {deferred:?} dead {dead:?} woken {:?}{how}{lanes}",
                        position.snapshot, position.high, outcome.rare.woken
                    )
                });
                self.commit(xid, Redo::Settle(xid, since, settlement), synchronous);
                Answer::Settled(Settled::Written)
            }
            _ => unreachable!("only what writes runs"),
        }
    }

    fn lease(&self) -> Lease {
        Lease {
            holder: self.visible.holder,
            holder_name: None,
            epoch: self.visible.epoch,
            beat: self.visible.beat,
            system_identifier: None,
            database_oid: None,
            kafka_cluster_id: None,
            timeline: None,
        }
    }

    fn inherited(&self) -> Inherited {
        let mut waiting: Vec<(Arc<str>, Box<[u8]>, u64)> = Vec::new();
        let mut parked = HashMap::new();
        for row in self.visible.deferred.values() {
            if row.due_at == Some(super::settle::NEVER) {
                *parked.entry(Arc::clone(&row.row.topic)).or_default() += 1;
            }
            let Some((topic, key)) = row.key() else { continue };
            match waiting.iter_mut().find(|(t, k, _)| (t, k) == (&topic, &key)) {
                Some((_, _, rows)) => *rows += 1,
                None => waiting.push((topic, key, 1)),
            }
        }
        Inherited {
            newest: self.visible.newest().clone(),
            lanes: self.visible.open_lanes(),
            waiting,
            deferred: self.visible.deferred.len() as u64,
            parked,
        }
    }
}
