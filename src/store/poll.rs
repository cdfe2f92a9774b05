//! Reading: one poll is one statement and therefore one snapshot.
//!
//! Owns the statements that read `outbox.message` for publishing, and the flush barrier. Does not decide when to poll.

use futures_util::TryStreamExt;
use sqlx::Row;
use uuid::Uuid;

use super::row::{self, TopicNames};
use super::{Session, StoreError};
use crate::message::OutboxRow;
use crate::position::{Position, Seen};

/// Bounds of one page.
#[derive(Debug, Clone, Copy)]
pub struct PageLimits {
    /// Rows of each kind (late, fresh).
    pub rows: i64,
    /// Bytes of each kind; the row that crosses the line is still in the page.
    pub bytes: i64,
    /// Larger payloads stay in the database.
    pub max_row_bytes: i32,
}

impl PageLimits {
    /// A page looks at no more ids than this, so that skipped rows cannot make it slow.
    fn ids(&self) -> i64 {
        self.rows * 20
    }
}

/// Rows to publish, and what was known when they were read.
#[derive(Debug)]
pub struct Page {
    /// Late rows first, then fresh ones, both in order of id.
    pub rows: Vec<OutboxRow>,
    /// The position once all of them have been dealt with.
    pub next: Position,
    /// Every row with `id <= next.high` has a txid below this one.
    pub as_of: String,
    /// The page was cut short: there is more to read at once.
    pub more: bool,
    /// Database clock, microseconds since 1970.
    pub database_us: i64,
    /// Highest id drawn so far, committed or not; not looked at while late rows are paged.
    pub last_id: Option<i64>,
    /// WAL position that covers every commit in the page; `None` when it was on disk already.
    pub unflushed: Option<i64>,
}

/// State of the reader that outlives a poll.
#[derive(Debug, Default)]
pub struct Reader {
    names: TopicNames,
}

struct Facts {
    snapshot: String,
    last_id: i64,
    written: i64,
    flushed: i64,
    database_us: i64,
    next_txid: String,
    standbys: bool,
}

impl Reader {
    /// Reads the next page after `position`.
    ///
    /// `short` says that the last page was not cut, so that nothing can be left to find while the snapshot stands
    /// still. `as_of` comes with the position, from the last page or the ledger, and bounds the search for late rows:
    /// without it the first page after a stall looks at the txid of every row that was written meanwhile.
    /// Fails when `token` is not the server's incarnation: with [`StoreError::LeaseLost`] when another relay
    /// has taken over, with [`StoreError::Forgotten`] when the server has lost it.
    pub async fn poll(
        &mut self,
        session: &mut Session,
        position: &Position,
        limits: &PageLimits,
        token: Uuid,
        short: bool,
        as_of: &str,
    ) -> Result<Page, StoreError> {
        match &position.late {
            None => self.poll_now(session, position, limits, token, short, as_of).await,
            Some(_) => self.poll_late(session, position, limits, token, as_of).await,
        }
    }

    async fn poll_now(
        &mut self,
        session: &mut Session,
        position: &Position,
        limits: &PageLimits,
        token: Uuid,
        short: bool,
        as_of: &str,
    ) -> Result<Page, StoreError> {
        let query = sqlx::query(include_str!("sql/poll.sql"))
            .bind(&position.snapshot)
            .bind(position.high)
            .bind(limits.rows)
            .bind(limits.bytes)
            .bind(limits.max_row_bytes)
            .bind(token)
            .bind(short)
            .bind(as_of);
        let answer = self.collect(session, query).await?;
        let facts = answer.facts?;
        refuse_a_younger_sequence(facts.last_id, position.high)?;
        let late_full = answer.late as i64 >= limits.rows || answer.late_bytes >= limits.bytes;
        let fresh_full = answer.fresh as i64 >= limits.rows || answer.fresh_bytes >= limits.bytes;
        let seen = Seen {
            snapshot: facts.snapshot,
            last_late: answer.last_late,
            late_full,
            last_fresh: answer.last_fresh,
        };
        let next = position.after_poll(&seen);
        // A row draws its txid before its id: whatever has an id up to `high` had its txid when `high` was seen.
        let as_of = if next.high > position.high { facts.next_txid } else { as_of.to_owned() };
        Ok(Page {
            next,
            as_of,
            more: late_full || fresh_full,
            database_us: facts.database_us,
            last_id: Some(facts.last_id),
            // What is on our disk may not be on a standby's.
            unflushed: (facts.standbys || facts.written > facts.flushed).then_some(facts.written),
            rows: answer.rows,
        })
    }

