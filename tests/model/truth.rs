//! What the services did: every event, what became of its transaction, and whether Kafka will take it.
//!
//! The relays never look here; the broker does, and the checks at the end.

use crate::bugs::Ms;

/// What became of an event's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Open,
    Committed,
    RolledBack,
    /// Committed without waiting for the disk, and lost with the server.
    Lost,
}

/// An outbox row that was inserted.
#[derive(Debug)]
pub struct Event {
    pub id: i64,
    pub end: End,
    /// Kafka refuses it until then.
    pub refused_until: Ms,
    /// It names a partition that is not there, or looks too large.
    pub odd: bool,
    /// Writers of its key take turns, so it has an order.
    pub in_turn: bool,
}

/// All events; the number of one is its place, plus one.
#[derive(Default)]
pub struct Truth {
    pub events: Vec<Event>,
}

impl Truth {
    pub fn end(&mut self, event: u128, end: End) {
        self.events[event as usize - 1].end = end;
    }

    pub fn of(&self, event: u128) -> &Event {
        &self.events[event as usize - 1]
    }

    /// Kafka does not take this event now.
    pub fn is_refused(&self, event: u128, now: Ms) -> bool {
        now < self.of(event).refused_until
    }
}
