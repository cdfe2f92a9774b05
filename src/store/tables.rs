//! How large the tables are and how long the oldest transaction has been open: what the gauges show, on leaders and standbys alike.

use sqlx::Row;

use super::{Session, StoreError};

/// Sizes in bytes with all slots and indexes, and the oldest transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs, reason = "the names of the tables")]
pub struct Tables {
    pub message: i64,
    pub ledger: i64,
    pub attempt: i64,
    pub deferred: i64,
    pub dead_letter: i64,
    /// When the oldest open transaction began, Unix seconds; 0 when there is none.
    pub oldest_transaction: f64,
}

/// Measures the tables: asks the file system about a hundred files, and reads none.
pub async fn measure(session: &mut Session) -> Result<Tables, StoreError> {
    const WHAT: &str = "measure the tables";
    let row = session.one(WHAT, session.call(include_str!("sql/table_bytes.sql"))).await?;
    let number = |name| -> Result<i64, sqlx::Error> { Ok(row.try_get::<Option<i64>, _>(name)?.unwrap_or(0)) };
    let read = || -> Result<Tables, sqlx::Error> {
        Ok(Tables {
            message: number("message")?,
            ledger: number("ledger")?,
            attempt: number("attempt")?,
            deferred: number("deferred")?,
            dead_letter: number("dead_letter")?,
            oldest_transaction: row.try_get::<Option<f64>, _>("oldest_transaction")?.unwrap_or(0.0),
        })
    };
    read().map_err(|e| StoreError::from_sqlx(WHAT, e))
}
