//! Requests: what operators ask of the relay, and what it reports on it.
//!
//! Owns the leader's statements on `outbox.request` and the pages of dead letters that a request names. How requests are made is
//! `ask.rs`; what is done about them is `relay/requests.rs`.

use std::sync::Arc;

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::row::{self, TopicNames};
use super::{Session, StoreError};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Dead letters are sent again.
    Requeue,
    /// Dead letters are given up.
    Discard,
    /// A topic stands still.
    Pause,
    /// It goes on.
    Resume,
    /// Records a second, of a topic or of all.
    Rate,
    /// Another policy of some topics.
    Policy,
    /// Another request ends.
    Cancel,
    /// Rows that wait for their next try are tried now.
    RetryNow,
    /// The first message of a key becomes a dead letter.
    SkipHead,
    /// The later messages of a key pass the first one.
    Release,
    /// The leader steps down.
    Resign,
    /// Published rows go out again.
    Replay,
    /// The same, of rows whose record is missing.
    Repair,
    /// Planned work is announced.
    Maintenance,
}

/// As `outbox.request.kind` spells them.
const KINDS: [(&str, Kind); 14] = [
    ("requeue", Kind::Requeue),
    ("discard", Kind::Discard),
    ("pause", Kind::Pause),
    ("resume", Kind::Resume),
    ("rate", Kind::Rate),
    ("policy", Kind::Policy),
    ("cancel", Kind::Cancel),
    ("retry_now", Kind::RetryNow),
    ("skip_head", Kind::SkipHead),
    ("release", Kind::Release),
    ("resign", Kind::Resign),
    ("replay", Kind::Replay),
    ("repair", Kind::Repair),
    ("maintenance", Kind::Maintenance),
];

impl Kind {
    fn named(word: &str) -> Option<Kind> {
        KINDS.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    }
}

/// Rows of a topic, of one key if it is given.
#[derive(Debug)]
pub struct OfKey<'r> {
    topic: &'r str,
    key: Option<&'r str>,
    key_base64: Option<&'r str>,
}

impl<'r> OfKey<'r> {
    /// Those that the request names.
    pub fn of(request: &'r Request) -> OfKey<'r> {
        let text = |name: &str| request.value.get(name).and_then(Value::as_str);
        OfKey {
            topic: request.topic.as_deref().unwrap_or_default(),
            key: text("key"),
            key_base64: text("key_base64"),
        }
    }
}

/// What a look at the requests finds.
#[derive(Debug, Default)]
pub struct Look {
    /// Requests that are not over, oldest first.
    pub open: Vec<Request>,
    /// A dead letter is owed to the topic that gets a copy of it.
    pub copies: bool,
}

/// A request that is not over.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number.
    pub id: i64,
    /// What is asked for; `None`: this binary does not know.
    pub kind: Option<Kind>,
    /// The topic, or a pattern of topics.
    pub topic: Option<String>,
    /// Which dead letters.
    pub filter: Value,
    /// The rate or the policy.
    pub value: Value,
    /// Rows a second.
    pub pace: Option<u32>,
    /// The leader has begun with it.
    pub is_running: bool,
    /// Rows that are done.
    pub done: i64,
    /// The last dead letter that is done, or was looked at and is not meant.
    pub last_id: i64,
    /// When it was asked, as Postgres reads it in every time zone. Letters that died later are not meant.
    pub asked_at: String,
    /// Its time is over.
    pub expired: bool,
}

impl Request {
    /// Its kind, for people.
    pub fn kind_word(&self) -> &'static str {
        KINDS.iter().find(|(_, kind)| Some(*kind) == self.kind).map_or("unknown", |(word, _)| word)
    }

    /// The request that it ends.
    pub fn cancels(&self) -> Option<i64> {
        (self.kind == Some(Kind::Cancel)).then(|| self.value.get("request").and_then(Value::as_i64))?
    }
}

/// What a request has come to, as `outbox.request.state` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the words of the column")]
pub enum Progress {
    Running,
    Done,
    Expired,
    Refused,
}

impl Progress {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Progress::Running => "running",
            Progress::Done => "done",
            Progress::Expired => "expired",
            Progress::Refused => "refused",
        }
    }
}

/// A dead letter that a request names: id, topic, key.
pub type Letter = (i64, Arc<str>, Option<Box<[u8]>>);

/// Reads the requests that are not over, and whether copies are owed.
pub async fn look(session: &mut Session) -> Result<Look, StoreError> {
    const WHAT: &str = "read the requests";
    let rows = session.all(WHAT, session.call(include_str!("sql/requests.sql"))).await?;
    let read = || -> Result<Look, sqlx::Error> {
        let mut look = Look::default();
        for row in &rows {
            look.copies = row.try_get("copies")?;
            if row.try_get::<Option<i64>, _>("id")?.is_some() {
                look.open.push(request(row)?);
            }
        }
        Ok(look)
    };
    read().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

fn request(row: &PgRow) -> Result<Request, sqlx::Error> {
    let json = |name| -> Result<Value, sqlx::Error> {
        let text: Option<String> = row.try_get(name)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null))
    };
    Ok(Request {
        id: row.try_get("id")?,
        kind: Kind::named(row.try_get("kind")?),
        topic: row.try_get("topic")?,
        filter: json("filter")?,
        value: json("value")?,
        pace: row.try_get::<Option<i32>, _>("pace")?.map(|pace| pace.max(1) as u32),
        is_running: row.try_get::<&str, _>("state")? == "running",
        done: row.try_get("done")?,
        last_id: row.try_get("last_id")?,
        asked_at: row.try_get("asked_at")?,
        expired: row.try_get("expired")?,
    })
}

