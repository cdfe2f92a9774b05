//! The rings: how old their slots are, whether everything in them is accounted for, and emptying them.
//!
//! Owns the statements; which slot is due, and what follows from an unaccounted row, is `relay/clean.rs`.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::request::Letter;
use super::row::{self, TopicNames};
use super::{Session, StoreError};

/// A slot of `outbox.message`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Its number.
    pub slot: i32,
    /// Its lowest id; `None`: it is empty.
    pub first_id: Option<i64>,
    /// When its oldest row was written, Unix seconds.
    pub oldest: f64,
    /// Since its newest row was written.
    pub age: Duration,
    /// With its indexes.
    pub bytes: u64,
    /// The clock fills it now.
    pub in_use: bool,
    /// A replay has still to come to rows in it.
    pub held: bool,
}

/// One page of the sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// The snapshot in which was looked.
    pub snapshot: String,
    /// The last id looked at; `None`: no row is left behind the place.
    pub last_id: Option<i64>,
    /// Rows looked at.
    pub rows: i64,
    /// Ids that nobody accounts for although their position has been passed; the first of them, if they are many.
    pub unaccounted: Vec<i64>,
    /// The number of all of them.
    pub lost: i64,
    /// Some rows have not been dealt with yet.
    pub open: bool,
}

/// One page of the look at a slot of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlements {
    /// The snapshot in which was looked.
    pub snapshot: String,
    /// Epoch and seq of the last settlement looked at; `None`: none is left behind the place.
    pub last: Option<(i64, i64)>,
    /// Settlements looked at.
    pub rows: i64,
    /// Some of them name a message that is still there.
    pub held: bool,
}

/// A ring of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the tables")]
pub enum Ring {
    Message,
    Ledger,
    Attempt,
}

impl Ring {
    fn as_str(self) -> &'static str {
        match self {
            Ring::Message => "message",
            Ring::Ledger => "ledger",
            Ring::Attempt => "attempt",
        }
    }
}

/// What became of an attempt to empty a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emptying {
    /// It is empty.
    Emptied,
    /// Somebody uses it: a backup, an open transaction, our own poll.
    Busy,
    /// A row has come since it was looked at.
    Changed,
    /// It holds what is still needed.
    Held,
}

