//! What a poll has answered: the facts of its first row, and its rows.
//!
//! Owns how the columns of the poll's statements are read. What they mean for the position is not decided here.

use sqlx::postgres::PgRow;

use super::PageLimits;
use crate::message::OutboxRow;
use crate::store::StoreError;
use crate::store::row::{self, TopicNames};

/// What the server says with every page.
pub struct Facts {
    pub snapshot: String,
    pub last_id: i64,
    pub written: i64,
    pub flushed: i64,
    pub database_us: i64,
    pub next_txid: String,
    pub standbys: bool,
    /// Late rows are too many for one poll, and none has come.
    pub late_set: bool,
}

impl Facts {
    /// What is on our disk may not be on a standby's.
    pub fn unflushed(&self) -> Option<i64> {
        (self.standbys || self.written > self.flushed).then_some(self.written)
    }
}

/// Everything that one poll has returned.
pub struct Answer {
    pub facts: Result<Facts, StoreError>,
    pub rows: Vec<OutboxRow>,
    pub late: usize,
    pub late_bytes: i64,
    pub last_late: Option<i64>,
    pub fresh: usize,
    pub fresh_bytes: i64,
    pub last_fresh: Option<i64>,
    /// The last id looked at, if its row was skipped.
    pub last_skipped: Option<i64>,
    /// What the last fresh row says: ids skipped, or looked at.
    pub skips: i64,
}

impl Answer {
    /// The next row of the answer.
    pub fn take(&mut self, row: &PgRow, names: &mut TopicNames) -> Result<(), sqlx::Error> {
        let kind = row::int4(row, 0)?;
        if kind == Some(0) {
            self.facts = facts(row::text(row, 3)?.unwrap_or_default());
            return Ok(());
        }
        self.skips = row::int8(row, 13)?.unwrap_or(0);
        if kind == Some(3) {
            self.last_skipped = row::int8(row, 1)?;
            return Ok(());
        }
        let upto = row::int8(row, 12)?.unwrap_or(0);
        let outbox_row = row::outbox_row(row, 1, names)?;
        if kind == Some(1) {
            self.late += 1;
            self.late_bytes = upto;
            self.last_late = Some(outbox_row.id);
        } else {
            self.fresh += 1;
            self.fresh_bytes = upto;
            self.last_fresh = Some(outbox_row.id);
        }
        self.rows.push(outbox_row);
        Ok(())
    }

    /// Late or fresh rows have no more room.
    pub fn is_full(&self, limits: &PageLimits) -> bool {
        let fill = |rows: usize, bytes| rows as i64 >= limits.rows || bytes >= limits.bytes;
        fill(self.late, self.late_bytes) || fill(self.fresh, self.fresh_bytes)
    }
}

impl Default for Answer {
    fn default() -> Self {
        Answer {
            facts: Err(StoreError::Unusable("the poll returned no facts".to_owned())),
            rows: Vec::new(),
            late: 0,
            late_bytes: 0,
            last_late: None,
            fresh: 0,
            fresh_bytes: 0,
            last_fresh: None,
            last_skipped: None,
            skips: 0,
        }
    }
}

/// `snapshot incarnation last_id written flushed clock next_txid cache standbys late_set`, as `concat_ws` wrote them.
pub fn facts(text: &str) -> Result<Facts, StoreError> {
    let unreadable = || StoreError::Unusable(format!("the poll's facts cannot be read: {text}"));
    let fields: Vec<&str> = text.split(' ').collect();
    let [snapshot, incarnation, last_id, written, flushed, clock, next_txid, cache, standbys, late_set] =
        fields[..]
    else {
        return Err(unreadable());
    };
    recognise(incarnation)?;
    // With a cache, ids are drawn ahead of their transactions: order is lost, and `as_of` would hide rows.
    if cache != "1" {
        return Err(StoreError::Unusable(format!(
            "outbox.message_id_seq has a cache of {cache}, which breaks the order of ids; run: alter sequence outbox.message_id_seq cache 1"
        )));
    }
    let number = |text: &str| text.parse::<i64>().map_err(|_| unreadable());
    Ok(Facts {
        snapshot: snapshot.to_owned(),
        last_id: number(last_id)?,
        written: number(written)?,
        flushed: number(flushed)?,
        database_us: number(clock)?,
        next_txid: next_txid.to_owned(),
        standbys: standbys == "t",
        late_set: late_set == "t",
    })
}

/// What an answer says of the server's incarnation.
pub fn recognise(incarnation: &str) -> Result<(), StoreError> {
    match incarnation {
        "ours" => Ok(()),
        // Only a takeover writes a token, so it was not the server that forgot ours.
        "other" => StoreError::deposed(),
        _ => Err(StoreError::Forgotten),
    }
}
