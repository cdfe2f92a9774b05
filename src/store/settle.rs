//! Writing: one settlement is one call, all of it or nothing.
//!
//! Owns the shape of a settlement on its way to `outbox.settle`. A settlement is repeated only as it was, with its
//! seq; anything new takes the next one. That is why it is built once ([`Settlement`]) and sent as often as needed.

use std::fmt::Write;

use sqlx::Row;
use uuid::Uuid;

use super::{Session, StoreError};
use crate::position::Position;
use crate::receipt::{self, Receipt};

/// Why a row is put off, as `outbox.deferred.reason` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Refused, or not deliverable now.
    Retry,
    /// An earlier row of its key is put off.
    Behind,
    /// Its `deliver_after` lies ahead.
    Scheduled,
}

impl Reason {
    /// The word in the database and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Retry => "retry",
            Reason::Behind => "behind",
            Reason::Scheduled => "scheduled",
        }
    }
}

/// A row that is put off, or put off again.
#[derive(Debug, Clone)]
pub struct Deferral {
    /// The row.
    pub id: i64,
    /// Why.
    pub reason: Reason,
    /// When it is due, from now on; `None` for a row behind another.
    pub delay_ms: Option<i64>,
    /// Tries that were its own fault, this one included.
    pub attempts: i32,
    /// All tries, this one included.
    pub tries: i32,
    /// Class of the failure.
    pub class: Option<&'static str>,
    /// What a person reads.
    pub error: Option<String>,
}

/// What a settlement records, in any order.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Confirmed rows and where their records are.
    pub published: Vec<(i64, Receipt)>,
    /// Rows whose `expires_at` had passed.
    pub expired: Vec<i64>,
    /// Rows put off.
    pub deferred: Vec<Deferral>,
    /// Of the published and expired rows, those that came from `outbox.deferred` and leave it.
    pub departed: Vec<i64>,
}

/// A settlement ready to be sent, as often as it takes.
#[derive(Debug)]
pub struct Settlement {
    epoch: i64,
    seq: i64,
    token: Uuid,
    durable: bool,
    position: Position,
    moved: bool,
    published: String,
    receipts: Vec<u8>,
    expired: String,
    departed: Vec<i64>,
    deferred: Vec<Deferral>,
}

impl Settlement {
    /// Builds the settlement number `seq` of the lease `epoch`. `moved` says that `position` is new.
    pub fn new(
        epoch: i64,
        seq: i64,
        token: Uuid,
        durable: bool,
        position: Position,
        moved: bool,
        mut outcome: Outcome,
    ) -> Settlement {
        outcome.published.sort_unstable_by_key(|(id, _)| *id);
        outcome.expired.sort_unstable();
        Settlement {
            epoch,
            seq,
            token,
            durable,
            position,
            moved,
            published: multirange(outcome.published.iter().map(|(id, _)| *id)),
            receipts: receipt::encode(outcome.published.iter().map(|(_, receipt)| *receipt)),
            expired: multirange(outcome.expired.iter().copied()),
            departed: outcome.departed,
            deferred: outcome.deferred,
        }
    }

    /// The settlement waits for the disk: it is marked so, or it carries what must not be lost.
    pub fn is_durable(&self) -> bool {
        self.durable || !self.deferred.is_empty() || !self.departed.is_empty()
    }

    /// Writes it. Doing so twice is harmless.
    pub async fn write(&self, session: &mut Session) -> Result<(), StoreError> {
        let late = self.position.late.as_ref();
        let column = |f: fn(&Deferral) -> Option<i64>| self.deferred.iter().map(f).collect::<Vec<_>>();
        let query = sqlx::query(include_str!("sql/settle.sql"))
            .bind(self.epoch)
            .bind(self.seq)
            .bind(self.token)
            .bind(self.durable)
            .bind(&self.position.snapshot)
            .bind(self.position.high)
            .bind(late.map(|l| l.snapshot.as_str()))
            .bind(late.map(|l| l.after))
            .bind(self.moved)
            .bind(&self.published)
            .bind((!self.published.is_empty()).then_some(&self.receipts))
            .bind(&self.expired)
            .bind(&self.departed)
            .bind(self.deferred.iter().map(|d| d.id).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.reason.as_str()).collect::<Vec<_>>())
            .bind(column(|d| d.delay_ms))
            .bind(self.deferred.iter().map(|d| d.attempts).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.tries).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.class).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.error.as_deref()).collect::<Vec<_>>());
        let answer = session.within("settle", async |c| query.fetch_one(c).await).await?;
        let outcome: String = answer.try_get(0).map_err(|e| StoreError::from_sqlx("settle", e))?;
        match outcome.as_str() {
            "settled" | "repeated" => Ok(()),
            "lease_lost" => Err(StoreError::LeaseLost),
            "forgotten" => Err(StoreError::Forgotten),
            _ => Err(StoreError::OutOfTurn),
        }
    }
}

/// The text of an `int8multirange` that holds exactly these ids, which are in ascending order.
fn multirange(ids: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::from("{");
    let mut open: Option<(i64, i64)> = None;
    let mut close = |range: Option<(i64, i64)>| {
        if let Some((first, last)) = range {
            let comma = if text.len() > 1 { "," } else { "" };
            write!(text, "{comma}[{first},{}]", last).expect("writing to a string does not fail");
        }
    };
    for id in ids {
        open = match open {
            Some((first, last)) if id == last + 1 => Some((first, id)),
            Some((_, last)) if id == last => open,
            _ => {
                close(open);
                Some((id, id))
            }
        };
    }
    close(open);
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ids: &[i64], expected: &str) {
        assert_eq!(multirange(ids.iter().copied()), expected);
    }

    #[test]
    fn neighbouring_ids_become_one_range() {
        check(&[], "{}");
        check(&[7], "{[7,7]}");
        check(&[1, 2, 3, 5, 8, 9], "{[1,3],[5,5],[8,9]}");
        check(&[4, 4, 5], "{[4,5]}");
    }
}
