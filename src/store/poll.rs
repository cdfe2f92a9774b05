//! Reading: one poll is one statement and therefore one snapshot.
//!
//! Owns the statements that read `outbox.message` for publishing, and the flush barrier. Does not decide when to poll.

mod answer;

use sqlx::Row;
use uuid::Uuid;

use self::answer::{Answer, Facts, facts, recognise};
use super::call::Call;
use super::row::TopicNames;
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
    /// Rows or bytes have cut it, not the number of ids to look at.
    pub full: bool,
    /// Database clock, microseconds since 1970.
    pub database_us: i64,
    /// Ids behind the page that may have rows: those up to `high` that a late set has left, and those drawn above it, which are
    /// not looked at while a late set is paged. `None`: a lane's page, which knows only where main stands.
    pub behind: Option<i64>,
    /// WAL position that covers every commit in the page; `None` when it was on disk already.
    pub unflushed: Option<i64>,
    /// Rows that were skipped because their topic has a lane.
    pub skipped: i64,
    /// What a late set consists of that is too large for one poll, on the page that found it; such a page has no rows.
    pub late_set: Vec<LateTopic>,
}

/// Part of a large late set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateTopic {
    /// One topic of the set.
    pub topic: String,
    /// Rows of the topic in the whole set.
    pub rows: i64,
}

/// State of the reader that outlives a poll.
#[derive(Debug, Default)]
pub struct Reader {
    names: TopicNames,
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
        let full = answer.is_full(limits);
        let facts = answer.facts?;
        if facts.late_set {
            return begin_late_set(session, from, facts, Some(topic)).await;
        }
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
            full,
            database_us: facts.database_us,
            behind: None,
            unflushed: facts.unflushed(),
            rows: answer.rows,
            skipped: 0,
            late_set: Vec::new(),
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
        match self.collect(session, query).await? {
            Answer { facts: Ok(facts), .. } if facts.late_set => {
                begin_late_set(session, from, facts, None).await
            }
            answer => page_of(from, limits, answer),
        }
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
        let full = answer.is_full(limits);
        let facts = answer.facts?;
        let looked_at = answer.last_late.max(answer.last_skipped).unwrap_or(position.high);
        let next = position.after_late_page(looked_at);
        Ok(Page {
            behind: topic.is_none().then(|| next.left_of_late()),
            next,
            as_of: from.as_of.to_owned(),
            more: true,
            full,
            database_us: facts.database_us,
            unflushed: None,
            rows: answer.rows,
            skipped: if topic.is_none() { answer.skips } else { 0 },
            late_set: Vec::new(),
        })
    }

    async fn collect(&mut self, session: &mut Session, call: Call<'_>) -> Result<Answer, StoreError> {
        let names = &mut self.names;
        let mut answer = Answer::default();
        session.each("poll", call, |row| answer.take(row, names)).await?;
        Ok(answer)
    }
}

/// A late set that is too large for one poll: where it begins, and what it consists of. `topic`: the lane's.
async fn begin_late_set(
    session: &mut Session,
    from: From<'_>,
    facts: Facts,
    topic: Option<&str>,
) -> Result<Page, StoreError> {
    const WHAT: &str = "read what a late set consists of";
    let position = from.position;
    let call = session
        .call(include_str!("sql/late_set.sql"))
        .bind(&position.snapshot)
        .bind(position.high)
        .bind(&facts.snapshot)
        .bind(from.as_of)
        .bind(from.skip)
        .bind(topic);
    let (mut first, mut late_set) = (position.high, Vec::new());
    for row in session.all(WHAT, call).await? {
        let read = |error| StoreError::from_sqlx(WHAT, error);
        first = first.min(row.try_get("first").map_err(read)?);
        late_set.push(LateTopic {
            topic: row.try_get("topic").map_err(read)?,
            rows: row.try_get("rows").map_err(read)?,
        });
    }
    let next = position.at_late_set(facts.snapshot.clone(), first);
    Ok(Page {
        behind: topic.is_none().then(|| next.left_of_late() + facts.last_id - next.high),
        next,
        as_of: from.as_of.to_owned(),
        more: true,
        full: false,
        database_us: facts.database_us,
        unflushed: facts.unflushed(),
        rows: Vec::new(),
        skipped: 0,
        late_set,
    })
}

/// What one poll of the main stream has found.
fn page_of(from: From<'_>, limits: &PageLimits, answer: Answer) -> Result<Page, StoreError> {
    let position = from.position;
    let full = answer.is_full(limits);
    let facts = answer.facts?;
    let unflushed = facts.unflushed();
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
        behind: Some(next.left_of_late() + facts.last_id - next.high),
        next,
        as_of,
        more: late_full || fresh_full,
        full,
        database_us: facts.database_us,
        unflushed,
        rows: answer.rows,
        skipped: answer.skips,
        late_set: Vec::new(),
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
