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
    /// The last id that reading has passed and settled, of main.
    pub position: i64,
    /// Topic and time (Unix seconds, database clock) of the first row that was not read.
    pub first_unread: Option<(String, f64)>,
    /// Deferred rows.
    pub deferred: DeferredCounts,
    /// Oldest row of each topic that is deferred or waits in the topic's lane, Unix seconds.
    pub oldest_waiting: BTreeMap<String, f64>,
    /// Open dead letters of each topic that has any, counted up to [`LETTERS_COUNTED`].
    pub dead_letters: BTreeMap<String, u64>,
    /// When the oldest of them died, Unix seconds.
    pub oldest_dead_letter: Option<f64>,
    /// Since when the longest blocked key waits, Unix seconds.
    pub oldest_blocked_key: Option<f64>,
    /// The lease's epoch.
    pub epoch: i64,
    /// What reconciliations have found.
    pub reconciled: Newest,
    /// Planned work that was announced and not ended.
    pub maintenance: Option<Maintenance>,
}

/// Announced planned work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Maintenance {
    /// When it is to end, Unix seconds.
    pub ends: f64,
    /// That is still to come, by the database's clock.
    pub holds: bool,
}

/// Counting more dead letters of one topic would only cost time.
const LETTERS_COUNTED: i64 = 100_000;

/// Causes of death among which the oldest letter is looked for.
const CAUSES_LOOKED_AT: i64 = 1000;

/// Takes a sample: seven short statements, whatever the backlog.
pub async fn sample(session: &mut Session) -> Result<Backlog, StoreError> {
    const WHAT: &str = "measure the backlog";
    let row = session.one(WHAT, session.call(include_str!("sql/backlog.sql"))).await?;
    let mut oldest = session.all(WHAT, session.call(include_str!("sql/deferred_oldest.sql"))).await?;
    oldest.extend(session.all(WHAT, session.call(include_str!("sql/laned_oldest.sql"))).await?);
    let deferred = counts(session).await?;
    let letters = session.call(include_str!("sql/letters_by_topic.sql")).bind(LETTERS_COUNTED);
    let letters = session.all(WHAT, letters).await?;
    let trouble = session.call(include_str!("sql/oldest_trouble.sql")).bind(CAUSES_LOOKED_AT);
    let trouble = session.one(WHAT, trouble).await?;
    let reconciled = reconcile::newest(session).await?;
    let announced = session.maybe(WHAT, session.call(include_str!("sql/maintenance.sql"))).await?;
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
            position: row.try_get("position")?,
            first_unread: topic.zip(created_at),
            deferred,
            oldest_waiting,
            dead_letters: letters
                .iter()
                .map(|row| Ok((row.try_get("topic")?, row.try_get::<i64, _>("letters")?.max(0) as u64)))
                .collect::<Result<_, sqlx::Error>>()?,
            oldest_dead_letter: trouble.try_get("dead_letter")?,
            oldest_blocked_key: trouble.try_get("blocked_key")?,
            epoch: row.try_get("epoch")?,
            reconciled,
            maintenance: announced
                .as_ref()
                .map(|row| {
                    Ok::<_, sqlx::Error>(Maintenance {
                        ends: row.try_get("ends")?,
                        holds: row.try_get("holds")?,
                    })
                })
                .transpose()?,
        })
    };
    read(&row, &oldest).map_err(|e| StoreError::from_sqlx(WHAT, e))
}
