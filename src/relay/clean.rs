//! Clean: what is done and old goes, slot by slot, and never before everything in the slot is accounted for.
//!
//! Owns which slots are due and how far each of them has been looked at. A **sweep** compares the rows of a slot with the
//! ledger, in one snapshot ([`sweep`]): a row that its topic's position has passed and that no settlement names is a loss
//! incident, counted, said, and published after all. Emptying is a TRUNCATE: no dead rows, no vacuum, 2 kB of WAL for a slot
//! of any size.
//!
//! Order of steps: look in snapshot S, make durable what S has seen, empty against S. A crash of the server between the first
//! two would undo settlements that accounted for rows; after the second it cannot, and the third demands the incarnation
//! token that a crash takes away.

mod sweep;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use self::sweep::Sweeps;
use super::{Entrance, Term, TermEnd};
use crate::config::RetentionConfig;
use crate::metrics::Operation;
use crate::store::clean::{self, Emptying, Ring, Slot};
use crate::store::{Session, StoreError};

/// Settlements that one page of the look at the ledger reads.
const SETTLEMENTS: i64 = 2000;
/// Tries to get at a table between polls.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// A try of which nobody notices anything, and the one that is made when those have found a busy table every time. Producers
/// wait that long at most once a round, and only until the new width stands.
const NO_WAIT: Duration = Duration::from_millis(1);
const SHORT_WAIT: Duration = Duration::from_millis(20);
/// Dead letters that are deleted at a time.
const LETTERS: i32 = 1000;
/// Slots of a ring, less the one that is filled, and the next: its newest row has just reached the age, and while the other is
/// filled there is time to empty it.
const SLOTS_OF_RETENTION: u32 = 6;

/// A look at a slot that is due: everything up to `after` may go. The next look goes on where this one ended, so a slot that
/// is held costs one page a round.
#[derive(Debug)]
struct Look<Place> {
    /// Of the first page: what has come since then has not been looked at.
    snapshot: String,
    after: Place,
    /// The end was reached.
    whole: bool,
}

/// What the loop remembers.
struct Cleaning {
    term: Term,
    retention: RetentionConfig,
    sweeps: Sweeps,
    /// By slot.
    messages: HashMap<i32, Look<i64>>,
    ledger: HashMap<i32, Look<(i64, i64)>>,
}

/// Looks after the rings until draining, or until the term is over.
pub(super) async fn clean(term: Term, entrances: mpsc::Sender<Entrance>) -> Result<(), TermEnd> {
    let retention = term.retention.clone();
    let drain = term.drain.clone();
    let sweeps = Sweeps::new(term.clone(), entrances);
    let mut cleaning = Cleaning { term, retention, sweeps, messages: HashMap::new(), ledger: HashMap::new() };
    let mut session = None;
    let mut trouble = Duration::from_millis(100);
    loop {
        tokio::select! {
            () = drain.cancelled() => return Ok(()),
            () = tokio::time::sleep(cleaning.retention.every) => {}
        }
        crate::crash_point::work("clean");
        let started = Instant::now();
        let round = async {
            if session.is_none() {
                session = Some(cleaning.term.server.connect("clean").await?);
            }
            cleaning.round(session.as_mut().expect("it was opened above")).await
        };
        let ended = tokio::select! {
            // A slot is emptied in one call or not at all; everything else is only reading.
            () = drain.cancelled() => return Ok(()),
            ended = round => ended,
        };
        match ended {
            Ok(()) => {
                trouble = Duration::from_millis(100);
                cleaning.term.metrics.database_seconds(Operation::Clean, started.elapsed().as_secs_f64());
            }
            Err(error) => {
                session = None;
                cleaning.term.metrics.database_error(Operation::Clean);
                super::settle::refuse_or_wait(error, "clean", &mut trouble, &cleaning.term).await?;
            }
        }
    }
}

/// How long a slot is filled, so that the ring covers the retention.
pub fn slot_width(retention: Duration) -> Duration {
    let width = retention.div_duration_f64(Duration::from_secs(u64::from(SLOTS_OF_RETENTION))).ceil();
    Duration::from_secs((width as u64).max(1))
}

impl Cleaning {
    async fn round(&mut self, session: &mut Session) -> Result<(), StoreError> {
        let RetentionConfig { published, receipts, .. } = self.retention;
        for (ring, kept) in [(Ring::Message, published), (Ring::Ledger, receipts), (Ring::Attempt, receipts)]
        {
            self.set_width(session, ring, slot_width(kept)).await?;
        }
        let slots = clean::slots(session).await?;
        self.show(&slots);
        for slot in self.due(&slots) {
            self.empty(session, slot).await?;
        }
        let filled = slots.iter().filter(|slot| slot.first_id.is_some());
        let filled: Vec<i32> = filled.map(|slot| slot.slot).collect();
        self.sweeps.at_leisure(session, &filled, self.retention.every).await?;
        for slot in clean::old_slots(session, Ring::Ledger, receipts).await? {
            self.empty_ledger(session, slot).await?;
        }
        for slot in clean::old_slots(session, Ring::Attempt, receipts).await? {
            // Nobody goes on from an attempt: its age is all that counts, and the function looks at it.
            self.try_to_empty(session, Ring::Attempt, slot, "1:1:", receipts).await?;
        }
        if let Some(age) = self.retention.dead_letters {
            while clean::forget_letters(session, self.term.epoch, age, LETTERS).await? >= i64::from(LETTERS) {
            }
        }
        Ok(())
    }

