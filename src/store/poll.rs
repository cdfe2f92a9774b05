//! Reading: one poll is one statement and therefore one snapshot.
//!
//! Owns the statements that read `outbox.message` for publishing, and the flush barrier. Does not decide when to poll.

use sqlx::Row;
use uuid::Uuid;

use super::call::Call;
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
    /// Rows that were skipped because their topic has a lane.
    pub skipped: i64,
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

/// Where a poll begins, and what it leaves out.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// The position.
    pub position: &'a Position,
    /// Comes with the position, from the last page or the ledger, and bounds the search for late rows: without it the first
    /// page after a stall looks at the txid of every row that was written meanwhile.
    pub as_of: &'a str,
    /// Topics that are read on their own.
    pub skip: &'a [String],
    /// The last page was not cut, so that nothing can be left to find while the snapshot stands still.
    pub short: bool,
    /// … and it was empty: likely the next one is as well.
    pub idle: bool,
}

impl Reader {
    /// Reads the next page of the main stream.
    ///
    /// Fails when `token` is not the server's incarnation: with [`StoreError::LeaseLost`] when another relay
    /// has taken over, with [`StoreError::Forgotten`] when the server has lost it.
    pub async fn poll(
        &mut self,
        session: &mut Session,
        from: From<'_>,
        limits: &PageLimits,
        token: Uuid,
    ) -> Result<Page, StoreError> {
        match &from.position.late {
            None => self.poll_now(session, from, limits, token).await,
            Some(_) => self.poll_late(session, from, limits, token, None).await,
        }
    }

    /// Reads the next page of a lane: what `topic` has between `from` and `main`, the position of the main stream. When
    /// the page ends short, its `next` is `main` itself.
    pub async fn poll_lane(
        &mut self,
        session: &mut Session,
        topic: &str,
        from: From<'_>,
        main: &Position,
        limits: &PageLimits,
        token: Uuid,
    ) -> Result<Page, StoreError> {
        if from.position.late.is_some() {
            return self.poll_late(session, from, limits, token, Some(topic)).await;
        }
        let ids = limits.ids();
        let query = session
            .call(include_str!("sql/poll_lane.sql"))
            .bind(&from.position.snapshot)
            .bind(from.position.high)
            .bind(limits.rows)
            .bind(limits.bytes)
            .bind(limits.max_row_bytes)
            .bind(token)
            .bind(topic)
            .bind(from.as_of)
            .bind(&main.snapshot)
            .bind(main.high)
            .bind(ids);
        let answer = self.collect(session, query).await?;
        let facts = answer.facts?;
        let late_full = answer.late as i64 >= limits.rows || answer.late_bytes >= limits.bytes;
        let cut =
            answer.fresh as i64 >= limits.rows || answer.fresh_bytes >= limits.bytes || answer.skips >= ids;
        let looked_at = answer.last_fresh.max(answer.last_skipped);
        let seen = Seen {
            snapshot: main.snapshot.clone(),
            last_late: answer.last_late,
            late_full,
            last_fresh: if late_full || cut { looked_at } else { Some(main.high) },
        };
        Ok(Page {
            next: from.position.after_poll(&seen),
            // Every id up to main's has a txid below what main has seen; the settlement's own bounds it as well.
            as_of: from.as_of.to_owned(),
            more: late_full || cut,
            database_us: facts.database_us,
            last_id: None,
            unflushed: (facts.standbys || facts.written > facts.flushed).then_some(facts.written),
            rows: answer.rows,
            skipped: 0,
        })
    }

    async fn poll_now(
        &mut self,
        session: &mut Session,
        from: From<'_>,
        limits: &PageLimits,
        token: Uuid,
    ) -> Result<Page, StoreError> {
        let position = from.position;
        if from.short && from.idle {
            let query = session.call(include_str!("sql/poll_facts.sql")).bind(token);
            let facts = facts(&session.value::<String>("poll", query).await?)?;
            if facts.snapshot == position.snapshot {
                return page_of(from, limits, Answer { facts: Ok(facts), ..Answer::default() });
            }
        }
        let query = session
            .call(include_str!("sql/poll.sql"))
            .bind(&position.snapshot)
            .bind(position.high)
            .bind(limits.rows)
            .bind(limits.bytes)
            .bind(limits.max_row_bytes)
            .bind(token)
            .bind(from.short)
            .bind(from.as_of)
            .bind(from.skip)
            .bind(limits.ids());
        page_of(from, limits, self.collect(session, query).await?)
    }

