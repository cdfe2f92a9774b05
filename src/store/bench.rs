//! What `outbox-relay bench` keeps in Postgres: marked rows of a topic of its own, which it deletes again.
//!
//! It must not touch a row without its mark, and it decides nothing: how many rows and how fast is `ops::bench`'s matter.

use sqlx::Row;

use super::{Session, StoreError};

/// Ids looked at in one statement that deletes: it must end long before the deadline of a statement.
const IDS: i64 = 50_000;

/// What this login may do.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// Insert messages.
    pub write: bool,
    /// Delete them.
    pub delete: bool,
}

/// What the rows look like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Their topic, which is their mark as well.
    pub topic: String,
    /// Of a transaction.
    pub rows: i32,
    /// Of a payload.
    pub bytes: i32,
    /// Different ones.
    pub keys: i64,
}

/// Asks before anything is written.
pub async fn rights(session: &mut Session) -> Result<Rights, StoreError> {
    const WHAT: &str = "ask for the rights of this login";
    let row = session.one(WHAT, session.call(include_str!("sql/bench_rights.sql"))).await?;
    let read = || Ok(Rights { write: row.try_get("may_write")?, delete: row.try_get("may_delete")? });
    read().map_err(|error| StoreError::from_sqlx(WHAT, error))
}

/// Writes and commits one transaction. Its number stands at the beginning of each payload, before a blank.
pub async fn write(session: &mut Session, shape: &Shape, number: i64) -> Result<(), StoreError> {
    let call = session.call(include_str!("sql/bench_write.sql"));
    let call =
        call.bind(shape.topic.clone()).bind(shape.rows).bind(number).bind(shape.bytes).bind(shape.keys);
    session.all("write messages", call).await.map(drop)
}

/// Whether a row of the topic, up to this id, is not settled yet.
pub async fn is_left(session: &mut Session, topic: &str, last: i64) -> Result<bool, StoreError> {
    let call = session.call(include_str!("sql/bench_left.sql")).bind(topic.to_owned()).bind(last);
    session.value("see whether all is settled", call).await
}

/// Deletes the rows of the topic behind `first` up to `last`. Returns how many they were.
pub async fn delete(session: &mut Session, topic: &str, first: i64, last: i64) -> Result<i64, StoreError> {
    let (mut from, mut gone) = (first, 0);
    while from < last {
        let until = last.min(from.saturating_add(IDS));
        let call = session.call(include_str!("sql/bench_delete.sql"));
        let call = call.bind(topic.to_owned()).bind(from).bind(until);
        gone += session.value::<i64>("delete the benchmark's messages", call).await?;
        from = until;
    }
    Ok(gone)
}