    async fn set_width(&self, session: &mut Session, ring: Ring, width: Duration) -> Result<(), StoreError> {
        let epoch = self.term.epoch;
        for _ in 0..TRIES {
            if clean::set_slot_width(session, epoch, ring, width, NO_WAIT).await? {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        if !clean::set_slot_width(session, epoch, ring, width, SHORT_WAIT).await? {
            tracing::debug!(?ring, "table is in use, the new width of its slots waits for the next round");
        }
        Ok(())
    }

    /// Slots whose rows are old enough; and, while the table is too large, the oldest others. A slot that is held counts as
    /// if it went: one that cannot go must not take the retention from all others.
    fn due(&self, slots: &[Slot]) -> Vec<i32> {
        let mut full: Vec<&Slot> =
            slots.iter().filter(|slot| slot.first_id.is_some() && !slot.in_use).collect();
        full.sort_by_key(|slot| Reverse(slot.age));
        let total: u64 = slots.iter().map(|slot| slot.bytes).sum();
        let mut above = self.retention.published_max_bytes.map_or(0, |most| total.saturating_sub(most));
        full.retain(|slot| {
            let due = slot.age >= self.retention.published || above > 0;
            if due {
                above = above.saturating_sub(slot.bytes);
            }
            due
        });
        full.into_iter().filter(|slot| !slot.held).map(|slot| slot.slot).collect()
    }

    /// Looks at every row of the slot, and empties it if nothing in it is open. A long look goes on in the next round.
    async fn empty(&mut self, session: &mut Session, slot: i32) -> Result<(), StoreError> {
        let until = Instant::now() + self.retention.every / 2;
        while !self.messages.get(&slot).is_some_and(|look| look.whole) {
            let after = self.messages.get(&slot).map_or(i64::MIN, |look| look.after);
            let swept = self.sweeps.page(session, slot, after).await?.swept;
            let is_accounted_for = !swept.open && swept.lost == 0;
            if !is_accounted_for && !crate::crash_point::bug("trims_unaccounted") {
                return Ok(());
            }
            let snapshot = swept.snapshot;
            let look = self.messages.entry(slot).or_insert(Look { snapshot, after, whole: false });
            look.after = swept.last_id.unwrap_or(after);
            look.whole = swept.rows < sweep::PAGE;
            if !look.whole && Instant::now() >= until {
                return Ok(());
            }
        }
        clean::make_durable(session, self.term.token).await?;
        let snapshot = self.messages[&slot].snapshot.clone();
        match self.try_to_empty(session, Ring::Message, slot, &snapshot, Duration::ZERO).await? {
            // What a backup holds has been looked at; it goes when the backup has ended.
            Emptying::Busy => {}
            Emptying::Emptied => {
                self.messages.remove(&slot);
                self.sweeps.forget(slot);
            }
            Emptying::Changed | Emptying::Held => {
                self.messages.remove(&slot);
            }
        }
        Ok(())
    }

    /// Looks whether a message of these settlements is left, and empties the slot if none is.
    async fn empty_ledger(&mut self, session: &mut Session, slot: i32) -> Result<(), StoreError> {
        let until = Instant::now() + self.retention.every / 2;
        while !self.ledger.get(&slot).is_some_and(|look| look.whole) {
            let after = self.ledger.get(&slot).map_or((i64::MIN, i64::MIN), |look| look.after);
            let page = clean::settlements(session, slot, after, SETTLEMENTS).await?;
            if page.held {
                return Ok(());
            }
            let snapshot = page.snapshot;
            let look = self.ledger.entry(slot).or_insert(Look { snapshot, after, whole: false });
            look.after = page.last.unwrap_or(after);
            look.whole = page.rows < SETTLEMENTS;
            if !look.whole && Instant::now() >= until {
                return Ok(());
            }
        }
        let snapshot = self.ledger[&slot].snapshot.clone();
        match self.try_to_empty(session, Ring::Ledger, slot, &snapshot, self.retention.receipts).await? {
            // The newest position stays until there is a newer one; what was found about the others stands.
            Emptying::Busy | Emptying::Held => {}
            Emptying::Emptied | Emptying::Changed => {
                self.ledger.remove(&slot);
            }
        }
        Ok(())
    }

    async fn try_to_empty(
        &self,
        session: &mut Session,
        ring: Ring,
        slot: i32,
        snapshot: &str,
        age: Duration,
    ) -> Result<Emptying, StoreError> {
        let (epoch, token) = (self.term.epoch, self.term.token);
        for _ in 0..TRIES {
            match clean::empty_slot(session, epoch, token, ring, slot, snapshot, age).await? {
                Emptying::Busy => tokio::time::sleep(BETWEEN_TRIES).await,
                outcome => {
                    if outcome == Emptying::Emptied {
                        tracing::info!(?ring, slot, "slot of old rows is empty again");
                    }
                    return Ok(outcome);
                }
            }
        }
        tracing::debug!(?ring, slot, "slot of old rows is in use, it is tried again later");
        Ok(Emptying::Busy)
    }

    fn show(&self, slots: &[Slot]) {
        let oldest = slots.iter().filter(|slot| slot.first_id.is_some()).map(|slot| slot.oldest);
        self.term.metrics.oldest_slot_timestamp.set(oldest.min_by(f64::total_cmp).unwrap_or(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(published: u64, width: u64) {
        let found = slot_width(Duration::from_secs(published)).as_secs();
        assert_eq!(found, width);
        assert!(8 * found >= published + 2 * found, "eight slots cover it, and two more");
    }

    #[test]
    fn the_ring_covers_the_retention_and_two_slots_more() {
        check(86_400, 14_400);
        check(3600, 600);
        check(1, 1);
        check(7, 2);
        check(90 * 86_400, 15 * 86_400);
    }
}
