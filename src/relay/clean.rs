//! Clean: what is done and old goes, slot by slot, and never before everything in the slot is accounted for.
//!
//! Owns which slots are due and how far the sweep has come. A **sweep** compares the rows of a slot with the ledger, in one
//! snapshot: a row that its topic's position has passed and that no settlement names is looked at again after the next
//! settlements; if nobody names it then, it is a loss incident. It is counted, said, and published after all.
//! Emptying is a TRUNCATE: no dead rows, no vacuum, 2 kB of WAL for a slot of any size.
//!
//! Order of steps: sweep in snapshot S, make durable what S has seen, empty against S. A crash of the server between the first
//! two would undo settlements that accounted for rows; after the second it cannot.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Entrance, Entrant, Origin, Term, TermEnd};
use crate::config::RetentionConfig;
use crate::metrics::{Operation, Table};
use crate::store::clean::{self, Emptying, Ring, Slot, Swept};
use crate::store::{Session, StoreError};

/// Rows that one page of the sweep looks at.
const PAGE: i64 = 20_000;
/// Unaccounted rows that are published by a sweep; more of them are somebody's decision.
const PUBLISHED: i64 = 1000;
/// Between a first look at an unaccounted row and the second: several settlements.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// Tries to get at a slot between polls.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// Dead letters that are deleted at a time.
const LETTERS: i32 = 1000;
/// Slots of a ring, less the one that is filled and the one before.
const SLOTS_OF_RETENTION: u32 = 6;

/// What the loop remembers.
struct Cleaning {
    term: Term,
    retention: RetentionConfig,
    entrances: mpsc::Sender<Entrance>,
    /// By slot, up to which id the sweep at leisure has come.
    swept: HashMap<i32, i64>,
    /// Unaccounted rows that wait for somebody, by slot.
    unaccounted: HashMap<i32, usize>,
}

