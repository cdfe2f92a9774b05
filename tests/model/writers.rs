//! Services: transactions that lock business rows, insert outbox rows and end in one way or the other.
//!
//! Writers of a key take turns: whoever wants a key waits until its holder's transaction has ended. Keys are locked in order.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::message::OutboxRow;
use uuid::Uuid;

use crate::bugs::{Ms, Plan};
use crate::dice::Dice;
use crate::postgres::{Postgres, Redo, Stored, Xid};
use crate::relay::Site;
use crate::truth::{End, Event, Truth};

/// A topic by its number, and a key; keyless rows lock nothing.
type Place = (usize, Option<u8>);

/// A key whose writers do not take turns: it has no order, and its rows become visible below others of theirs.
const WILD: u8 = 3;

/// A transaction.
struct Transaction {
    xid: Option<Xid>,
    /// What is still to be inserted, last first.
    to_do: Vec<Place>,
    rows: Vec<Stored>,
    ends_at: Ms,
    rolls_back: bool,
    synchronous: bool,
}

/// All services.
pub struct Writers {
    writers: Vec<Option<Transaction>>,
    holders: HashMap<Place, usize>,
    left: usize,
}

impl Writers {
    pub fn new(plan: &Plan) -> Writers {
        Writers {
            writers: (0..plan.writers).map(|_| None).collect(),
            holders: HashMap::new(),
            left: plan.transactions,
        }
    }

    /// No transaction is open, and none will begin.
    pub fn are_done(&self) -> bool {
        self.left == 0 && self.writers.iter().all(Option::is_none)
    }

    /// No new transaction, and the open ones end soon.
    pub fn finish(&mut self, now: Ms) {
        self.left = 0;
        self.writers.iter_mut().flatten().for_each(|transaction| transaction.ends_at = now);
    }

    /// The server died: what was open is rolled back.
    pub fn crash(&mut self, truth: &mut Truth) {
        self.holders.clear();
        for transaction in self.writers.iter_mut().filter_map(Option::take) {
            transaction.rows.iter().for_each(|row| truth.end(row.row.event_id.as_u128(), End::RolledBack));
        }
    }

    /// Some writer does its next step.
    pub fn step(&mut self, site: &mut Site, truth: &mut Truth) {
        let Site { now, plan, dice, postgres, kafka, trace, .. } = site;
        let (now, topics) = (*now, &kafka.topics);
        let who = dice.below(self.writers.len());
        let Some(transaction) = &mut self.writers[who] else {
            if self.left > 0 {
                self.left -= 1;
                let begun = begin(now, plan, dice, postgres);
                self.writers[who] = Some(begun);
            }
            return;
        };
        if let Some(&place) = transaction.to_do.last() {
            let in_turn = place.1.is_some_and(|key| key != WILD);
            if in_turn && *self.holders.entry(place).or_insert(who) != who {
                return;
            }
            transaction.to_do.pop();
            let xid = *transaction.xid.get_or_insert_with(|| postgres.begin());
            let id = postgres.draw_id(xid);
            let event = truth.events.len() as u128 + 1;
            let key: Option<Box<[u8]>> = place.1.map(|key| Box::from([b'a' + key]));
            let topic = Arc::clone(&topics[place.0]);
            let row = row(id, event, &topic, key, now, plan, dice);
            // It joins its key's order when it falls due, which nobody here knows.
            let in_turn = in_turn && row.deliver_after_us.is_none();
            let odd = row.partition.is_some() || row.payload_bytes != Some(100);
            trace.say(now, "writer", || {
                let key = place.1.map_or("no key".to_owned(), |key| char::from(b'a' + key).to_string());
                format!("{who} in {xid} inserts {id} into {topic}, {key} (event {event})")
            });
            let refused_until = match dice.percent(plan.refused) {
                true if dice.percent(50) => Ms::MAX,
                true => now + dice.between(1, 3000),
                false => 0,
            };
            truth.events.push(Event { id, end: End::Open, refused_until, odd, in_turn });
            transaction.rows.push(Stored { txid: xid, row: Rc::new(row) });
            return;
        }
        if now < transaction.ends_at {
            return;
        }
        let transaction = self.writers[who].take().expect("it was there");
        self.holders.retain(|_, holder| *holder != who);
        let Some(xid) = transaction.xid else { return };
        let end = if transaction.rolls_back { End::RolledBack } else { End::Committed };
        transaction.rows.iter().for_each(|row| truth.end(row.row.event_id.as_u128(), end));
        trace.say(now, "writer", || {
            let how = if transaction.synchronous { "" } else { " asynchronously" };
            format!("{who} ends {xid}: {end:?}{how}")
        });
        if transaction.rolls_back {
            postgres.end(xid);
        } else {
            postgres.commit(xid, Redo::Commit(xid, transaction.rows), transaction.synchronous);
        }
    }
}

fn begin(now: Ms, plan: &Plan, dice: &mut Dice, postgres: &mut Postgres) -> Transaction {
    // One in twenty writes many rows: late rows that do not fit into one page.
    let rows = if dice.percent(5) { dice.between(5, 25) } else { dice.between(0, 4) };
    let mut to_do: Vec<Place> = (0..rows)
        .map(|_| (dice.below(2), if dice.percent(80) { Some(dice.below(4) as u8) } else { None }))
        .collect();
    to_do.sort_unstable_by(|a, b| b.cmp(a));
    let lingers = dice.percent(plan.lingering);
    Transaction {
        // Something else was written first.
        xid: dice.percent(30).then(|| postgres.begin()),
        to_do,
        rows: Vec::new(),
        ends_at: now + if lingers { dice.between(500, 4000) } else { dice.between(0, 60) },
        rolls_back: dice.percent(10),
        synchronous: !dice.percent(plan.asynchronous),
    }
}

fn row(
    id: i64,
    event: u128,
    topic: &Arc<str>,
    key: Option<Box<[u8]>>,
    now: Ms,
    plan: &Plan,
    dice: &mut Dice,
) -> OutboxRow {
    // Some look too large for their topic, and some name a partition that is not there.
    let odd = dice.percent(plan.refused);
    OutboxRow {
        id,
        event_id: Uuid::from_u128(event),
        topic: Arc::clone(topic),
        key,
        payload: Some(Box::default()),
        payload_bytes: Some(if odd && dice.percent(50) { 20_000 } else { 100 }),
        headers: None,
        partition: (odd && dice.percent(30)).then_some(99),
        created_us: 0,
        deliver_after_us: dice.percent(plan.scheduled).then(|| (now + dice.between(0, 2000)) as i64 * 1000),
        expires_us: None,
    }
}
