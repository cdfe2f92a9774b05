//! Reading what a reconciliation compares with the topics: rows, what settlements say of them, and their receipts.
//!
//! Owns the statements. What follows from them is `reconcile`; nothing here asks Kafka or changes a row.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use uuid::Uuid;

use super::row::{self, TopicNames};
use super::settle::multirange;
use super::{Session, StoreError};
use crate::receipt::{self, Receipt};

/// A row of the window.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: i64,
    /// Its event id.
    pub event_id: Uuid,
    /// Its topic.
    pub topic: Arc<str>,
    /// A hash of its key, of which `None` is one.
    pub key: u64,
    /// A digest of its payload; `None`: a tombstone, or this login may not read payloads.
    pub payload: Option<u64>,
    /// The position of its topic has passed it, so some settlement names it.
    pub passed: bool,
}

/// What a settlement says of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the ledger's columns")]
pub enum Named {
    Deferred,
    Dead,
    Expired,
    Dropped,
    Published,
}

/// A run of ids, both ends included, of which settlements say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What.
    pub named: Named,
    /// The first id.
    pub first: i64,
    /// The last one.
    pub last: i64,
}

/// Where a record of a row should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The row.
    pub id: i64,
    /// The topic of a copy that an operator has asked for; `None`: the row's own record.
    pub copy_in: Option<Arc<str>>,
    /// Partition and offset.
    pub receipt: Receipt,
}

/// What can be reconciled.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    /// The oldest row that is left, and when it was written (RFC 3339). `None`: no row is left.
    pub first: Option<(i64, String)>,
    /// The newest.
    pub last_id: i64,
    /// This login may read payloads.
    pub payloads: bool,
    /// The database's clock (RFC 3339).
    pub now: String,
}

/// What was published lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// The lowest id that these settlements name as published; `None`: none.
    pub first_id: Option<i64>,
    /// The highest id that is left.
    pub last_id: i64,
    /// How far the main stream had come when this lease began.
    pub started: i64,
    /// How far it has come.
    pub high: i64,
}

/// What the gauges show.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs, reason = "the names are those of outbox.reconciliation")]
pub struct Newest {
    pub missing: i64,
    pub duplicates: i64,
    /// Unix seconds; 0: there was none.
    pub ended: f64,
}

