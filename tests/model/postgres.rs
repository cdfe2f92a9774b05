//! Simulated Postgres: transactions, snapshots, a WAL with a flushed part, crashes that lose the rest.
//!
//! The tables exist twice: as they are visible, and as a crash would leave them. Commits are WAL records; the durable
//! tables follow them as far as the WAL is flushed. Ids and transaction numbers of a lost tail are handed out again.
//! It knows nothing of relays but the statements that they send (`calls`).

pub mod calls;
pub mod read;
pub mod settle;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::message::OutboxRow;
use outbox_relay::position::Position;
use uuid::Uuid;

use self::calls::{Answer, Call};
use self::settle::{Settlement, Waiting};
use crate::bugs::{Ms, Plan};
use crate::dice::Dice;

/// A transaction number.
pub type Xid = u64;

/// A row of `outbox.message` and the transaction that wrote it.
#[derive(Debug, Clone)]
pub struct Stored {
    pub txid: Xid,
    pub row: Rc<OutboxRow>,
}

/// A row of `outbox.ledger`.
#[derive(Debug, Clone)]
pub struct LedgerRow {
    pub epoch: i64,
    pub seq: i64,
    /// The topic of a lane; main's rows have none.
    pub lane: Option<Arc<str>>,
    /// The lane's last row: main has the topic back.
    pub closed: bool,
    pub position: Position,
    pub as_of: Xid,
    pub published: Vec<i64>,
    pub dead: Vec<i64>,
}

/// Everything that is logged.
#[derive(Debug, Clone)]
pub struct Tables {
    pub messages: BTreeMap<i64, Stored>,
    pub deferred: BTreeMap<i64, Waiting>,
    pub dead: BTreeSet<i64>,
    pub ledger: Vec<LedgerRow>,
    pub holder: Option<Uuid>,
    pub epoch: i64,
    pub beat: i64,
    /// Where a recovery goes on.
    next_xid: Xid,
    logged_id: i64,
}

/// A WAL record.
#[derive(Debug, Clone)]
pub enum Redo {
    /// A transaction wrote something.
    Used(Xid),
    /// The sequence may have handed out ids up to this one.
    Sequence(i64),
    /// A writer's commit.
    Commit(Xid, Vec<Stored>),
    /// A settlement, and the clock that it read.
    Settle(Xid, Ms, Rc<Settlement>),
    TakeOver(Xid, Uuid),
    Beat(Xid),
    Resign(Xid),
}

/// A snapshot: transactions at or above `xmax`, and those in the list, are not visible.
#[derive(Debug)]
pub struct Snapshot {
    pub xmax: Xid,
    pub in_progress: Vec<Xid>,
}

impl Snapshot {
    /// From the text of a `pg_snapshot`.
    pub fn parse(text: &str) -> Snapshot {
        let mut parts = text.split(':').skip(1);
        let xmax = parts.next().and_then(|xmax| xmax.parse().ok()).expect("xmax of a snapshot");
        let list = parts.next().unwrap_or("").split(',').filter_map(|xid| xid.parse().ok());
        Snapshot { xmax, in_progress: list.collect() }
    }

    /// It was taken before the other one: snapshots of one server are in order.
    pub fn is_older_than(&self, other: &Snapshot) -> bool {
        let open = |snapshot: &Snapshot| std::cmp::Reverse(snapshot.in_progress.len());
        (self.xmax, open(self)) < (other.xmax, open(other))
    }

    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.in_progress.contains(&xid)
    }
}

/// The server.
pub struct Postgres {
    pub visible: Tables,
    durable: Tables,
    wal: VecDeque<(u64, Redo)>,
    written: u64,
    flushed: u64,
    open: BTreeSet<Xid>,
    next_xid: Xid,
    latest_completed: Xid,
    last_id: i64,
    logged_id: i64,
    /// The unlogged incarnation table.
    token: Option<Uuid>,
    calls: Vec<Call>,
    next_call: u64,
    answers: HashMap<u64, Answer>,
    pub down_until: Ms,
    plan: Plan,
    /// What must never happen and did.
    pub broken: Vec<String>,
    /// Marks that crashes have lost; each of them repeats a record.
    pub lost_marks: usize,
    pub crashes: usize,
    pub takeovers: usize,
}

impl Postgres {
    /// An outbox that was just migrated.
    pub fn new(plan: &Plan) -> Postgres {
        let first = LedgerRow {
            epoch: 0,
            seq: 0,
            lane: None,
            closed: false,
            position: Position { snapshot: "10:10:".to_owned(), high: 0, late: None },
            as_of: 10,
            published: Vec::new(),
            dead: Vec::new(),
        };
        let tables = Tables {
            messages: BTreeMap::new(),
            deferred: BTreeMap::new(),
            dead: BTreeSet::new(),
            ledger: vec![first],
            holder: None,
            epoch: 0,
            beat: 0,
            next_xid: 10,
            logged_id: 0,
        };
        Postgres {
            visible: tables.clone(),
            durable: tables,
            wal: VecDeque::new(),
            written: 0,
            flushed: 0,
            open: BTreeSet::new(),
            next_xid: 10,
            latest_completed: 9,
            last_id: 0,
            logged_id: 0,
            token: None,
            calls: Vec::new(),
            next_call: 0,
            answers: HashMap::new(),
            down_until: 0,
            plan: plan.clone(),
            broken: Vec::new(),
            lost_marks: 0,
            crashes: 0,
            takeovers: 0,
        }
    }

    /// A transaction number, drawn at the first write.
    pub fn begin(&mut self) -> Xid {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.open.insert(xid);
        xid
    }

