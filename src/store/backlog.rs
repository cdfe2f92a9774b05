//! How much waits, and for how long: what the gauges show, on leaders and standbys alike.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::deferred::{DeferredCounts, counts};
use super::reconcile::{self, Newest};
use super::{Session, StoreError};

/// One sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backlog {
    /// Ids drawn and not read: an upper bound of the rows that wait to be read, exact at zero.
    pub ready: i64,
    /// Topic and time (Unix seconds, database clock) of the first row that was not read.
    pub first_unread: Option<(String, f64)>,
    /// Deferred rows.
    pub deferred: DeferredCounts,
    /// Oldest row of each topic that is deferred or waits in the topic's lane, Unix seconds.
    pub oldest_waiting: BTreeMap<String, f64>,
    /// The lease's epoch.
    pub epoch: i64,
    /// What reconciliations have found.
    pub reconciled: Newest,
}

/// Takes a sample: four short statements, whatever the backlog.
pub async fn sample(session: &mut Session) -> Result<Backlog, StoreError> {
    const WHAT: &str = "measure the backlog";
    let row = session.one(WHAT, session.call(include_str!("sql/backlog.sql"))).await?;
    let mut oldest = session.all(WHAT, session.call(include_str!("sql/deferred_oldest.sql"))).await?;
    oldest.extend(session.all(WHAT, session.call(include_str!("sql/laned_oldest.sql"))).await?);
    let deferred = counts(session).await?;
    let reconciled = reconcile::newest(session).await?;
    let read = |row: &PgRow, oldest: &[PgRow]| -> Result<Backlog, sqlx::Error> {
        let topic: Option<String> = row.try_get("topic")?;
        let created_at: Option<f64> = row.try_get("created_at")?;
        let mut oldest_waiting = BTreeMap::new();
        for row in oldest {
            let (topic, at): (String, f64) = (row.try_get("topic")?, row.try_get("oldest")?);
            let known = oldest_waiting.entry(topic).or_insert(at);
            *known = known.min(at);
        }
        Ok(Backlog {
            ready: row.try_get::<i64, _>("ready")?.max(0),
            first_unread: topic.zip(created_at),
            deferred,
            oldest_waiting,
            epoch: row.try_get("epoch")?,
            reconciled,
        })
    };
    read(&row, &oldest).map_err(|e| StoreError::from_sqlx(WHAT, e))
}
