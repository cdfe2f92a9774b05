//! Reading `outbox.dead_letter`: the copies that topics are to get.
//!
//! Writing it is part of the settlement (`settle.rs`). A letter stays in Postgres whatever becomes of its copy.

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
    let query = session.call(include_str!("sql/dead_copies.sql")).bind(rows).bind(max_row_bytes).bind(except);
    let mut copies = Vec::new();
    session
        .each("read dead letters to copy", query, |row| {
            copies.push(row::outbox_row(row, 0, &mut names)?);
            Ok(())
        })
        .await?;
    Ok(copies)
}
