//! Settle: decided batches into the ledger, in order, several at once. A settlement without an answer is sent again as it was.

use std::collections::VecDeque;
use std::rc::Rc;

use outbox_relay::position::Position;
use outbox_relay::store::settle::Outcome;

use super::batch::{Decided, TopicKey};
use super::{End, Heard, Lead, Loops, Session, Site};
use crate::bugs::Ms;
use crate::postgres::calls::{Answer, Ask, Inherited, Settled};
use crate::postgres::settle::Settlement;

/// A decided batch waits for company at most this long.
const COMPANY: Ms = 50;
/// Marks that are not durable are at most this old.
const DURABLE_EVERY: Ms = 500;
/// Decided batches between the sender and this loop.
const QUEUE: usize = 8;

/// What a settlement frees.
#[derive(Default)]
pub struct Freed {
    pub rows: usize,
    pub departed: Vec<TopicKey>,
    /// Deferred rows that left, scheduled ones included.
    pub gone: usize,
    pub blocked: Vec<TopicKey>,
    /// The retry loop hears how many have left.
    pub due: Option<usize>,
}

/// The loop's state.
pub struct Settling {
    session: Session,
    pub queue: VecDeque<Decided>,
    current: Option<(Rc<Settlement>, Freed)>,
    /// For the sender.
    pub out: VecDeque<Freed>,
    /// Since when a settlement has been on its way.
    pub since: Option<Ms>,
    seq: i64,
    position: Position,
    durable_at: Ms,
    wrote_at: Ms,
}

impl Settling {
    pub fn new(found: &Inherited, now: Ms) -> Settling {
        Settling {
            session: Session::default(),
            queue: VecDeque::new(),
            current: None,
            out: VecDeque::new(),
            since: None,
            seq: 0,
            position: found.newest.position.clone(),
            durable_at: now,
            wrote_at: now,
        }
    }

    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUE
    }

    fn gather(&mut self, lead: &Lead, site: &Site) -> Option<(Rc<Settlement>, Freed)> {
        let rows: usize = self.queue.iter().map(|decided| decided.rows).sum();
        let urgent = self.queue.iter().any(|decided| decided.is_due);
        let waits = site.now < self.wrote_at + COMPANY && !urgent && rows < site.plan.page_rows;
        if self.queue.is_empty() || waits {
            return None;
        }
        let (mut outcome, mut freed) = (Outcome::default(), Freed::default());
        let (mut moved, mut rows) = (false, 0);
        while let Some(decided) = self.queue.pop_front() {
            outcome.published.extend(decided.outcome.published);
            outcome.deferred.extend(decided.outcome.deferred);
            outcome.departed.extend(decided.outcome.departed);
            outcome.rare.extend(decided.outcome.rare);
            freed.rows += decided.rows;
            if decided.is_due {
                freed.due = Some(decided.left);
            }
            freed.gone += decided.left;
            freed.departed.extend(decided.departed);
            freed.blocked.extend(decided.blocked);
            if let Some(position) = decided.position {
                (self.position, moved) = (position, true);
            }
            rows += decided.rows;
            if decided.is_due || rows >= site.plan.page_rows {
                break;
            }
        }
        let settlement = Settlement {
            epoch: lead.epoch,
            seq: self.seq + 1,
            token: lead.token,
            durable: site.now >= self.durable_at + DURABLE_EVERY,
            position: self.position.clone(),
            moved,
            outcome,
        };
        Some((Rc::new(settlement), freed))
    }
}

/// One turn.
pub fn step(lead: &Lead, loops: &mut Loops, site: &mut Site) -> Result<(), End> {
    let settle = &mut loops.settle;
    match settle.session.hear(site) {
        Heard::Waits => {}
        Heard::Free => {
            if settle.current.is_none() {
                settle.current = settle.gather(lead, site);
                settle.since = settle.current.as_ref().map(|_| site.now);
            }
            if let Some((settlement, _)) = &settle.current {
                settle.session.ask(lead.relay, Ask::Settle(Rc::clone(settlement)), site);
            }
        }
        Heard::Answer(Answer::Settled(Settled::Written | Settled::Repeated), _) => {
            let (settlement, freed) = settle.current.take().expect("it was sent");
            settle.seq = settlement.last_seq();
            settle.since = None;
            settle.wrote_at = site.now;
            if settlement.is_synchronous() {
                settle.durable_at = site.now;
            }
            if let Some(left) = freed.due {
                loops.retry.settled(left);
            }
            settle.out.push_back(freed);
        }
        Heard::Answer(Answer::Settled(refused), _) => {
            return Err(match refused {
                Settled::LeaseLost => End::LeaseLost,
                Settled::Forgotten => End::Forgotten,
                _ => End::OutOfTurn,
            });
        }
        Heard::Answer(..) => {
            if site.now >= lead.trust_until {
                return Err(End::TrustRanOut);
            }
        }
    }
    Ok(())
}
