//! Rows on their way and what has become of each.

use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::message::OutboxRow;
use outbox_relay::position::Position;
use outbox_relay::receipt::Receipt;
use outbox_relay::store::settle::{Death, Deferral, Outcome, PARKED, Reason};

use super::lanes::Opening;
use super::read::Page;
use crate::bugs::{Bug, Plan};
use crate::postgres::Xid;
use crate::postgres::read::DueRow;

/// A key within its topic.
pub type TopicKey = (Arc<str>, Option<Box<[u8]>>);

/// Where a row stands.
#[derive(Debug, Clone)]
pub enum Fate {
    /// Not handed over, or not again.
    Waiting,
    InFlight,
    /// Came back and has not been judged.
    Returned,
    Published,
    PutOff(Deferral),
    Dead(Death),
}

impl Fate {
    fn is_decided(&self) -> bool {
        !matches!(self, Fate::Waiting | Fate::InFlight | Fate::Returned)
    }
}

/// A page on its way.
pub struct Batch {
    pub no: u64,
    pub rows: Vec<Rc<OutboxRow>>,
    pub fates: Vec<Fate>,
    pub open: usize,
    /// The first row that was never offered.
    pub offered: usize,
    pub next: Position,
    /// The lane that it is a page of; `None`: a page of main.
    pub lane: Option<Arc<str>>,
    pub as_of: Xid,
    /// Of a lane: its last page.
    pub closes: bool,
    /// Of main: a lane that ends where it ends.
    pub closed: Option<Arc<str>>,
    /// Of main: lanes that begin before this page.
    pub opened: Vec<Opening>,
}

/// A batch whose every row has been decided.
#[derive(Default)]
pub struct Decided {
    pub outcome: Outcome,
    pub position: Option<Position>,
    /// What leaves the window.
    pub rows: usize,
    /// Keys of deferred rows that leave.
    pub departed: Vec<TopicKey>,
    /// Deferred rows that leave, scheduled ones included.
    pub left: usize,
    /// Of the seeded bug: keys that are blocked from the settlement on.
    pub blocked: Vec<TopicKey>,
    /// The retry loop waits for this settlement.
    pub is_due: bool,
    /// Topics of rows that are parked, one entry a row.
    pub parked: Vec<Arc<str>>,
}

fn receipt() -> Receipt {
    Receipt { partition: 0, offset: None }
}

impl Batch {
    pub fn new(no: u64, page: Page) -> Batch {
        let Page { rows, next, as_of, lane, closes, closed, opened, .. } = page;
        let open = rows.len();
        Batch {
            no,
            fates: vec![Fate::Waiting; open],
            open,
            offered: 0,
            rows,
            next,
            lane,
            as_of,
            closes,
            closed,
            opened,
        }
    }

    /// Decides or changes a row's fate.
    pub fn set(&mut self, index: usize, fate: Fate) {
        assert!(!self.fates[index].is_decided(), "a decided row is decided once");
        self.open -= usize::from(fate.is_decided());
        self.fates[index] = fate;
    }

    /// What the settlement records.
    pub fn decided(self, plan: &Plan) -> Decided {
        let mut decided = Decided { position: Some(self.next), rows: self.rows.len(), ..Decided::default() };
        for (row, fate) in self.rows.iter().zip(self.fates) {
            match fate {
                Fate::Published => decided.outcome.published.push((row.id, receipt())),
                Fate::Dead(death) => decided.outcome.rare.dead.push(death),
                Fate::PutOff(deferral) => {
                    if plan.has(Bug::UnblocksBeforeUnsettled) && deferral.reason != Reason::Scheduled {
                        decided.blocked.push((Arc::clone(&row.topic), row.key.clone()));
                    }
                    decided.put_off(row, deferral);
                }
                Fate::Waiting | Fate::InFlight | Fate::Returned => unreachable!("every row is decided"),
            }
        }
        decided
    }
}

/// Due rows on their way, key by key.
pub struct DueBatch {
    pub no: u64,
    pub rows: Vec<DueRow>,
    pub fates: Vec<Fate>,
    /// Indexes of rows that go one after another; the last one is next.
    pub chains: Vec<Vec<usize>>,
    pub ready: Vec<usize>,
    pub chain_of: Vec<usize>,
    pub in_flight: usize,
}

impl DueBatch {
    pub fn new(no: u64, rows: Vec<DueRow>, plan: &Plan) -> DueBatch {
        let unordered = plan.has(Bug::IgnoresKeyOrderOnRetry);
        let mut chains: Vec<Vec<usize>> = Vec::new();
        let mut fates = vec![Fate::Waiting; rows.len()];
        let mut chain_of = vec![usize::MAX; rows.len()];
        for (index, due) in rows.iter().enumerate() {
            let waiting = &due.waiting;
            if due.waits && !unordered {
                let known = Deferral::behind(waiting.row.id);
                let behind = Deferral { attempts: waiting.attempts, tries: waiting.tries, ..known };
                fates[index] = Fate::PutOff(behind);
                continue;
            }
            let same = |chain: &Vec<usize>| {
                let first: &DueRow = &rows[chain[0]];
                !unordered && waiting.any_key().is_some() && first.waiting.any_key() == waiting.any_key()
            };
            let chain = chains.iter().position(same).unwrap_or(chains.len());
            if chain == chains.len() {
                chains.push(Vec::new());
            }
            chains[chain].push(index);
            chain_of[index] = chain;
        }
        chains.iter_mut().for_each(|chain| chain.reverse());
        DueBatch { no, fates, ready: (0..chains.len()).rev().collect(), chains, chain_of, rows, in_flight: 0 }
    }

    pub fn is_through(&self) -> bool {
        self.in_flight == 0 && self.ready.is_empty()
    }

    /// What the settlement records: rows behind one that failed are left as they were.
    pub fn decided(self) -> Decided {
        let mut decided = Decided { is_due: true, ..Decided::default() };
        for (due, fate) in self.rows.into_iter().zip(self.fates) {
            let row = &due.waiting.row;
            match fate {
                Fate::Published => {
                    decided.outcome.published.push((row.id, receipt()));
                    decided.outcome.departed.push(row.id);
                }
                Fate::Dead(death) => decided.outcome.rare.dead.push(death),
                Fate::PutOff(deferral) => {
                    decided.put_off(row, deferral);
                    continue;
                }
                Fate::Waiting | Fate::InFlight | Fate::Returned => continue,
            }
            decided.left += 1;
            if due.waiting.reason != Reason::Scheduled {
                decided.departed.push((Arc::clone(&row.topic), row.key.clone()));
            }
        }
        decided
    }
}

impl Decided {
    fn put_off(&mut self, row: &OutboxRow, deferral: Deferral) {
        if deferral.delay_ms == Some(PARKED) {
            self.parked.push(Arc::clone(&row.topic));
        }
        self.outcome.deferred.push(deferral);
    }
}
