//! What operators look at: dead letters, topics, keys, requests, the lease.
//!
//! Owns the statements behind the commands that show something. Each row comes as a JSON document in text form, so that it reads
//! the same through a pooler, and becomes one of these types; with `--output json` a command prints them as they are. Times are
//! text in RFC 3339, keys are text or `base64:…`. Nothing here changes anything but `reveal`, which leaves a note.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;
use uuid::Uuid;

use super::call::Call;
use super::{Session, StoreError};

/// Dead letters that died of one cause.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.dead_letter_group")]
pub struct LetterGroup {
    pub fingerprint: String,
    pub reason: String,
    pub letters: i64,
    pub topics: Vec<String>,
    pub first_failed_at: String,
    pub last_failed_at: String,
    pub sample_id: i64,
    pub error: String,
}

/// A dead letter without its payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.dead_letter")]
pub struct Letter {
    pub id: i64,
    pub event_id: String,
    pub topic: String,
    pub key: Option<String>,
    pub reason: String,
    pub fingerprint: String,
    pub error: String,
    pub attempts: i64,
    /// How often it was requeued before.
    pub requeued: i64,
    pub state: String,
    pub created_at: String,
    pub first_failed_at: String,
    pub last_failed_at: String,
    pub dead_at: String,
    pub changed_at: Option<String>,
    pub copy_topic: Option<String>,
    pub copied_at: Option<String>,
}

/// What a filter names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is a count of what it says")]
pub struct LetterCount {
    pub letters: i64,
    pub topics: i64,
    pub causes: i64,
    /// Written so long ago that consumers may have forgotten them.
    pub beyond: i64,
}

/// Payload and headers of a row.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.message")]
pub struct Content {
    pub id: i64,
    /// None: a tombstone.
    pub payload_base64: Option<String>,
    pub headers: Option<Value>,
}

/// A request and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.request")]
pub struct RequestRow {
    pub id: i64,
    pub kind: String,
    pub topic: Option<String>,
    pub filter: Value,
    pub value: Option<Value>,
    pub pace: Option<i64>,
    pub why: Option<String>,
    pub who: String,
    pub asked_at: String,
    pub expires_at: Option<String>,
    pub state: String,
    /// Rows that are done.
    pub done: i64,
    pub error: Option<String>,
    pub begun_at: Option<String>,
    pub ended_at: Option<String>,
}

impl RequestRow {
    /// Nothing more will become of it.
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "asked" | "running")
    }
}

/// A topic of which something waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.backlog and outbox.open_lane")]
pub struct TopicRow {
    pub topic: String,
    /// Why it is read on its own, and since when its lane stands where it does.
    pub cause: Option<String>,
    pub since: Option<String>,
    /// In its lane, not read.
    pub waiting: i64,
    pub retrying: i64,
    pub behind: i64,
    pub scheduled: i64,
    pub oldest: Option<String>,
    pub dead_letters: i64,
}

/// A key that does not move.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.blocked_key")]
pub struct KeyRow {
    pub topic: String,
    pub key: Option<String>,
    pub head_id: i64,
    pub since: String,
    pub waiting: i64,
    pub attempts: i64,
    /// When the head is tried again; none: when its topic is well.
    pub due_at: Option<String>,
    pub error: Option<String>,
}

/// Who leads, and who led.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.lease and outbox.beat")]
pub struct LeaseRow {
    pub holder: Option<String>,
    pub epoch: i64,
    pub since: Option<String>,
    pub beat: i64,
    pub last_beat_at: String,
    /// The last ten leases that settled something, the newest first.
    pub history: Vec<Term>,
}

/// A lease that settled something.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is what it says")]
pub struct Term {
    pub epoch: i64,
    pub first_settled_at: String,
    pub last_settled_at: String,
    pub settlements: i64,
}

/// How the relay is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the metrics")]
pub struct Overview {
    pub holder: Option<String>,
    pub epoch: i64,
    pub since: Option<String>,
    /// Since the leader said that it is alive.
    pub beat_seconds: f64,
    /// Not read yet: an upper bound, exact at zero.
    pub ready: i64,
    pub retrying: i64,
    pub behind: i64,
    pub scheduled: i64,
    pub laned: i64,
    pub oldest: Option<String>,
    pub lag_seconds: f64,
    pub blocked_keys: i64,
    pub dead_letters: i64,
    pub causes: i64,
    pub oldest_dead_letter: Option<String>,
    pub open_requests: i64,
    pub maintenance: Option<Announced>,
}

/// Planned work that somebody has announced and nobody has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.request")]
pub struct Announced {
    pub request: i64,
    pub until: String,
    /// That is over, and a topic still stands.
    pub overdue: bool,
    pub who: String,
    pub why: Option<String>,
}

