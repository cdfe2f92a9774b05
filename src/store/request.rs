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
    /// The end of another request.
    Cancel,
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
    /// The last dead letter that is done.
    pub last_id: i64,
    /// Dead letters of the page that was begun with; none, if that is done.
    pub planned: i64,
    /// The last one of that page.
    pub planned_id: i64,
    /// When it was asked, as Postgres writes it. Letters that died later are not meant.
    pub asked_at: String,
    /// Its time is over.
    pub expired: bool,
}

/// What a request has come to, as `outbox.request.state` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the words of the column")]
pub enum Progress {
    Running,
    Done,
    Expired,
    Refused,
    Cancelled,
}

impl Progress {
    fn as_str(self) -> &'static str {
        match self {
            Progress::Running => "running",
            Progress::Done => "done",
            Progress::Expired => "expired",
            Progress::Refused => "refused",
            Progress::Cancelled => "cancelled",
        }
    }
}

/// A dead letter that a request names: id, topic, key.
pub type Letter = (i64, Arc<str>, Option<Box<[u8]>>);

/// Reads the requests that are not over, oldest first.
pub async fn open(session: &mut Session) -> Result<Vec<Request>, StoreError> {
    const WHAT: &str = "read the requests";
    let rows = session
        .within(WHAT, async |c| sqlx::query(include_str!("sql/requests.sql")).fetch_all(c).await)
        .await?;
    let requests: Result<Vec<Request>, sqlx::Error> = rows.iter().map(request).collect();
    requests.map_err(|e| StoreError::from_sqlx(WHAT, e))
}

fn request(row: &PgRow) -> Result<Request, sqlx::Error> {
    let json = |name| -> Result<Value, sqlx::Error> {
        let text: Option<String> = row.try_get(name)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null))
    };
    Ok(Request {
        id: row.try_get("id")?,
        kind: match row.try_get("kind")? {
            "requeue" => Some(Kind::Requeue),
            "discard" => Some(Kind::Discard),
            "pause" => Some(Kind::Pause),
            "resume" => Some(Kind::Resume),
            "rate" => Some(Kind::Rate),
            "policy" => Some(Kind::Policy),
            "cancel" => Some(Kind::Cancel),
            _ => None,
        },
        topic: row.try_get("topic")?,
        filter: json("filter")?,
        value: json("value")?,
        pace: row.try_get::<Option<i32>, _>("pace")?.map(|pace| pace.max(1) as u32),
        is_running: row.try_get::<&str, _>("state")? == "running",
        done: row.try_get("done")?,
        last_id: row.try_get("last_id")?,
        planned: row.try_get::<i32, _>("planned")?.into(),
        planned_id: row.try_get("planned_id")?,
        asked_at: row.try_get("asked_at")?,
        expired: row.try_get("expired")?,
    })
}

/// What is reported on a request. All of it is absolute, so that a report may be repeated.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its state.
    pub progress: Progress,
    /// Rows done.
    pub done: i64,
    /// The last one of them.
    pub last_id: i64,
    /// Rows of the page that is begun with now.
    pub planned: i64,
    /// The last one of those.
    pub planned_id: i64,
    /// What went wrong.
    pub error: Option<String>,
}

impl Report {
    /// A request is in this state, and has come no further.
    pub fn of(request: &Request, progress: Progress) -> Report {
        let (done, last_id) = (request.done, request.last_id);
        Report { progress, done, last_id, planned: 0, planned_id: 0, error: None }
    }
}

/// Reports on a request; one that is over stays over. Fails with [`StoreError::LeaseLost`] when the lease is no longer ours.
pub async fn report(
    session: &mut Session,
    epoch: i64,
    request: i64,
    report: &Report,
) -> Result<(), StoreError> {
    let query = sqlx::query(include_str!("sql/request_progress.sql"))
        .bind(epoch)
        .bind(request)
        .bind(report.progress.as_str())
        .bind(report.done)
        .bind(report.last_id)
        .bind(report.planned as i32)
        .bind(report.planned_id)
        .bind(&report.error);
    let row = session.within("report on a request", async |c| query.fetch_optional(c).await).await?;
    row.map(|_| ()).ok_or(StoreError::LeaseLost)
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
    let query = sqlx::query(include_str!("sql/letters.sql"))
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
    session
        .within("read dead letters", async |connection| {
            let mut found = LetterPage::default();
            for row in query.fetch_all(connection).await? {
                let id = row::int8(&row, 0)?;
                if !row.try_get::<bool, _>("is_letter")? {
                    found.looked_to = id;
                    continue;
                }
                let topic = names.share(row::text(&row, 1)?.unwrap_or_default());
                let key = row::bytes(&row, 2)?.map(Box::from);
                found.letters.push((id.unwrap_or(0), topic, key));
            }
            Ok(found)
        })
        .await
}