    /// A page of a late set. Its rows were visible in an earlier poll of ours, whose barrier has made them durable.
    async fn poll_late(
        &mut self,
        session: &mut Session,
        position: &Position,
        limits: &PageLimits,
        token: Uuid,
        as_of: &str,
    ) -> Result<Page, StoreError> {
        let late = position.late.as_ref().expect("only called while late rows are paged");
        let query = sqlx::query(include_str!("sql/poll_late.sql"))
            .bind(&position.snapshot)
            .bind(late.after)
            .bind(position.high)
            .bind(&late.snapshot)
            .bind(limits.rows)
            .bind(limits.bytes)
            .bind(limits.ids())
            .bind(limits.max_row_bytes)
            .bind(token);
        let answer = self.collect(session, query).await?;
        let facts = answer.facts?;
        Ok(Page {
            next: position.after_late_page(facts.last_id),
            as_of: as_of.to_owned(),
            more: true,
            database_us: facts.database_us,
            last_id: None,
            unflushed: None,
            rows: answer.rows,
        })
    }

    async fn collect(
        &mut self,
        session: &mut Session,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Answer, StoreError> {
        let names = &mut self.names;
        session
            .within("poll", async |connection| {
                let mut answer = Answer::default();
                let mut rows = query.fetch(connection);
                while let Some(row) = rows.try_next().await? {
                    match row::int4(&row, 0)? {
                        Some(0) => answer.facts = facts(row::text(&row, 3)?.unwrap_or_default()),
                        kind => {
                            let upto = row::int8(&row, 12)?.unwrap_or(0);
                            let outbox_row = row::outbox_row(&row, 1, names)?;
                            if kind == Some(1) {
                                answer.late += 1;
                                answer.late_bytes = upto;
                                answer.last_late = Some(outbox_row.id);
                            } else {
                                answer.fresh += 1;
                                answer.fresh_bytes = upto;
                                answer.last_fresh = Some(outbox_row.id);
                            }
                            answer.rows.push(outbox_row);
                        }
                    }
                }
                Ok(answer)
            })
            .await
    }
}

struct Answer {
    facts: Result<Facts, StoreError>,
    rows: Vec<OutboxRow>,
    late: usize,
    late_bytes: i64,
    last_late: Option<i64>,
    fresh: usize,
    fresh_bytes: i64,
    last_fresh: Option<i64>,
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
        }
    }
}

/// `snapshot incarnation last_id written flushed clock next_txid cache standbys`, as `concat_ws` wrote them.
fn facts(text: &str) -> Result<Facts, StoreError> {
    let unreadable = || StoreError::Unusable(format!("the poll's facts cannot be read: {text}"));
    let fields: Vec<&str> = text.split(' ').collect();
    let [snapshot, incarnation, last_id, written, flushed, clock, next_txid, cache, standbys] = fields[..]
    else {
        return Err(unreadable());
    };
    match incarnation {
        "ours" => {}
        // Only a takeover writes a token, so it was not the server that forgot ours.
        "other" => return Err(StoreError::LeaseLost),
        _ => return Err(StoreError::Forgotten),
    }
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
    })
}

/// A sequence that went backwards hands out ids that the position has passed: their rows would never be read.
fn refuse_a_younger_sequence(last_id: i64, high: i64) -> Result<(), StoreError> {
    if last_id >= high {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "outbox.message_id_seq stands at {last_id}, but ids up to {high} have been read: it was reset or restored; \
         run outbox-relay migrate --rebase"
    )))
}

/// Waits until everything up to `written` (a WAL position in bytes) is on disk and, where the server has synchronous
/// standbys, with them. A commit made with `synchronous_commit = off` is visible before that, and what a crash could
/// still undo must not be published.
pub async fn flush_barrier(session: &mut Session, written: Option<i64>) -> Result<(), StoreError> {
    let Some(written) = written else { return Ok(()) };
    let state = session
        .within("read the flushed position", async |c| {
            sqlx::query(include_str!("sql/flushed.sql")).fetch_one(c).await
        })
        .await?;
    let what = "read the flushed position";
    let flushed: i64 = state.try_get("flushed").map_err(|e| StoreError::from_sqlx(what, e))?;
    let standbys: bool = state.try_get("standbys").map_err(|e| StoreError::from_sqlx(what, e))?;
    if flushed >= written && !standbys {
        return Ok(());
    }
    session.within("flush", async |c| sqlx::query(include_str!("sql/flush.sql")).execute(c).await).await?;
    Ok(())
}