/// Looks after the rings until draining, or until the term is over.
pub(super) async fn clean(term: Term, entrances: mpsc::Sender<Entrance>) -> Result<(), TermEnd> {
    let retention = term.retention.clone();
    let drain = term.drain.clone();
    let (swept, unaccounted) = (HashMap::new(), HashMap::new());
    let mut cleaning = Cleaning { term, retention, entrances, swept, unaccounted };
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
pub fn slot_width(published: Duration) -> Duration {
    let width = published.div_duration_f64(Duration::from_secs(u64::from(SLOTS_OF_RETENTION))).ceil();
    Duration::from_secs((width as u64).max(1))
}

impl Cleaning {
    async fn round(&mut self, session: &mut Session) -> Result<(), StoreError> {
        let width = slot_width(self.retention.published);
        for _ in 0..TRIES {
            if clean::set_slot_width(session, self.term.epoch, width).await? {
                break;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        let slots = clean::slots(session).await?;
        self.show(session, &slots).await?;
        for slot in self.due(&slots) {
            self.empty(session, slot).await?;
        }
        for slot in slots.iter().filter(|slot| slot.first_id.is_some()) {
            self.sweep_at_leisure(session, slot.slot).await?;
        }
        let age = self.retention.receipts;
        for ring in [Ring::Ledger, Ring::Attempt] {
            for slot in clean::old_slots(session, ring, age).await? {
                self.try_to_empty(session, ring, slot, "1:1:", age).await?;
            }
        }
        if let Some(age) = self.retention.dead_letters {
            while clean::forget_letters(session, self.term.epoch, age, LETTERS).await? >= i64::from(LETTERS) {
            }
        }
        let unaccounted: usize = self.unaccounted.values().sum();
        self.term.metrics.unaccounted_messages.set(unaccounted as f64);
        Ok(())
    }

    /// Slots whose rows are old enough; and, while the table is too large, the oldest others.
    fn due(&self, slots: &[Slot]) -> Vec<i32> {
        let mut full: Vec<&Slot> =
            slots.iter().filter(|slot| slot.first_id.is_some() && !slot.in_use).collect();
        full.sort_by_key(|slot| std::cmp::Reverse(slot.age));
        let total: u64 = slots.iter().map(|slot| slot.bytes).sum();
        let mut above = self.retention.published_max_bytes.map_or(0, |most| total.saturating_sub(most));
        full.retain(|slot| {
            let due = slot.age >= self.retention.published || above > 0;
            if due {
                above = above.saturating_sub(slot.bytes);
            }
            due
        });
        full.into_iter().map(|slot| slot.slot).collect()
    }

    /// Sweeps the whole slot, and empties it if nothing in it is open.
    async fn empty(&mut self, session: &mut Session, slot: i32) -> Result<(), StoreError> {
        let mut after = i64::MIN;
        let mut first = None;
        loop {
            let swept = self.sweep_page(session, slot, after).await?;
            // The oldest snapshot is the one to compare with: what came later than that has not been looked at.
            first.get_or_insert_with(|| swept.snapshot.clone());
            if swept.open || !swept.unaccounted.is_empty() {
                return Ok(());
            }
            match swept.last_id {
                Some(last_id) if swept.rows >= PAGE => after = last_id,
                _ => break,
            }
        }
        clean::make_durable(session).await?;
        let snapshot = first.expect("at least one page was looked at");
        self.try_to_empty(session, Ring::Message, slot, &snapshot, Duration::ZERO).await?;
        Ok(())
    }

    async fn try_to_empty(
        &mut self,
        session: &mut Session,
        ring: Ring,
        slot: i32,
        snapshot: &str,
        age: Duration,
    ) -> Result<(), StoreError> {
        let (epoch, token) = (self.term.epoch, self.term.token);
        for _ in 0..TRIES {
            match clean::empty_slot(session, epoch, token, ring, slot, snapshot, age).await? {
                Emptying::Emptied => {
                    tracing::info!(?ring, slot, "slot of old rows is empty again");
                    self.swept.remove(&slot);
                    self.unaccounted.remove(&slot);
                    return Ok(());
                }
                Emptying::Changed | Emptying::Held => return Ok(()),
                Emptying::Busy => tokio::time::sleep(BETWEEN_TRIES).await,
            }
        }
        tracing::debug!(?ring, slot, "slot of old rows is in use, it is tried again later");
        Ok(())
    }

    /// One page, behind that of the last round; at the end of the slot it begins again. Long before the slot is emptied
    /// everything in it has been looked at several times, for the price of a page each round.
    async fn sweep_at_leisure(&mut self, session: &mut Session, slot: i32) -> Result<(), StoreError> {
        let after = self.swept.remove(&slot).unwrap_or(i64::MIN);
        let swept = self.sweep_page(session, slot, after).await?;
        if let (Some(last_id), true) = (swept.last_id, swept.rows >= PAGE) {
            self.swept.insert(slot, last_id);
        }
        Ok(())
    }

    /// One page. What nobody accounts for is looked at twice, and then published.
    async fn sweep_page(
        &mut self,
        session: &mut Session,
        slot: i32,
        after: i64,
    ) -> Result<Swept, StoreError> {
        let swept = clean::sweep(session, slot, after, PAGE, PUBLISHED + 1).await?;
        if swept.unaccounted.is_empty() {
            self.unaccounted.remove(&slot);
            return Ok(swept);
        }
        tokio::time::sleep(SECOND_LOOK).await;
        let again = clean::sweep(session, slot, after, PAGE, PUBLISHED + 1).await?;
        let mut lost = again.unaccounted.clone();
        lost.retain(|id| swept.unaccounted.contains(id));
        if lost.is_empty() {
            return Ok(again);
        }
        self.unaccounted.insert(slot, lost.len());
        self.term.metrics.unaccounted_messages.set(self.unaccounted.values().sum::<usize>() as f64);
        self.term.metrics.loss_incidents.inc();
        let publishes = lost.len() as i64 <= PUBLISHED;
        tracing::error!(
            slot,
            rows = lost.len(),
            first_id = lost[0],
            publishes,
            "rows were passed by and no settlement accounts for them: somebody wrote a foreign txid or id, or the ledger was changed"
        );
        if publishes {
            let found = clean::unaccounted(session, &lost).await?;
            for rows in found.chunks(500) {
                let entrant = |(id, topic, key): &(_, _, _)| Entrant {
                    id: *id,
                    topic: std::sync::Arc::clone(topic),
                    key: Option::clone(key),
                };
                let (settled, is_settled) = oneshot::channel();
                let rows = rows.iter().map(entrant).collect();
                let sent = self.entrances.send(Entrance { rows, origin: Origin::Found, settled }).await;
                if sent.is_err() || is_settled.await.is_err() {
                    return Ok(again);
                }
            }
            self.unaccounted.remove(&slot);
        }
        Ok(again)
    }

    async fn show(&self, session: &mut Session, slots: &[Slot]) -> Result<(), StoreError> {
        let metrics = &self.term.metrics;
        let bytes = clean::table_bytes(session).await?;
        for (table, bytes) in [
            (Table::Message, bytes.message),
            (Table::Ledger, bytes.ledger),
            (Table::Attempt, bytes.attempt),
            (Table::Deferred, bytes.deferred),
            (Table::DeadLetter, bytes.dead_letter),
        ] {
            metrics.set_table_bytes(table, bytes.max(0) as u64);
        }
        let oldest = slots.iter().filter(|slot| slot.first_id.is_some()).map(|slot| slot.oldest);
        metrics.oldest_slot_timestamp.set(oldest.min_by(f64::total_cmp).unwrap_or(0.0));
        metrics.oldest_transaction_timestamp.set(bytes.oldest_transaction);
        Ok(())
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