/// Reports on a request: its state, that letters up to `last_id` are dealt with, and what went wrong; one that is over stays over.
/// Fails with [`StoreError::LeaseLost`] when the lease is no longer ours. How many rows are done is written by their settlement.
pub async fn report(
    session: &mut Session,
    epoch: i64,
    request: i64,
    progress: Progress,
    last_id: i64,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let query = session
        .call(include_str!("sql/request_progress.sql"))
        .bind(epoch)
        .bind(request)
        .bind(progress.as_str())
        .bind(last_id)
        .bind(error);
    let row = session.maybe("report on a request", query).await?;
    row.map(|_| ()).ok_or(StoreError::LeaseLost)
}

/// Ends request `ended`, because request `cancel` asks for it. Returns whether there was something to end. Fails with
/// [`StoreError::LeaseLost`] when the lease is no longer ours.
pub async fn cancel(session: &mut Session, epoch: i64, cancel: i64, ended: i64) -> Result<bool, StoreError> {
    let query = session.call(include_str!("sql/cancel_request.sql")).bind(epoch).bind(cancel).bind(ended);
    const WHAT: &str = "cancel a request";
    let row = session.maybe(WHAT, query).await?.ok_or(StoreError::LeaseLost)?;
    row.try_get(0).map(|state: &str| state == "done").map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// The message that a key waits for, if one is in its way.
pub async fn head(session: &mut Session, of: &OfKey<'_>) -> Result<Option<i64>, StoreError> {
    const WHAT: &str = "look for the head of a key";
    let call = session.call(include_str!("sql/key_head.sql")).bind(of.topic).bind(of.key).bind(of.key_base64);
    let row = session.maybe(WHAT, call).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Whether later rows may pass this deferred row. `None`: it is gone.
pub async fn head_is_passable(session: &mut Session, id: i64) -> Result<Option<bool>, StoreError> {
    const WHAT: &str = "look at the head of a key";
    let call = session.call(include_str!("sql/key_waits.sql")).bind(id);
    let row = session.maybe(WHAT, call).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Rows that wait for their next try, or only row `id`, are due now. Returns how many. Fails with [`StoreError::LeaseLost`] when
/// the lease is no longer ours.
pub async fn retry_now(
    session: &mut Session,
    epoch: i64,
    of: &OfKey<'_>,
    id: Option<i64>,
) -> Result<i64, StoreError> {
    const WHAT: &str = "make rows due";
    let call = session.call(include_str!("sql/key_retry_now.sql")).bind(epoch).bind(of.topic);
    let call = call.bind(of.key).bind(of.key_base64).bind(id);
    let row = session.maybe(WHAT, call).await?.ok_or(StoreError::LeaseLost)?;
    row.try_get(0).map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Some of the letters that a request names, in order of id.
#[derive(Debug, Default)]
pub struct LetterPage {
    /// They are open.
    pub letters: Vec<Letter>,
    /// How far was looked, if the letters are fewer than were asked for. `None`: there are no more.
    pub looked_to: Option<i64>,
}

/// Reads the next open dead letters that a request names, behind `after`: at most `rows`, out of the next `looks`. Fails with
/// [`StoreError::Failed`] on a filter that Postgres cannot read.
pub async fn letters(
    session: &mut Session,
    request: &Request,
    after: i64,
    rows: i64,
    looks: i64,
) -> Result<LetterPage, StoreError> {
    let text = |name: &str| request.filter.get(name).and_then(Value::as_str);
    let ids = request.filter.get("ids").and_then(Value::as_array);
    let ids = ids.map(|ids| ids.iter().filter_map(Value::as_i64).collect::<Vec<i64>>());
    let query = session
        .call(include_str!("sql/letters.sql"))
        .bind(after)
        .bind(rows)
        .bind(ids)
        .bind(text("fingerprint"))
        .bind(text("topic"))
        .bind(text("key"))
        .bind(text("key_base64"))
        .bind(text("dead_from"))
        .bind(text("dead_until"))
        .bind(looks)
        .bind(&request.asked_at);
    let mut names = TopicNames::default();
    let mut found = LetterPage::default();
    session
        .each("read dead letters", query, |row| {
            let id = row::int8(row, 0)?;
            if !row::flag(row, 3)? {
                found.looked_to = id;
                return Ok(());
            }
            let topic = names.share(row::text(row, 1)?.unwrap_or_default());
            let key = row::bytes(row, 2)?.map(Box::from);
            found.letters.push((id.unwrap_or(0), topic, key));
            Ok(())
        })
        .await?;
    Ok(found)
}
