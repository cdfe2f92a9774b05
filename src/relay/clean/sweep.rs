//! Sweep: rows that were passed by and that no settlement accounts for are found, said, and published after all.
//!
//! Owns how far the sweep at leisure has come in each slot, and what was said about the rows that it found. Which slots may go
//! is decided one level up; what a row without an account is, by `store/sql/sweep.sql`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::relay::{Entrance, Entrant, Origin, Term};
use crate::store::clean::{self, Swept};
use crate::store::{Session, StoreError};

/// Rows that one page of the sweep looks at.
pub(super) const PAGE: i64 = 20_000;
/// Unaccounted rows that are published in one pass through a slot. A page that would exceed it is left to a person: a ledger that
/// was lost must not send everything again.
const PUBLISHED: i64 = 1000;
/// Rows that enter at a time.
const ENTER: usize = 500;
/// Between a first look at an unaccounted row and the second: several settlements, if anything moves.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The share of the time that the sweep at leisure takes: one in so many.
const LEISURE: u32 = 50;

const LOST: &str = "rows were passed by and no settlement accounts for them: somebody wrote a foreign txid or id, or the ledger was changed";

/// One walk through a slot.
#[derive(Debug)]
struct Pass {
    after: i64,
    /// Unaccounted rows that were published.
    published: i64,
    /// Unaccounted rows that were left to a person, and whether that was said.
    left: i64,
    said: bool,
}

impl Default for Pass {
    fn default() -> Self {
        Pass { after: i64::MIN, published: 0, left: 0, said: false }
    }
}

/// What a look at a page found.
pub(super) struct Page {
    pub swept: Swept,
    /// Rows without an account that were not published either.
    left: i64,
}

/// What is known of the slots.
pub(super) struct Sweeps {
    term: Term,
    entrances: mpsc::Sender<Entrance>,
    /// The walks at leisure, by slot, and the slot whose turn it is.
    passes: HashMap<i32, Pass>,
    turn: i32,
    /// By slot, how many rows nobody accounts for. Those that wait for a person are met again in each pass, and said once.
    waiting: HashMap<i32, i64>,
}

impl Sweeps {
    pub fn new(term: Term, entrances: mpsc::Sender<Entrance>) -> Self {
        Sweeps { term, entrances, passes: HashMap::new(), turn: 0, waiting: HashMap::new() }
    }

    /// The slot is empty.
    pub fn forget(&mut self, slot: i32) {
        self.passes.remove(&slot);
        self.waiting.remove(&slot);
        self.show();
    }

    /// Goes on through the slots that hold rows, each once at most, for a small share of the time `every`; a page at least.
    pub async fn at_leisure(
        &mut self,
        session: &mut Session,
        filled: &[i32],
        every: Duration,
    ) -> Result<(), StoreError> {
        self.waiting.retain(|slot, _| filled.contains(slot));
        self.show();
        let until = Instant::now() + every / LEISURE;
        let mut walked = 0;
        while walked < filled.len() {
            let next = filled.iter().find(|slot| **slot >= self.turn).or(filled.first());
            let Some(&slot) = next else { return Ok(()) };
            self.turn = slot;
            let after = self.passes.entry(slot).or_default().after;
            let page = self.page(session, slot, after).await?;
            let pass = self.passes.entry(slot).or_default();
            pass.left += page.left;
            match page.swept.last_id {
                Some(last_id) if page.swept.rows >= PAGE => {
                    pass.after = last_id;
                    self.wait_for_a_person(slot, &page);
                }
                _ => {
                    self.wait_for_a_person(slot, &page);
                    let left = self.passes.remove(&slot).map_or(0, |pass| pass.left);
                    self.waiting.insert(slot, left);
                    self.show();
                    self.turn = slot + 1;
                    walked += 1;
                }
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks at one page behind `after`. What nobody accounts for is looked at twice, and then published or left to a person;
    /// the answer is that of the last look.
    pub async fn page(&mut self, session: &mut Session, slot: i32, after: i64) -> Result<Page, StoreError> {
        let swept = clean::sweep(session, slot, after, PAGE, PUBLISHED + 1).await?;
        // Where a person is needed already, a second look at each page would only take time.
        if swept.lost == 0 || self.passes.get(&slot).is_some_and(|pass| pass.left > 0) {
            let left = swept.lost;
            return Ok(Page { swept, left });
        }
        tokio::time::sleep(SECOND_LOOK).await;
        let again = clean::sweep(session, slot, after, PAGE, PUBLISHED + 1).await?;
        let mut lost = again.unaccounted.clone();
        lost.retain(|id| swept.unaccounted.contains(id));
        let published = self.passes.get(&slot).map_or(0, |pass| pass.published);
        if again.lost + published > PUBLISHED {
            let left = again.lost;
            return Ok(Page { swept: again, left });
        }
        if !lost.is_empty() {
            let rows = lost.len() as i64;
            self.term.metrics.loss_incidents.inc();
            tracing::error!(slot, rows, first_id = lost[0], publishes = true, "{LOST}");
            *self.waiting.entry(slot).or_default() += rows;
            self.show();
            self.publish(session, &lost).await?;
            self.passes.entry(slot).or_default().published += rows;
            *self.waiting.entry(slot).or_default() -= rows;
            self.show();
        }
        Ok(Page { swept: again, left: 0 })
    }

    /// Says once in a pass that rows wait for a person, and only if they are more than the last pass found.
    fn wait_for_a_person(&mut self, slot: i32, page: &Page) {
        let Some(pass) = self.passes.get_mut(&slot) else { return };
        let known = self.waiting.entry(slot).or_default();
        if pass.left <= *known {
            return;
        }
        *known = pass.left;
        if !pass.said {
            pass.said = true;
            self.term.metrics.loss_incidents.inc();
            let (rows, first_id) = (page.left, page.swept.unaccounted.first());
            tracing::error!(slot, rows, first_id, publishes = false, "{LOST}");
        }
        self.show();
    }

    /// Lets the rows enter, and waits until they are deferred rows.
    async fn publish(&self, session: &mut Session, ids: &[i64]) -> Result<(), StoreError> {
        for rows in clean::unaccounted(session, ids).await?.chunks(ENTER) {
            let entrant = |(id, topic, key): &(_, _, _)| Entrant {
                id: *id,
                topic: Arc::clone(topic),
                key: Option::clone(key),
            };
            let (settled, is_settled) = oneshot::channel();
            let rows = rows.iter().map(entrant).collect();
            let entrance = Entrance {
                rows,
                origin: Origin::Found,
                request: None,
                withdrawn: CancellationToken::new(),
                settled,
            };
            let sent = self.entrances.send(entrance).await;
            // Otherwise the term has ended; the next leader finds them again.
            if sent.is_err() || is_settled.await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn show(&self) {
        self.term.metrics.unaccounted_messages.set(self.waiting.values().sum::<i64>() as f64);
    }
}