/// A hash that rows and records of one run agree on. Nothing keeps it.
pub fn hash_of(bytes: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Looks what is there.
pub async fn bounds(session: &mut Session) -> Result<Bounds, StoreError> {
    const WHAT: &str = "look what can be reconciled";
    let row = session.one(WHAT, session.call(include_str!("sql/reconcile_window.sql"))).await?;
    let read = || -> Result<Bounds, sqlx::Error> {
        let (id, at): (Option<i64>, Option<String>) = (row.try_get("first_id")?, row.try_get("first_at")?);
        Ok(Bounds {
            first: id.zip(at),
            last_id: row.try_get::<Option<i64>, _>("last_id")?.unwrap_or(0),
            payloads: row.try_get("payloads")?,
            now: row.try_get("now")?,
        })
    };
    read().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Looks what was published in so long before the end of what the leases before `epoch` have settled.
pub async fn recent(session: &mut Session, back: Duration, epoch: i64) -> Result<Recent, StoreError> {
    const WHAT: &str = "look what was published lately";
    let call = session.call(include_str!("sql/reconcile_recent.sql")).bind(back.as_secs_f64()).bind(epoch);
    let row = session.one(WHAT, call).await?;
    let read = || -> Result<Recent, sqlx::Error> {
        Ok(Recent {
            first_id: row.try_get("first_id")?,
            last_id: row.try_get("last_id")?,
            started: row.try_get::<Option<i64>, _>("started")?.unwrap_or(0),
            high: row.try_get::<Option<i64>, _>("high")?.unwrap_or(0),
        })
    };
    read().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Reads rows behind `after` and up to `until`, at most `limit`.
pub async fn rows(
    session: &mut Session,
    after: i64,
    until: i64,
    limit: i64,
    payloads: bool,
) -> Result<Vec<Row>, StoreError> {
    let sql = match payloads {
        true => include_str!("sql/reconcile_rows_payload.sql"),
        false => include_str!("sql/reconcile_rows.sql"),
    };
    let call = session.call(sql).bind(after).bind(until).bind(limit);
    let (mut names, mut rows) = (TopicNames::default(), Vec::new());
    session
        .each("read the rows of a window", call, |row| {
            let digest = row::bytes(row, 4)?.and_then(|bytes| bytes.try_into().ok());
            rows.push(Row {
                id: row::int8(row, 0)?.unwrap_or(0),
                event_id: event_id(row, 1)?,
                topic: names.share(row::text(row, 2)?.unwrap_or_default()),
                key: hash_of(row::bytes(row, 3)?),
                payload: digest.map(u64::from_be_bytes),
                passed: row::flag(row, 5)?,
            });
            Ok(())
        })
        .await?;
    Ok(rows)
}

/// Reads what settlements say of the ids from `first` to `last`.
pub async fn named(session: &mut Session, first: i64, last: i64) -> Result<Vec<Run>, StoreError> {
    let call = session.call(include_str!("sql/reconcile_named.sql")).bind(first).bind(last);
    let mut runs = Vec::new();
    session
        .each("read what settlements say of a window", call, |row| {
            let named = match row::text(row, 0)? {
                Some("deferred") => Named::Deferred,
                Some("dead") => Named::Dead,
                Some("expired") => Named::Expired,
                Some("dropped") => Named::Dropped,
                _ => Named::Published,
            };
            let id = |index| row::int8(row, index).map(Option::unwrap_or_default);
            runs.push(Run { named, first: id(1)?, last: id(2)? });
            Ok(())
        })
        .await?;
    Ok(runs)
}

/// Ids from `first` to `last` whose row is put off.
pub async fn deferred(session: &mut Session, first: i64, last: i64) -> Result<Vec<i64>, StoreError> {
    let call = session.call(include_str!("sql/reconcile_deferred.sql")).bind(first).bind(last);
    let mut ids = Vec::new();
    session
        .each("read which rows of a window are put off", call, |row| {
            ids.extend(row::int8(row, 0)?);
            Ok(())
        })
        .await?;
    Ok(ids)
}

/// Shows `take` where the records of these ids should be, those of copies included. The ids are in ascending order.
pub async fn receipts(
    session: &mut Session,
    ids: &[i64],
    mut take: impl FnMut(Place),
) -> Result<(), StoreError> {
    let call = session.call(include_str!("sql/reconcile_receipts.sql")).bind(multirange(ids.iter().copied()));
    let unreadable =
        |what: &str| sqlx::Error::Decode(format!("the ledger has {what} of another format").into());
    session
        .each("read receipts", call, |row| {
            let copy_in: Option<Arc<str>> = row::text(row, 0)?.map(Arc::from);
            let named = ids_of(row::text(row, 1)?.unwrap_or_default()).ok_or_else(|| unreadable("ids"))?;
            // A settlement from before there were receipts has none.
            let Some(bytes) = row::bytes(row, 2)? else { return Ok(()) };
            let receipts = receipt::decode(bytes).ok_or_else(|| unreadable("receipts"))?;
            let mut wanted = ids.iter().copied().peekable();
            for (id, receipt) in named.zip(receipts) {
                while wanted.next_if(|wanted| *wanted < id).is_some() {}
                if wanted.peek() == Some(&id) {
                    take(Place { id, copy_in: copy_in.clone(), receipt });
                }
            }
            Ok(())
        })
        .await
}

/// The rows with these ids that are left: their event ids and topics.
pub async fn owners(
    session: &mut Session,
    ids: Vec<i64>,
) -> Result<HashMap<i64, (Uuid, Arc<str>)>, StoreError> {
    let call = session.call(include_str!("sql/reconcile_owners.sql")).bind(ids);
    let (mut names, mut owners) = (TopicNames::default(), HashMap::new());
    session
        .each("look whose records these are", call, |row| {
            let topic = names.share(row::text(row, 2)?.unwrap_or_default());
            owners.insert(row::int8(row, 0)?.unwrap_or(0), (event_id(row, 1)?, topic));
            Ok(())
        })
        .await?;
    Ok(owners)
}

/// How many event ids more than one row of the window carries, and the first ten of them.
pub async fn twins(session: &mut Session, first: i64, last: i64) -> Result<(i64, Vec<String>), StoreError> {
    const WHAT: &str = "look for rows that share an event id";
    let call = session.call(include_str!("sql/reconcile_twins.sql")).bind(first).bind(last);
    let row = session.one(WHAT, call).await?;
    let read = || -> Result<_, sqlx::Error> { Ok((row.try_get("event_ids")?, row.try_get("first_ten")?)) };
    read().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// A reconciliation that has ended.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names are those of outbox.reconciliation")]
pub struct Note<'n> {
    pub cause: &'n str,
    pub begun_at: &'n str,
    pub from_id: i64,
    pub until_id: i64,
    pub missing: i64,
    pub duplicates: i64,
    /// JSON.
    pub report: String,
}

/// Writes it down and returns its number.
pub async fn note(session: &mut Session, note: &Note<'_>) -> Result<i64, StoreError> {
    let call = session
        .call(include_str!("sql/reconcile_note.sql"))
        .bind(note.cause)
        .bind(note.begun_at)
        .bind(note.from_id)
        .bind(note.until_id)
        .bind(note.missing)
        .bind(note.duplicates)
        .bind(&note.report);
    session.value("note what a reconciliation has found", call).await
}

/// What reconciliations have found, and no later one has found otherwise.
pub async fn newest(session: &mut Session) -> Result<Newest, StoreError> {
    const WHAT: &str = "read the newest reconciliations";
    let row = session.one(WHAT, session.call(include_str!("sql/reconcile_newest.sql"))).await?;
    let read = || -> Result<Newest, sqlx::Error> {
        Ok(Newest {
            missing: row.try_get("missing")?,
            duplicates: row.try_get("duplicates")?,
            ended: row.try_get::<Option<f64>, _>("ended")?.unwrap_or(0.0),
        })
    };
    read().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

fn event_id(row: &sqlx::postgres::PgRow, index: usize) -> Result<Uuid, sqlx::Error> {
    Ok(row::bytes(row, index)?.and_then(|bytes| Uuid::from_slice(bytes).ok()).unwrap_or_default())
}

/// The ids of a multirange as Postgres writes it: `{[1,4),[6,7)}`.
fn ids_of(text: &str) -> Option<impl Iterator<Item = i64> + use<>> {
    let mut runs = Vec::new();
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    for run in inner.split_terminator("),") {
        let (first, end) = run.trim_end_matches(')').strip_prefix('[')?.split_once(',')?;
        runs.push(first.parse::<i64>().ok()?..end.parse::<i64>().ok()?);
    }
    Some(runs.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multirange_names_its_ids() {
        let ids = |text| ids_of(text).map(Iterator::collect::<Vec<_>>);
        assert_eq!(ids("{}"), Some(vec![]));
        assert_eq!(ids("{[1,4),[6,7)}"), Some(vec![1, 2, 3, 6]));
        assert_eq!(ids("{[1,4),(6,7)}"), None);
        assert_eq!(ids("1,2"), None);
    }
}
