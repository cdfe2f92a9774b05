//! Lanes: topics that are read on their own, at positions of their own.
//!
//! ```text
//!            opens at a page boundary of main          the topic works, nothing holds it
//!   (main) ───────────────────────────> standing ───────────────────────────────────> flowing
//!     ^                                    ^                                             │
//!     │                                    └────────── sick again, paused, … ───────────┤
//!     └───────────── it has read all that main has, and nothing wants it apart ──────────┘
//! ```
//!
//! Owns why a topic has a lane and how far its opening, standing and closing has come. It decides nothing about rows
//! and waits for nothing; the sender does.
//!
//! **Opening**: from its next page on main leaves the topic out, and the lane begins where main stood before that page. Both
//! become durable in one settlement, or a crash in between would let main pass rows that no lane has. **Closing**: a lane is
//! read as of main's position, so when a page of it ends short both stand in the same place. The lane ends with the settlement of
//! main's next page, which has its topic again and waits for all pages of the lane. Ended sooner, a crash would have main read
//! again what the lane has settled; and a later row of a key could be settled as waiting before the earlier one that it waits for,
//! and go first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::message::OutboxRow;
use crate::position::Position;
use crate::store::poll::Page;
use crate::store::settle::LaneStep;
use crate::verdict::TopicTrouble;

/// More topics than this are not read on their own; rows of a further sick one are put off one by one. A lane that stands
/// costs a look ten times a second and a row in the ledger every ten minutes; one set of topics at one position, for all
/// beyond a smaller number, was rejected: it flows only when the last of its topics does.
pub(super) const LANES_MAX: usize = 1000;

/// Why a topic is read on its own. One topic may have several reasons; the lane's is the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// No row of it goes.
    Trouble(TopicTrouble),
    /// An operator has paused it.
    Paused,
    /// Its rows die faster than `retry.dead_per_minute` allows.
    Dying,
    /// It has its share of the deferred rows.
    DeferredShare,
    /// It is declared at-most-once.
    AtMostOnce,
    /// It has a rate.
    Paced,
    /// It floods main.
    Flooding,
}

const CAUSES: [(Cause, &str); 11] = [
    (Cause::Trouble(TopicTrouble::Missing), "missing"),
    (Cause::Trouble(TopicTrouble::Forbidden), "forbidden"),
    (Cause::Trouble(TopicTrouble::Timestamp), "timestamp"),
    (Cause::Trouble(TopicTrouble::Leaderless), "leaderless"),
    (Cause::Trouble(TopicTrouble::Stalled), "stalled"),
    (Cause::Paused, "paused"),
    (Cause::Dying, "dying"),
    (Cause::DeferredShare, "deferred_share"),
    (Cause::AtMostOnce, "at_most_once"),
    (Cause::Paced, "paced"),
    (Cause::Flooding, "flooding"),
];

impl Cause {
    /// The word in the ledger, the metrics and the logs.
    pub fn as_str(self) -> &'static str {
        CAUSES.iter().find(|(cause, _)| *cause == self).map_or("unknown", |(_, word)| word)
    }

    /// The cause of this name. A word of a newer relay counts as something to find out about.
    pub fn named(word: &str) -> Cause {
        let found = CAUSES.iter().find(|(_, known)| *known == word);
        found.map_or(Cause::Trouble(TopicTrouble::Stalled), |(cause, _)| *cause)
    }

    /// While the lane opens, rows of the topic that main has read already go as if there were none.
    pub fn lets_main_finish(self) -> bool {
        matches!(self, Cause::Flooding | Cause::DeferredShare | Cause::Paused)
    }
}

/// What the sender asks of the reader.
#[derive(Debug)]
pub(super) enum Order {
    /// The topic gets a lane.
    Open(Opening),
    /// The next page of a lane, of at most so many rows; if it ends where main stands the lane may close.
    Read { topic: Arc<str>, rows: usize, may_close: bool },
}

/// A lane that opens.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    pub topic: Arc<str>,
    /// Where it begins; known once the reader has opened it.
    pub position: Option<Position>,
    pub as_of: Option<String>,
}

/// A page of the main stream.
#[derive(Debug)]
pub(super) struct MainPage {
    pub page: Page,
    /// Topics that are in this page again, after their lanes had come to where it begins.
    pub closed: Vec<String>,
    /// Lanes that begin before this page, in which their topics are missing already.
    pub opened: Vec<Opening>,
}

/// A page of a lane.
#[derive(Debug)]
pub(super) struct LanePage {
    pub topic: Arc<str>,
    /// `None`: there is no such lane, or main is still behind it.
    pub page: Option<Page>,
    /// It stands where main stands.
    pub caught_up: bool,
    /// Main has the topic back.
    pub closes: bool,
}

/// How far a lane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Asked for; the settlement that opens it has not been handed to the settle loop.
    Opening,
    /// Nothing is read.
    Standing,
    /// Page after page is read.
    Flowing,
    /// Its last page is on its way.
    Closing,
}