    /// The next id, and a row's own WAL record.
    pub fn draw_id(&mut self, xid: Xid) -> i64 {
        self.last_id += 1;
        if self.last_id > self.logged_id {
            self.logged_id = self.last_id + self.plan.log_ahead - 1;
            self.log(Redo::Sequence(self.logged_id));
        }
        self.log(Redo::Used(xid));
        self.last_id
    }

    /// Makes a transaction visible, at once and as a whole; a synchronous one only when it is on disk.
    pub fn commit(&mut self, xid: Xid, redo: Redo, synchronous: bool) {
        self.log(redo.clone());
        if synchronous {
            self.flush(self.written);
        }
        self.visible.apply(&redo, &mut self.broken);
        self.end(xid);
    }

    /// Ends a transaction that leaves nothing.
    pub fn end(&mut self, xid: Xid) {
        self.open.remove(&xid);
        self.latest_completed = self.latest_completed.max(xid);
    }

    fn log(&mut self, redo: Redo) {
        self.written += 1;
        self.wal.push_back((self.written, redo));
    }

    fn flush(&mut self, upto: u64) {
        while self.wal.front().is_some_and(|(at, _)| *at <= upto) {
            let (_, redo) = self.wal.pop_front().expect("it was there");
            self.durable.apply(&redo, &mut Vec::new());
        }
        self.flushed = self.flushed.max(upto);
    }

    /// The WAL writer: some of what is not on disk gets there.
    pub fn flush_some(&mut self, dice: &mut Dice) {
        if self.written > self.flushed {
            let upto = dice.between(self.flushed, self.written);
            self.flush(upto);
        }
    }

    /// `pg_current_snapshot()`: its xmax is the latest that has ended, plus one, and not the next to be handed out.
    fn snapshot(&self) -> String {
        let xmax = self.latest_completed + 1;
        let list: Vec<String> = self.open.range(..xmax).map(u64::to_string).collect();
        let xmin = self.open.first().copied().unwrap_or(xmax).min(xmax);
        format!("{xmin}:{xmax}:{}", list.join(","))
    }

    /// The server dies and recovers. Returns the rows of commits that are lost.
    pub fn crash(&mut self, dice: &mut Dice) -> Vec<Rc<OutboxRow>> {
        self.crashes += 1;
        if dice.percent(30) {
            self.flush_some(dice);
        }
        let mut lost = Vec::new();
        for (_, redo) in std::mem::take(&mut self.wal) {
            match redo {
                Redo::Commit(_, rows) => lost.extend(rows.into_iter().map(|stored| stored.row)),
                Redo::Settle(_, _, settlement) => self.lost_marks += settlement.outcome.published.len(),
                _ => {}
            }
        }
        self.visible = self.durable.clone();
        self.open.clear();
        self.next_xid = self.visible.next_xid;
        self.latest_completed = self.next_xid - 1;
        self.last_id = self.visible.logged_id;
        self.logged_id = self.last_id;
        self.token = None;
        // The end of a recovery is a record of its own.
        self.written = self.flushed + 1;
        self.flushed = self.written;
        self.lose_calls(dice);
        lost
    }

    /// Nothing is visible that a crash could undo.
    pub fn is_flushed(&self) -> bool {
        self.written == self.flushed
    }

    /// Flushes everything: what is visible now is what there is.
    pub fn flush_all(&mut self) {
        self.flush(self.written);
    }
}

impl Tables {
    /// Replays a record; what is visible and what is durable go through the same changes in the same order.
    fn apply(&mut self, redo: &Redo, broken: &mut Vec<String>) {
        let xid = match redo {
            Redo::Sequence(upto) => {
                self.logged_id = *upto;
                return;
            }
            Redo::Used(xid)
            | Redo::Commit(xid, _)
            | Redo::Settle(xid, ..)
            | Redo::TakeOver(xid, _)
            | Redo::Beat(xid)
            | Redo::Resign(xid) => *xid,
        };
        self.next_xid = self.next_xid.max(xid + 1);
        match redo {
            Redo::Commit(_, rows) => {
                for stored in rows {
                    if self.messages.insert(stored.row.id, stored.clone()).is_some() {
                        broken.push(format!("id {} was handed out twice", stored.row.id));
                    }
                }
            }
            Redo::Settle(xid, at, settlement) => self.settle(*xid, *at, settlement, broken),
            Redo::TakeOver(_, holder) => {
                self.holder = Some(*holder);
                self.epoch += 1;
                self.beat += 1;
                let newest = self.newest().clone();
                self.ledger.push(LedgerRow {
                    epoch: self.epoch,
                    seq: 0,
                    published: Vec::new(),
                    dead: Vec::new(),
                    ..newest
                });
            }
            Redo::Beat(_) => self.beat += 1,
            Redo::Resign(_) => self.holder = None,
            Redo::Used(_) | Redo::Sequence(_) => {}
        }
    }

    /// The newest settlement of main: where reading goes on.
    pub fn newest(&self) -> &LedgerRow {
        let main = self.ledger.iter().filter(|row| row.lane.is_none());
        main.max_by_key(|row| (row.epoch, row.seq)).expect("the ledger is never empty")
    }

    /// Topics that are read on their own, and where.
    pub fn open_lanes(&self) -> Vec<LedgerRow> {
        let mut newest: BTreeMap<&str, &LedgerRow> = BTreeMap::new();
        for row in &self.ledger {
            let Some(lane) = row.lane.as_deref() else { continue };
            let known = newest.entry(lane).or_insert(row);
            if (known.epoch, known.seq) < (row.epoch, row.seq) {
                *known = row;
            }
        }
        newest.into_values().filter(|row| !row.closed).cloned().collect()
    }
}
