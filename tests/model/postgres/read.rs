//! The statements that read: one statement, one snapshot. They follow `poll.sql`, `late_set.sql`, `poll_late.sql` and `due.sql`.
//!
//! What a page means for the position is the client's business.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::message::OutboxRow;
use outbox_relay::position::Position;
use uuid::Uuid;

use super::settle::{NEVER, Waiting};
use super::{Postgres, Snapshot, Stored, Xid};
use crate::bugs::{Bug, Ms};

/// Whose token the server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incarnation {
    Ours,
    Other,
    Gone,
}

/// What a poll is bound to.
#[derive(Debug, Clone)]
pub struct PollFrom {
    pub position: Position,
    pub as_of: Xid,
    pub short: bool,
    pub token: Uuid,
    /// Topics that have lanes.
    pub skip: Vec<Arc<str>>,
    /// Of a lane: its topic, and where main stands.
    pub lane: Option<(Arc<str>, Position)>,
}

/// What a poll returns.
#[derive(Debug)]
pub struct Polled {
    pub incarnation: Incarnation,
    pub snapshot: String,
    pub late: Vec<Rc<OutboxRow>>,
    pub fresh: Vec<Rc<OutboxRow>>,
    /// The last id looked at, if its row was skipped.
    pub last_skipped: Option<i64>,
    /// Ids skipped (main) or looked at (lanes) up to the last fresh row.
    pub skips: usize,
    /// Of a page of late rows: the last id looked at. Otherwise the last id drawn.
    pub last_id: i64,
    pub next_xid: Xid,
    /// WAL position that covers every commit in the page, unless it was on disk already.
    pub unflushed: Option<u64>,
    /// Late rows are too many for one poll: where they begin, and whose they are. None of them is in `late`.
    pub late_set: Option<(i64, Vec<Arc<str>>)>,
}

/// Late rows, or what they consist of if they do not fit. The relay asks for that with a statement of its own; the set is the same.
fn late_set(found: &mut Vec<Rc<OutboxRow>>, rows: usize) -> Option<(i64, Vec<Arc<str>>)> {
    if found.len() <= rows {
        return None;
    }
    let first = found.iter().map(|row| row.id).min()?;
    let topics: BTreeSet<Arc<str>> = found.drain(..).map(|row| Arc::clone(&row.topic)).collect();
    Some((first, topics.into_iter().collect()))
}

/// A deferred row that is due, or waits behind one.
#[derive(Debug, Clone)]
pub struct DueRow {
    pub waiting: Waiting,
    /// It is due, and an earlier row of its key waits.
    pub waits: bool,
}

/// What the look for due rows returns.
#[derive(Debug)]
pub struct DuePage {
    pub rows: Vec<DueRow>,
    pub clock: Ms,
    pub dealt_with: Ms,
}

/// A page looks at no more ids than this.
pub fn ids(rows: usize) -> usize {
    rows * 2
}

/// The fresh arm of a poll.
#[derive(Default)]
struct Fresh {
    rows: Vec<Rc<OutboxRow>>,
    last_skipped: Option<i64>,
    skips: usize,
    looked_at: usize,
}

impl Fresh {
    /// Takes `limit` rows at most, of which the last one looked at is the last even if it is skipped.
    fn look<'a>(
        &mut self,
        found: impl Iterator<Item = (&'a i64, &'a Stored)>,
        limit: usize,
        skipped: impl Fn(&Stored) -> bool,
    ) {
        let found: Vec<_> = found.collect();
        let (mut skips, last) = (0, found.len());
        for ((id, stored), at) in found.into_iter().zip(1..) {
            let skip = skipped(stored);
            skips += usize::from(skip);
            if skip && at < last {
                continue;
            }
            (self.skips, self.looked_at) = (skips, at);
            if skip {
                self.last_skipped = Some(*id);
            } else {
                self.rows.push(Rc::clone(&stored.row));
            }
            if self.rows.len() + usize::from(skip) == limit {
                break;
            }
        }
    }
}

impl Postgres {
    /// The incarnation token against the caller's.
    pub fn incarnation(&self, token: Uuid) -> Incarnation {
        match self.token {
            _ if self.plan.has(Bug::KeepsMemory) => Incarnation::Ours,
            Some(known) if known == token => Incarnation::Ours,
            Some(_) => Incarnation::Other,
            None => Incarnation::Gone,
        }
    }

    pub(super) fn poll(&self, from: &PollFrom) -> Polled {
        match &from.position.late {
            None => match &from.lane {
                None => self.poll_now(from),
                Some((topic, main)) => self.poll_lane(from, topic, main),
            },
            Some(late) => self.poll_late(from, &late.snapshot, late.after),
        }
    }