/// One lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub topic: Arc<str>,
    pub cause: Cause,
    pub state: State,
    /// A page was asked for and has not come; when, and when the next one may be asked for.
    pub asked: bool,
    pub asked_at: Instant,
    pub next_ask: Instant,
    /// Its last page showed that nothing more waits.
    pub caught_up: bool,
    /// Its next row waits for an answer or for its turn, until somebody looks again.
    pub waits: bool,
    /// Where it stands, once everything that was read has been settled; `None` before it has opened.
    pub position: Option<Position>,
    pub as_of: Option<String>,
    /// When its row in the ledger was written last under this epoch.
    pub written_at: Option<Instant>,
    /// Rows in the window.
    pub rows: usize,
}

impl Lane {
    pub fn new(topic: Arc<str>, cause: Cause, state: State) -> Lane {
        let now = Instant::now();
        Lane {
            topic,
            cause,
            state,
            asked: false,
            asked_at: now,
            next_ask: now,
            caught_up: false,
            waits: false,
            position: None,
            as_of: None,
            written_at: Some(now),
            rows: 0,
        }
    }

    /// Asks the reader, unless its channel is full; then somebody asks again soon.
    pub fn ask(&mut self, order: Order, orders: &mpsc::Sender<Order>, now: Instant) {
        if orders.try_send(order).is_ok() {
            (self.asked, self.asked_at) = (true, now);
        }
    }

    /// Its row for the ledger; `None` before it has opened.
    pub fn step(&self, closed: bool, waiting: i64) -> Option<LaneStep> {
        Some(LaneStep {
            topic: Arc::clone(&self.topic),
            cause: self.cause.as_str(),
            position: self.position.clone()?,
            as_of: self.as_of.clone(),
            closed,
            waiting,
        })
    }
}

/// Pages that a topic has to fill for being a flood. Twenty of them, as many as have to wait, are half a second of everybody's rows:
/// beside the drain of a million rows, which takes five, that is one row in ten of the others [reckoned].
const FLOOD_PAGES: usize = 2;
/// … and as many pages of rows have to wait behind them.
pub(super) const FLOOD_BACKLOG: usize = 20;

/// Whether one topic fills main. Pure bookkeeping.
#[derive(Debug, Default)]
pub(super) struct Flood {
    /// Of each of the last full pages, the topic with the most rows.
    pages: VecDeque<(Arc<str>, usize, usize)>,
}

impl Flood {
    /// Takes a page in. Returns the topic that has more than nine of ten rows of the last pages, if all were `full` and much
    /// more `waits`.
    pub fn page(&mut self, rows: &[OutboxRow], full: bool, waits: bool) -> Option<Arc<str>> {
        if !full {
            self.pages.clear();
            return None;
        }
        let mut counts: HashMap<&Arc<str>, usize> = HashMap::new();
        for run in rows.chunk_by(|a, b| Arc::ptr_eq(&a.topic, &b.topic)) {
            *counts.entry(&run[0].topic).or_default() += run.len();
        }
        let (topic, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        if self.pages.len() == FLOOD_PAGES {
            self.pages.pop_front();
        }
        self.pages.push_back((Arc::clone(topic), most, rows.len()));
        let (mut of_topic, mut of_all) = (0, 0);
        for (found, rows, all) in &self.pages {
            of_topic += if found == topic { *rows } else { 0 };
            of_all += all;
        }
        let floods = waits && self.pages.len() == FLOOD_PAGES && of_topic * 10 > of_all * 9;
        floods.then(|| Arc::clone(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_back_from_the_ledger() {
        for (cause, word) in CAUSES {
            assert_eq!((cause.as_str(), Cause::named(word)), (word, cause));
        }
        assert_eq!(Cause::named("of a newer relay"), Cause::Trouble(TopicTrouble::Stalled));
    }

    #[test]
    fn a_flood_is_a_topic_that_fills_page_after_page() {
        let row = |topic: &Arc<str>| OutboxRow {
            id: 1,
            event_id: uuid::Uuid::nil(),
            topic: Arc::clone(topic),
            key: None,
            payload: None,
            payload_bytes: None,
            headers: None,
            partition: None,
            created_us: 0,
            deliver_after_us: None,
            expires_us: None,
        };
        let (flooding, other): (Arc<str>, Arc<str>) = (Arc::from("flooding"), Arc::from("other"));
        let page = |others: usize| -> Vec<OutboxRow> {
            (0..100).map(|n| row(if n < others { &other } else { &flooding })).collect()
        };
        let mut flood = Flood::default();
        for _ in 1..FLOOD_PAGES {
            assert_eq!(flood.page(&page(5), true, true), None);
        }
        assert_eq!(flood.page(&page(5), true, false), None, "nothing more waits");
        assert_eq!(flood.page(&page(5), true, true), Some(Arc::clone(&flooding)));
        assert_eq!(flood.page(&page(5), false, true), None, "the outbox is nearly read");
        for _ in 0..2 * FLOOD_PAGES {
            assert_eq!(flood.page(&page(20), true, true), None, "others have their share");
        }
    }
}
