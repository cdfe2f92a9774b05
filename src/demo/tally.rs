//! The numbers of the live view, counted while the order service writes and the consumer reads.
//!
//! For the eye, and to know when everything has arrived. The verdict is not made of these; `audit` is.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Shared by the writers and the consumer.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    figures: Figures,
    /// Event ids in the topic. A record can come before its writer has heard that the commit is done.
    arrived: HashSet<Uuid>,
    /// Committed orders and when, by the time of their commit. The front has not arrived, what follows may have.
    waiting: VecDeque<(Uuid, Instant)>,
}

/// What there is to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Orders whose commit succeeded.
    pub committed: u64,
    /// Orders that were rolled back after their outbox row was written.
    pub rolled_back: u64,
    /// Orders that kept their transaction open for a while after their outbox row had its id.
    pub late: u64,
    /// Different event ids in the topic.
    pub delivered: u64,
    /// Records whose event id had been there before.
    pub duplicates: u64,
    /// The age of the oldest commit that has not arrived.
    pub lag: Duration,
    /// Everything committed has arrived.
    pub complete: bool,
}

impl Figures {
    /// Committed and not yet delivered.
    pub fn behind(&self) -> u64 {
        self.committed.saturating_sub(self.delivered)
    }
}

impl Tally {
    /// An order was committed.
    pub fn committed(&self, id: Uuid) {
        let counts = &mut *self.counts();
        counts.figures.committed += 1;
        if !counts.arrived.contains(&id) {
            counts.waiting.push_back((id, Instant::now()));
        }
    }

    /// An order was rolled back.
    pub fn rolled_back(&self) {
        self.counts().figures.rolled_back += 1;
    }

    /// An order is going to commit late.
    pub fn late(&self) {
        self.counts().figures.late += 1;
    }

    /// A record was read.
    pub fn arrived(&self, id: Option<Uuid>) {
        let counts = &mut *self.counts();
        let Some(id) = id else { return };
        if counts.arrived.insert(id) {
            counts.figures.delivered += 1;
        } else {
            counts.figures.duplicates += 1;
        }
    }

    /// The numbers as of now.
    pub fn figures(&self) -> Figures {
        let Counts { figures, arrived, waiting } = &mut *self.counts();
        while waiting.front().is_some_and(|(id, _)| arrived.contains(id)) {
            waiting.pop_front();
        }
        figures.lag = waiting.front().map_or(Duration::ZERO, |(_, at)| at.elapsed());
        figures.complete = waiting.is_empty();
        *figures
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_behind_until_its_record_arrives() {
        let (tally, [first, second]) = (Tally::default(), [1, 2].map(Uuid::from_u128));
        assert!(tally.figures().complete);
        tally.committed(first);
        tally.committed(second);
        tally.arrived(Some(second));
        assert_eq!((tally.figures().behind(), tally.figures().complete), (1, false));
        tally.arrived(Some(first));
        tally.arrived(Some(first));
        let figures = tally.figures();
        assert_eq!((figures.behind(), figures.complete, figures.lag), (0, true, Duration::ZERO));
        assert_eq!((figures.delivered, figures.duplicates), (2, 1));
    }

    #[test]
    fn a_record_may_come_before_its_commit_is_known() {
        let (tally, id) = (Tally::default(), Uuid::from_u128(1));
        tally.arrived(Some(id));
        tally.committed(id);
        assert!(tally.figures().complete);
    }
}