    /// A page of a late set. Its rows were visible in an earlier poll of ours, whose barrier has made them durable.
    async fn poll_late(
        &mut self,
        session: &mut Session,
        from: From<'_>,
        limits: &PageLimits,
        token: Uuid,
        topic: Option<&str>,
    ) -> Result<Page, StoreError> {
        let position = from.position;
        let late = position.late.as_ref().expect("only called while late rows are paged");
        let query = session
            .call(include_str!("sql/poll_late.sql"))
            .bind(&position.snapshot)
            .bind(late.after)
            .bind(position.high)
            .bind(&late.snapshot)
            .bind(limits.rows)
            .bind(limits.bytes)
            .bind(limits.ids())
            .bind(limits.max_row_bytes)
            .bind(token)
            .bind(from.skip)
            .bind(topic);
        let answer = self.collect(session, query).await?;
        let facts = answer.facts?;
        Ok(Page {
            next: position.after_late_page(facts.last_id),
            as_of: from.as_of.to_owned(),
            more: true,
            database_us: facts.database_us,
            last_id: None,
            unflushed: None,
            rows: answer.rows,
            skipped: 0,
        })
    }

    async fn collect(&mut self, session: &mut Session, call: Call<'_>) -> Result<Answer, StoreError> {
        let names = &mut self.names;
        let mut answer = Answer::default();
        session
            .each("poll", call, |row| {
                match row::int4(row, 0)? {
                    Some(0) => answer.facts = facts(row::text(row, 3)?.unwrap_or_default()),
                    kind => {
                        if kind != Some(1) {
                            answer.skips = row::int8(row, 13)?.unwrap_or(0);
                        }
                        if kind == Some(3) {
                            answer.last_skipped = row::int8(row, 1)?;
                            return Ok(());
                        }
                        let upto = row::int8(row, 12)?.unwrap_or(0);
                        let outbox_row = row::outbox_row(row, 1, names)?;
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
                Ok(())
            })
            .await?;
        Ok(answer)
    }
}

/// What one poll of the main stream has found.
fn page_of(from: From<'_>, limits: &PageLimits, answer: Answer) -> Result<Page, StoreError> {
    let position = from.position;
    let facts = answer.facts?;
    refuse_a_younger_sequence(facts.last_id, position.high)?;
    let late_full = answer.late as i64 >= limits.rows || answer.late_bytes >= limits.bytes;
    let looked_at_all = answer.skips > 0 && answer.skips + answer.fresh as i64 >= limits.ids();
    let fresh_full =
        answer.fresh as i64 >= limits.rows || answer.fresh_bytes >= limits.bytes || looked_at_all;
    let seen = Seen {
        snapshot: facts.snapshot,
        last_late: answer.last_late,
        late_full,
        last_fresh: answer.last_fresh.max(answer.last_skipped),
    };
    let next = position.after_poll(&seen);
    // A row draws its txid before its id: whatever has an id up to `high` had its txid when `high` was seen.
    let as_of = if next.high > position.high { facts.next_txid } else { from.as_of.to_owned() };
    Ok(Page {
        next,
        as_of,
        more: late_full || fresh_full,
        database_us: facts.database_us,
        last_id: Some(facts.last_id),
        // What is on our disk may not be on a standby's.
        unflushed: (facts.standbys || facts.written > facts.flushed).then_some(facts.written),
        rows: answer.rows,
        skipped: answer.skips,
    })
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
    /// The last id looked at, if its row was skipped.
    last_skipped: Option<i64>,
    /// What the last fresh row says: ids skipped, or looked at.
    skips: i64,
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

/// `snapshot incarnation last_id written flushed clock next_txid cache standbys`, as `concat_ws` wrote them.
fn facts(text: &str) -> Result<Facts, StoreError> {
    let unreadable = || StoreError::Unusable(format!("the poll's facts cannot be read: {text}"));
    let fields: Vec<&str> = text.split(' ').collect();
    let [snapshot, incarnation, last_id, written, flushed, clock, next_txid, cache, standbys] = fields[..]
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
/// standbys, with them; and fails as [`Reader::poll`] does when the server is no longer the one that was read from: what it has
/// lost in a crash would be published. A commit made with `synchronous_commit = off` is visible before that, and what a crash could
/// still undo must not be published.
pub async fn flush_barrier(
    session: &mut Session,
    written: Option<i64>,
    token: Uuid,
) -> Result<(), StoreError> {
    const WHAT: &str = "read the flushed position";
    let Some(written) = written else { return Ok(()) };
    let read = |error| StoreError::from_sqlx(WHAT, error);
    let state = session.one(WHAT, session.call(include_str!("sql/flushed.sql")).bind(token)).await?;
    recognise(state.try_get("incarnation").map_err(read)?)?;
    let flushed: i64 = state.try_get("flushed").map_err(read)?;
    let standbys: bool = state.try_get("standbys").map_err(read)?;
    if flushed >= written && !standbys {
        return Ok(());
    }
    let flushed = session.one("flush", session.call(include_str!("sql/flush.sql")).bind(token)).await?;
    recognise(flushed.try_get("incarnation").map_err(read)?)
}

/// What an answer says of the server's incarnation.
fn recognise(incarnation: &str) -> Result<(), StoreError> {
    match incarnation {
        "ours" => Ok(()),
        // Only a takeover writes a token, so it was not the server that forgot ours.
        "other" => StoreError::deposed(),
        _ => Err(StoreError::Forgotten),
    }
}
