//! Reading `outbox.dead_letter`: the copies that topics are to get.
//!
//! Writing it is part of the settlement (`settle.rs`). A letter stays in Postgres whatever becomes of its copy.

use futures_util::TryStreamExt;

use super::row::{self, TopicNames};
use super::{Session, StoreError};
use crate::message::OutboxRow;

/// Reads copies that are owed, as rows of the topics that get them: of each topic an equal share, and none of those in
/// `except`.
pub async fn owed_copies(
    session: &mut Session,
    rows: i64,
    max_row_bytes: i32,
    except: &[&str],
) -> Result<Vec<OutboxRow>, StoreError> {
    let mut names = TopicNames::default();
    let query = sqlx::query(include_str!("sql/dead_copies.sql")).bind(rows).bind(max_row_bytes).bind(except);
    session
        .within("read dead letters to copy", async |connection| {
            let mut copies = Vec::new();
            let mut rows = query.fetch(connection);
            while let Some(row) = rows.try_next().await? {
                copies.push(row::outbox_row(&row, 0, &mut names)?);
            }
            Ok(copies)
        })
        .await
}