/// Reads the slots of `outbox.message`.
pub async fn slots(session: &mut Session) -> Result<Vec<Slot>, StoreError> {
    const WHAT: &str = "read the slots";
    let rows = session.all(WHAT, session.call(include_str!("sql/slots.sql"))).await?;
    let read = |row: &PgRow| -> Result<Slot, sqlx::Error> {
        let now: f64 = row.try_get("now")?;
        let newest = row.try_get::<Option<f64>, _>("newest")?.unwrap_or(now);
        Ok(Slot {
            slot: row.try_get("slot")?,
            first_id: row.try_get("first_id")?,
            oldest: row.try_get::<Option<f64>, _>("oldest")?.unwrap_or(0.0),
            age: Duration::from_secs_f64((now - newest).max(0.0)),
            bytes: row.try_get::<i64, _>("bytes")?.max(0) as u64,
            in_use: row.try_get("in_use")?,
            held: row.try_get("held")?,
        })
    };
    let slots: Result<Vec<Slot>, sqlx::Error> = rows.iter().map(read).collect();
    slots.map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Looks at the next `rows` rows of a slot behind `after`, and names at most `most` that nobody accounts for.
pub async fn sweep(
    session: &mut Session,
    slot: i32,
    after: i64,
    rows: i64,
    most: i64,
) -> Result<Swept, StoreError> {
    const WHAT: &str = "sweep a slot";
    let query = session.call(include_str!("sql/sweep.sql")).bind(slot).bind(after).bind(rows).bind(most);
    let row = session.one(WHAT, query).await?;
    let read = |row: &PgRow| -> Result<Swept, sqlx::Error> {
        Ok(Swept {
            snapshot: row.try_get("snapshot")?,
            last_id: row.try_get("last_id")?,
            rows: row.try_get("rows")?,
            unaccounted: row.try_get("unaccounted")?,
            lost: row.try_get("lost")?,
            open: row.try_get("open")?,
        })
    };
    read(&row).map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Looks at the next `rows` settlements of a slot of the ledger behind `after` (epoch and seq).
pub async fn settlements(
    session: &mut Session,
    slot: i32,
    after: (i64, i64),
    rows: i64,
) -> Result<Settlements, StoreError> {
    const WHAT: &str = "look at old settlements";
    let query = session.call(include_str!("sql/settlements.sql"));
    let query = query.bind(slot).bind(after.0).bind(after.1).bind(rows);
    let row = session.one(WHAT, query).await?;
    let read = |row: &PgRow| -> Result<Settlements, sqlx::Error> {
        let epoch: Option<i64> = row.try_get("last_epoch")?;
        let seq: Option<i64> = row.try_get("last_seq")?;
        Ok(Settlements {
            snapshot: row.try_get("snapshot")?,
            last: epoch.zip(seq),
            rows: row.try_get("rows")?,
            held: row.try_get("held")?,
        })
    };
    read(&row).map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Waits until everything that is visible now is durable: what a crash could undo accounts for nothing.
pub async fn make_durable(session: &mut Session, token: Uuid) -> Result<(), StoreError> {
    super::poll::flush_barrier(session, Some(i64::MAX), token).await
}

/// Reads topic and key of rows that nobody accounts for.
pub async fn unaccounted(session: &mut Session, ids: &[i64]) -> Result<Vec<Letter>, StoreError> {
    let query = session.call(include_str!("sql/unaccounted.sql")).bind(ids);
    let mut names = TopicNames::default();
    let mut found = Vec::new();
    session
        .each("read unaccounted rows", query, |row| {
            let topic = names.share(row::text(row, 1)?.unwrap_or_default());
            found.push((row::int8(row, 0)?.unwrap_or(0), topic, row::bytes(row, 2)?.map(Box::from)));
            Ok(())
        })
        .await?;
    Ok(found)
}

/// Empties a slot that was looked at in `snapshot`. Fails when the lease is lost or the server has forgotten the `token`.
pub async fn empty_slot(
    session: &mut Session,
    epoch: i64,
    token: Uuid,
    ring: Ring,
    slot: i32,
    snapshot: &str,
    younger_than: Duration,
) -> Result<Emptying, StoreError> {
    const WHAT: &str = "empty a slot";
    let query = session
        .call(include_str!("sql/empty_slot.sql"))
        .bind(epoch)
        .bind(token)
        .bind(ring.as_str())
        .bind(slot)
        .bind(snapshot)
        .bind(younger_than.as_secs_f64());
    let outcome: String = session.value(WHAT, query).await?;
    match outcome.as_str() {
        "emptied" => Ok(Emptying::Emptied),
        "busy" => Ok(Emptying::Busy),
        "changed" => Ok(Emptying::Changed),
        "held" => Ok(Emptying::Held),
        "forgotten" => Err(StoreError::Forgotten),
        _ => Err(StoreError::LeaseLost),
    }
}

/// Slots of the ledger or of the attempts whose every row is older than this.
pub async fn old_slots(session: &mut Session, ring: Ring, age: Duration) -> Result<Vec<i32>, StoreError> {
    const WHAT: &str = "read old slots";
    let query = session.call(include_str!("sql/old_slots.sql")).bind(ring.as_str()).bind(age.as_secs_f64());
    let slots: Result<Vec<i32>, sqlx::Error> =
        session.all(WHAT, query).await?.iter().map(|row| row.try_get(0)).collect();
    slots.map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Makes slots of a ring last so long, and waits at most `wait` for the table. Returns whether they do.
pub async fn set_slot_width(
    session: &mut Session,
    epoch: i64,
    ring: Ring,
    width: Duration,
    wait: Duration,
) -> Result<bool, StoreError> {
    let query = session
        .call(include_str!("sql/slot_width.sql"))
        .bind(epoch)
        .bind(ring.as_str())
        .bind(i32::try_from(width.as_secs()).unwrap_or(i32::MAX))
        .bind(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX));
    let done: Option<bool> = session.value("set the width of slots", query).await?;
    Ok(done.unwrap_or(false))
}

/// Deletes at most `rows` dead letters that have not changed for so long. Returns how many.
pub async fn forget_letters(
    session: &mut Session,
    epoch: i64,
    age: Duration,
    rows: i32,
) -> Result<i64, StoreError> {
    let query =
        session.call(include_str!("sql/forget_letters.sql")).bind(epoch).bind(age.as_secs_f64()).bind(rows);
    session.value("delete old dead letters", query).await
}