    fn poll_now(&self, from: &PollFrom) -> Polled {
        let (snapshot, known) = (self.snapshot(), Snapshot::parse(&from.position.snapshot));
        let (high, rows) = (from.position.high, self.plan.page_rows);
        let moved = snapshot != from.position.snapshot;
        let younger = Snapshot::parse(&snapshot).xmax > known.xmax && known.xmax < from.as_of;
        let mut late = Vec::new();
        let in_progress = !self.plan.has(Bug::ForgetsLateRows);
        let above = in_progress && !self.plan.has(Bug::WatchesOnlyInProgress);
        if moved {
            // Only rows of committed transactions are in the table: all of them are visible.
            let is_late = |txid: Xid| {
                (in_progress && known.in_progress.contains(&txid))
                    || (above && younger && txid >= known.xmax && txid < from.as_of)
            };
            let found = self.visible.messages.range(..=high).filter(|(_, stored)| is_late(stored.txid));
            let found = found.filter(|(_, stored)| !from.skip.contains(&stored.row.topic));
            late.extend(found.map(|(_, stored)| Rc::clone(&stored.row)));
        }
        let late_set = late_set(&mut late, rows);
        let mut fresh = Fresh::default();
        if (moved || !from.short) && self.last_id > high && late.len() < rows && late_set.is_none() {
            let above = self.visible.messages.range(high + 1..);
            let ids = if from.skip.is_empty() { rows } else { ids(rows) };
            fresh.look(above.take(ids), rows, |stored| from.skip.contains(&stored.row.topic));
        }
        Polled {
            incarnation: self.incarnation(from.token),
            snapshot,
            late,
            fresh: fresh.rows,
            last_skipped: fresh.last_skipped,
            skips: fresh.skips,
            last_id: self.last_id,
            next_xid: self.next_xid,
            unflushed: (self.written > self.flushed).then_some(self.written),
            late_set,
        }
    }

    /// What a topic has between its lane's position and main's, as of main's snapshot.
    fn poll_lane(&self, from: &PollFrom, topic: &Arc<str>, main: &Position) -> Polled {
        let (known, seen) = (Snapshot::parse(&from.position.snapshot), Snapshot::parse(&main.snapshot));
        let (high, rows) = (from.position.high, self.plan.page_rows);
        let moved = main.snapshot != from.position.snapshot;
        let younger = seen.xmax > known.xmax && known.xmax < from.as_of;
        let is_late = |txid: Xid| {
            (moved && known.in_progress.contains(&txid) && seen.sees(txid))
                || (younger && txid >= known.xmax && txid < from.as_of && seen.sees(txid))
        };
        let found = self.visible.messages.range(..=high);
        let found = found.filter(|(_, stored)| stored.row.topic == *topic && is_late(stored.txid));
        let mut late: Vec<_> = found.map(|(_, stored)| Rc::clone(&stored.row)).collect();
        let late_set = late_set(&mut late, rows);
        let mut fresh = Fresh::default();
        if late.len() < rows && main.high > high && late_set.is_none() {
            let between: Vec<_> = self.visible.messages.range(high + 1..=main.high).take(ids(rows)).collect();
            let skipped = |stored: &Stored| stored.row.topic != *topic || !seen.sees(stored.txid);
            fresh.look(between.into_iter(), rows, skipped);
        }
        Polled {
            incarnation: self.incarnation(from.token),
            snapshot: main.snapshot.clone(),
            late,
            fresh: fresh.rows,
            last_skipped: fresh.last_skipped,
            skips: fresh.looked_at,
            last_id: main.high,
            next_xid: 0,
            unflushed: (self.written > self.flushed).then_some(self.written),
            late_set,
        }
    }

    fn poll_late(&self, from: &PollFrom, seen: &str, after: i64) -> Polled {
        let (known, seen_in) = (Snapshot::parse(&from.position.snapshot), Snapshot::parse(seen));
        let (high, rows) = (from.position.high, self.plan.page_rows);
        let ids = ids(rows);
        let looked: Vec<_> =
            self.visible.messages.range((Excluded(after), Included(high.max(after)))).take(ids).collect();
        let is_late = |txid: Xid| seen_in.sees(txid) && !known.sees(txid);
        let wanted = |topic: &Arc<str>| match &from.lane {
            Some((lane, _)) => lane == topic,
            None => !from.skip.contains(topic),
        };
        let found = looked.iter().filter(|(_, stored)| is_late(stored.txid) && wanted(&stored.row.topic));
        let found = found.take(rows);
        let late: Vec<_> = found.map(|(_, stored)| Rc::clone(&stored.row)).collect();
        let last_id = match late.last() {
            Some(last) if late.len() == rows => last.id,
            _ => looked.get(ids - 1).map_or(high, |(id, _)| **id),
        };
        Polled {
            incarnation: self.incarnation(from.token),
            snapshot: seen.to_owned(),
            late,
            fresh: Vec::new(),
            last_skipped: None,
            skips: 0,
            last_id,
            next_xid: 0,
            unflushed: None,
            late_set: None,
        }
    }

    pub(super) fn due(&self, since: Ms, now: Ms) -> DuePage {
        let deferred = &self.visible.deferred;
        let mut heads: Vec<(Ms, i64)> = deferred
            .iter()
            .filter_map(|(id, waiting)| waiting.due_at.map(|at| (at, *id)))
            .filter(|(at, _)| *at >= since && *at <= now && *at != NEVER)
            .collect();
        heads.sort_unstable();
        heads.truncate(self.plan.due_heads);
        let dealt_with = if heads.len() < self.plan.due_heads {
            now
        } else {
            heads.iter().map(|(at, _)| *at).max().unwrap_or(since)
        };
        let mut picked = BTreeMap::new();
        for (_, id) in heads {
            let head = &deferred[&id];
            let key = head.any_key();
            let same = |waiting: &Waiting| key.is_some() && waiting.key() == key;
            let waits = deferred.range(..id).any(|(_, earlier)| same(earlier));
            picked.insert(id, DueRow { waiting: head.clone(), waits });
            if waits {
                continue;
            }
            let behind = deferred.range(id + 1..).filter(|(_, waiting)| same(waiting));
            let followers = behind.take(self.plan.due_followers);
            // They end before one with a time of its own.
            for (id, follower) in followers.take_while(|(_, follower)| follower.due_at.is_none()) {
                picked.insert(*id, DueRow { waiting: follower.clone(), waits: false });
            }
        }
        DuePage { rows: picked.into_values().collect(), clock: now, dealt_with }
    }
}