/// A leader that has said nothing for so many `lease.ttl` does not come back: a standby would have taken over after one.
const SILENT_TTLS: u32 = 3;

impl Overview {
    /// Whether the leader has been quiet for so long that it must be gone, and nobody has taken over. `ttl` is `lease.ttl`.
    pub fn is_silent(&self, ttl: Duration) -> bool {
        self.holder.is_some() && self.beat_seconds > (ttl * SILENT_TTLS).as_secs_f64()
    }
}

/// What a tired person looks at first: `outbox-relay status`, and the status page.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Who leads, what waits, what needs a person.
    #[serde(flatten)]
    pub overview: Overview,
    /// Nobody has heard of the leader for a few `lease.ttl`.
    pub silent: bool,
    /// Topics of which something waits.
    pub topics: Vec<TopicRow>,
    /// What operators have paused, paced or changed.
    pub in_effect: Vec<RequestRow>,
}

/// The life of a row.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.status and outbox.dead_letter")]
pub struct Life {
    pub id: i64,
    /// None, like all else about it: the row left its slot with the others that are old.
    pub event_id: Option<String>,
    pub topic: Option<String>,
    pub created_at: Option<String>,
    pub state: String,
    pub attempts: Option<i64>,
    pub due_at: Option<String>,
    pub error: Option<String>,
    pub behind_id: Option<i64>,
    pub dead_since: Option<String>,
    pub requeued: i64,
    pub changed_at: Option<String>,
    pub failed: Vec<FailedAttempt>,
    /// More than once: after a crash, a takeover, a requeue.
    pub published: Vec<Publication>,
    /// Copies that operators have asked for.
    pub replayed: Vec<Replay>,
}

/// A copy of a published row that has gone out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.ledger.replayed and outbox.receipt")]
pub struct Replay {
    pub at: String,
    pub request: i64,
    pub topic: String,
    pub partition: Option<i64>,
    pub offset: Option<i64>,
}

/// An attempt that Kafka did not confirm.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.attempt")]
pub struct FailedAttempt {
    pub at: String,
    pub class: String,
    pub error: Option<String>,
}

/// A settlement that names the row as published.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.ledger and outbox.receipt")]
pub struct Publication {
    pub at: String,
    pub epoch: i64,
    pub partition: Option<i64>,
    /// None: Kafka confirmed a duplicate without saying where the first one is.
    pub offset: Option<i64>,
}

/// Which rows `find` is after.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// The event id.
    Event(Uuid),
    /// Topic and key, which is text.
    Key(String, String),
}

/// Which dead letters are meant; the same fields as in `outbox.request.filter`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names are those of the filter")]
pub struct LetterFilter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Times as Postgres reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_until: Option<String>,
}

impl LetterFilter {
    /// No condition at all.
    pub fn is_empty(&self) -> bool {
        *self == LetterFilter::default()
    }

    /// Gives the next seven `$n` their values; null is no condition.
    fn bind<'q>(&self, call: Call<'q>) -> Call<'q> {
        call.bind((!self.ids.is_empty()).then(|| self.ids.clone()))
            .bind(self.fingerprint.clone())
            .bind(self.topic.clone())
            .bind(self.key.clone())
            .bind(self.key_base64.clone())
            .bind(self.dead_from.clone())
            .bind(self.dead_until.clone())
    }
}

/// Open dead letters by cause, the most first.
pub async fn letter_groups(session: &mut Session) -> Result<Vec<LetterGroup>, StoreError> {
    let call = session.call(include_str!("sql/letter_groups.sql"));
    documents(session, "read the groups of dead letters", call).await
}

/// At most `limit` dead letters of these states behind id `after`.
pub async fn letters(
    session: &mut Session,
    filter: &LetterFilter,
    states: &[String],
    after: i64,
    limit: i64,
) -> Result<Vec<Letter>, StoreError> {
    let call = session.call(include_str!("sql/letter_list.sql")).bind(after).bind(limit);
    documents(session, "read dead letters", filter.bind(call).bind(states.to_vec())).await
}

/// How many open dead letters the filter names; `window` is how long consumers remember messages.
pub async fn count_letters(
    session: &mut Session,
    filter: &LetterFilter,
    window: Duration,
) -> Result<LetterCount, StoreError> {
    let call = session.call(include_str!("sql/letter_count.sql"));
    document(session, "count dead letters", filter.bind(call).bind(window.as_secs_f64())).await
}

