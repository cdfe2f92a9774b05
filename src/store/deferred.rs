//! Reading `outbox.deferred`: what is due, which keys wait, how many rows there are.
//!
//! Writing it is part of the settlement (`settle.rs`): a row is never in both streams and never in neither.

use std::sync::Arc;

use sqlx::Row;

use super::row::{self, TopicNames};
use super::settle::Reason;
use super::{Session, StoreError};
use crate::message::OutboxRow;

/// A deferred row whose time has come, or that waits behind one.
#[derive(Debug)]
pub struct DueRow {
    /// The full copy.
    pub row: OutboxRow,
    /// Why it waits.
    pub reason: Reason,
    /// Tries so far that were its own fault.
    pub attempts: i32,
    /// Tries so far.
    pub tries: i32,
    /// When it was first rejected for its own fault; microseconds since 1970, database clock.
    pub first_rejected_us: Option<i64>,
    /// Later rows of its key may pass it.
    pub passable: bool,
    /// It is due while an earlier row of its key waits: it has to get behind that one.
    pub waits: bool,
    /// The request whose copy of a published row it is.
    pub replay: Option<i64>,
}

/// Due rows, and what was known when they were read.
#[derive(Debug)]
pub struct DuePage {
    /// In order of id.
    pub rows: Vec<DueRow>,
    /// Once these rows are settled, nothing that was due before this time is left; microseconds, database clock.
    pub dealt_with_us: i64,
    /// The database's clock, microseconds since 1970.
    pub clock_us: i64,
}

/// Numbers of deferred rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeferredCounts {
    /// Waiting for their next try.
    pub retrying: i64,
    /// Waiting behind the head of their key.
    pub behind: i64,
    /// Waiting for their `deliver_after`.
    pub scheduled: i64,
}

/// Bounds of one batch of due rows.
#[derive(Debug, Clone, Copy)]
pub struct DueLimits {
    /// Rows that are due.
    pub heads: i64,
    /// Rows behind each head.
    pub followers: i64,
    /// Larger payloads stay in the database.
    pub max_row_bytes: i32,
    /// Bytes of all rows; the row that crosses the line still comes.
    pub bytes: i64,
    /// Rows of all: what a crash would repeat.
    pub rows: i64,
}

/// Reads due rows and what waits behind each, in order of id. Nothing that was due before `since_us` is looked at.
pub async fn due(session: &mut Session, limits: &DueLimits, since_us: i64) -> Result<DuePage, StoreError> {
    let mut names = TopicNames::default();
    let query = session
        .call(include_str!("sql/due.sql"))
        .bind(limits.heads)
        .bind(limits.followers)
        .bind(limits.max_row_bytes)
        .bind(limits.bytes)
        .bind(since_us)
        .bind(limits.rows);
    let mut page = DuePage { rows: Vec::new(), dealt_with_us: since_us, clock_us: since_us };
    session
        .each("read due rows", query, |row| {
            if row::int8(row, 0)?.is_none() {
                // Facts: the clock, the latest time among the due rows, how many there were and how many were cut.
                page.clock_us = row::timestamp(row, 8)?.unwrap_or(since_us);
                let found = i64::from(row::int4(row, 12)?.unwrap_or(0));
                page.dealt_with_us = match row::int4(row, 13)?.unwrap_or(0) {
                    0 if found < limits.heads => page.clock_us,
                    0 => row::timestamp(row, 9)?.unwrap_or(since_us),
                    _ => since_us,
                };
                return Ok(());
            }
            page.rows.push(DueRow {
                row: row::outbox_row(row, 0, &mut names)?,
                reason: match row::text(row, 11)? {
                    Some("retry") => Reason::Retry,
                    Some("scheduled") => Reason::Scheduled,
                    _ => Reason::Behind,
                },
                attempts: row::int4(row, 12)?.unwrap_or(0),
                tries: row::int4(row, 13)?.unwrap_or(0),
                first_rejected_us: row::timestamp(row, 14)?,
                passable: row::flag(row, 15)?,
                waits: row::flag(row, 16)?,
                replay: row::int8(row, 17)?,
            });
            Ok(())
        })
        .await?;
    Ok(page)
}

/// Reads every blocked key with its number of waiting rows.
pub async fn waiting_keys(session: &mut Session) -> Result<Vec<(Arc<str>, Box<[u8]>, u64)>, StoreError> {
    let mut names = TopicNames::default();
    let query = session.call(include_str!("sql/waiting_keys.sql"));
    let mut keys = Vec::new();
    session
        .each("read blocked keys", query, |row| {
            let topic = names.share(row::text(row, 0)?.unwrap_or_default());
            let key = row::bytes(row, 1)?.unwrap_or_default().into();
            keys.push((topic, key, row::int8(row, 2)?.unwrap_or(0).max(0) as u64));
            Ok(())
        })
        .await?;
    Ok(keys)
}

/// Scheduled rows are not bounded in number; counting more of them would only cost time.
const SCHEDULED_COUNTED: i64 = 1_000_000;

/// Counts deferred rows, scheduled ones up to [`SCHEDULED_COUNTED`].
pub async fn counts(session: &mut Session) -> Result<DeferredCounts, StoreError> {
    const WHAT: &str = "count deferred rows";
    let row = session
        .one(WHAT, session.call(include_str!("sql/deferred_counts.sql")).bind(SCHEDULED_COUNTED))
        .await?;
    let number = |name| row.try_get::<i64, _>(name).map_err(|e| StoreError::from_sqlx(WHAT, e));
    Ok(DeferredCounts {
        retrying: number("retrying")?,
        behind: number("behind")?,
        scheduled: number("scheduled")?,
    })
}

/// Deferred rows of a topic, scheduled ones aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCounts {
    /// The topic.
    pub topic: Arc<str>,
    /// All of them.
    pub waiting: u64,
    /// Those that wait until the topic is woken.
    pub parked: u64,
}

/// Counts deferred rows by topic.
pub async fn topic_counts(session: &mut Session) -> Result<Vec<TopicCounts>, StoreError> {
    const WHAT: &str = "count deferred rows by topic";
    let rows = session.all(WHAT, session.call(include_str!("sql/deferred_topics.sql"))).await?;
    let number = |row: &sqlx::postgres::PgRow, name| -> Result<u64, sqlx::Error> {
        Ok(row.try_get::<i64, _>(name)?.max(0) as u64)
    };
    let read = |row: &sqlx::postgres::PgRow| -> Result<TopicCounts, sqlx::Error> {
        let topic: String = row.try_get("topic")?;
        Ok(TopicCounts {
            topic: topic.into(),
            waiting: number(row, "waiting")?,
            parked: number(row, "parked")?,
        })
    };
    let counts: Result<Vec<TopicCounts>, sqlx::Error> = rows.iter().map(read).collect();
    counts.map_err(|e| StoreError::from_sqlx(WHAT, e))
}
