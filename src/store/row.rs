//! From sqlx's row to [`OutboxRow`]: reads the binary protocol directly.
//!
//! Columns are read by index and without sqlx's per-column type checks: this runs once per outbox row.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::message::OutboxRow;

/// Microseconds between 1970 and Postgres' epoch, 2000-01-01.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Gives each topic name once, so that rows share it.
#[derive(Debug, Default)]
pub struct TopicNames(Vec<Arc<str>>);

impl TopicNames {
    /// Neighbouring rows mostly share their topic: the last name used is looked at first.
    pub(super) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(found) = self.0.iter().rposition(|known| &**known == name) {
            let last = self.0.len() - 1;
            self.0.swap(found, last);
        } else {
            if self.0.len() == 64 {
                self.0.remove(0);
            }
            self.0.push(Arc::from(name));
        }
        Arc::clone(&self.0[self.0.len() - 1])
    }
}

/// The columns id … expires_at in the order of `sql/poll.sql`, the first at index `first`.
pub(super) fn outbox_row(
    row: &PgRow,
    first: usize,
    names: &mut TopicNames,
) -> Result<OutboxRow, sqlx::Error> {
    Ok(OutboxRow {
        id: int8(row, first)?.unwrap_or(0),
        event_id: bytes(row, first + 1)?.and_then(|b| Uuid::from_slice(b).ok()).unwrap_or_default(),
        topic: names.share(text(row, first + 2)?.unwrap_or("")),
        key: bytes(row, first + 3)?.map(Box::from),
        payload: bytes(row, first + 4)?.map(Box::from),
        payload_bytes: int4(row, first + 5)?,
        headers: jsonb(row, first + 6)?.map(Box::from),
        partition: int4(row, first + 7)?,
        created_us: timestamp(row, first + 8)?.unwrap_or(0),
        deliver_after_us: timestamp(row, first + 9)?,
        expires_us: timestamp(row, first + 10)?,
    })
}

pub(super) fn bytes(row: &PgRow, index: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    let value = row.try_get_raw(index);
    // Looked at where it lies: moved out of the result, its type took the processor longer than all else here, a tenth of the
    // relay's time [measured].
    match &value {
        Ok(value) if sqlx::ValueRef::is_null(value) => Ok(None),
        Ok(value) => value.as_bytes().map(Some).map_err(sqlx::Error::Decode),
        Err(_) => value.map(|_| None),
    }
}

pub(super) fn text(row: &PgRow, index: usize) -> Result<Option<&str>, sqlx::Error> {
    match bytes(row, index)? {
        Some(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|e| sqlx::Error::Decode(e.into())),
        None => Ok(None),
    }
}

/// The binary form of `jsonb` is a version byte and the text.
fn jsonb(row: &PgRow, index: usize) -> Result<Option<&str>, sqlx::Error> {
    match text(row, index)? {
        Some(text) => match text.strip_prefix('\u{1}') {
            Some(text) => Ok(Some(text)),
            None => Err(sqlx::Error::Decode("unknown version of jsonb".into())),
        },
        None => Ok(None),
    }
}

pub(super) fn int8(row: &PgRow, index: usize) -> Result<Option<i64>, sqlx::Error> {
    fixed(row, index).map(|b| b.map(i64::from_be_bytes))
}

pub(super) fn int4(row: &PgRow, index: usize) -> Result<Option<i32>, sqlx::Error> {
    fixed(row, index).map(|b| b.map(i32::from_be_bytes))
}

/// Infinity stays at the end of the range.
pub(super) fn timestamp(row: &PgRow, index: usize) -> Result<Option<i64>, sqlx::Error> {
    Ok(int8(row, index)?.map(|us| us.saturating_add(POSTGRES_EPOCH_US)))
}

/// Null counts as no.
pub(super) fn flag(row: &PgRow, index: usize) -> Result<bool, sqlx::Error> {
    Ok(bytes(row, index)?.is_some_and(|b| b == [1]))
}

fn fixed<const N: usize>(row: &PgRow, index: usize) -> Result<Option<[u8; N]>, sqlx::Error> {
    match bytes(row, index)? {
        Some(bytes) => bytes.try_into().map(Some).map_err(|_| {
            sqlx::Error::Decode(format!("column {index} has {} bytes, not {N}", bytes.len()).into())
        }),
        None => Ok(None),
    }
}