/// Payloads and headers of rows, and a note of who read them.
pub async fn reveal(
    session: &mut Session,
    ids: &[i64],
    why: Option<&str>,
) -> Result<Vec<Content>, StoreError> {
    let call = session.call(include_str!("sql/reveal.sql")).bind(ids.to_vec()).bind(why.map(str::to_owned));
    documents(session, "read payloads", call).await
}

/// At most `limit` requests of these states below number `below`, the newest first.
pub async fn requests(
    session: &mut Session,
    states: &[String],
    below: i64,
    limit: i64,
) -> Result<Vec<RequestRow>, StoreError> {
    let call =
        session.call(include_str!("sql/request_list.sql")).bind(limit).bind(below).bind(states.to_vec());
    documents(session, "read requests", call).await
}

/// Pauses, rates and policies that operators have asked for and that are in effect, the newest first.
pub async fn in_effect(session: &mut Session) -> Result<Vec<RequestRow>, StoreError> {
    let mut running = requests(session, &["running".to_owned()], i64::MAX, 1000).await?;
    running.retain(|request| matches!(request.kind.as_str(), "pause" | "rate" | "policy"));
    Ok(running)
}

/// Announcements of planned work that nobody has ended, the newest first.
pub async fn announced(session: &mut Session) -> Result<Vec<RequestRow>, StoreError> {
    let mut open = requests(session, &["asked", "running"].map(str::to_owned), i64::MAX, 1000).await?;
    open.retain(|request| request.kind == "maintenance");
    Ok(open)
}

/// Topics of which something waits.
pub async fn topics(session: &mut Session) -> Result<Vec<TopicRow>, StoreError> {
    let call = session.call(include_str!("sql/topic_list.sql"));
    documents(session, "read what waits", call).await
}

/// At most `limit` blocked keys, of one topic if it is given.
pub async fn blocked_keys(
    session: &mut Session,
    topic: Option<&str>,
    limit: i64,
) -> Result<Vec<KeyRow>, StoreError> {
    let call = session.call(include_str!("sql/key_list.sql")).bind(limit).bind(topic.map(str::to_owned));
    documents(session, "read blocked keys", call).await
}

/// Who leads.
pub async fn lease(session: &mut Session) -> Result<LeaseRow, StoreError> {
    let call = session.call(include_str!("sql/lease_show.sql"));
    document(session, "read the lease", call).await
}

/// How the relay is.
pub async fn overview(session: &mut Session) -> Result<Overview, StoreError> {
    let call = session.call(include_str!("sql/overview.sql"));
    document(session, "read how the relay is", call).await
}

/// How the relay is, with its topics and what is in effect. `ttl` is `lease.ttl`.
pub async fn status(session: &mut Session, ttl: Duration) -> Result<Status, StoreError> {
    let overview = overview(session).await?;
    Ok(Status {
        silent: overview.is_silent(ttl),
        overview,
        topics: topics(session).await?,
        in_effect: in_effect(session).await?,
    })
}

/// Ids of rows written within this time, the newest first, at most `limit`.
pub async fn find(
    session: &mut Session,
    wanted: &Wanted,
    within: Duration,
    limit: i64,
) -> Result<Vec<i64>, StoreError> {
    let (event, topic, key) = match wanted.clone() {
        Wanted::Event(event) => (Some(event), None, None),
        Wanted::Key(topic, key) => (None, Some(topic), Some(key)),
    };
    let call = session.call(include_str!("sql/message_find.sql")).bind(event).bind(topic).bind(key);
    let call = call.bind(within.as_secs_f64()).bind(limit);
    documents(session, "look for messages", call).await
}

/// The life of a row, if anything is left of it.
pub async fn life(session: &mut Session, id: i64) -> Result<Option<Life>, StoreError> {
    let call = session.call(include_str!("sql/message_life.sql")).bind(id);
    Ok(documents(session, "read what became of a message", call).await?.pop())
}

pub(super) async fn documents<T: DeserializeOwned>(
    session: &mut Session,
    what: &'static str,
    call: Call<'_>,
) -> Result<Vec<T>, StoreError> {
    let rows = session.all(what, call).await?;
    rows.iter().map(|row| parse(what, row)).collect()
}

pub(super) async fn document<T: DeserializeOwned>(
    session: &mut Session,
    what: &'static str,
    call: Call<'_>,
) -> Result<T, StoreError> {
    parse(what, &session.one(what, call).await?)
}

fn parse<T: DeserializeOwned>(what: &'static str, row: &sqlx::postgres::PgRow) -> Result<T, StoreError> {
    let failed = |error| StoreError::from_sqlx(what, error);
    let text: String = row.try_get(0).map_err(failed)?;
    serde_json::from_str(&text).map_err(|error| failed(sqlx::Error::Decode(error.into())))
}
