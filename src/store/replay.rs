//! Published rows that an operator wants to be sent again: which they are, and which of them retention has left.
//!
//! Owns the statements; what is done about a request is `relay/requests/letters.rs`, how it is asked `ops/replay.rs`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Row;

use super::request::{Kind, Letter, LetterPage, Request};
use super::row::{self, TopicNames};
use super::{Session, StoreError};

/// Which published rows are meant; the same fields as in `outbox.request.filter`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are those of the filter")]
pub struct RowFilter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_id: Option<i64>,
    /// Times as Postgres reads them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
}

impl RowFilter {
    /// That of a request. The schema has refused what is none.
    pub fn of(request: &Request) -> RowFilter {
        serde_json::from_value(request.filter.clone()).unwrap_or_default()
    }

    /// No condition at all.
    pub fn is_empty(&self) -> bool {
        RowFilter { max: None, ..self.clone() } == RowFilter::default()
    }

    fn ids(&self) -> Option<Vec<i64>> {
        (!self.ids.is_empty()).then(|| self.ids.clone())
    }
}

/// What a request to send rows again asks for beside its filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Another topic.
    pub to: Option<Arc<str>>,
    /// Whoever asked knows that consumers may have forgotten these rows.
    pub beyond_window: bool,
}

impl Terms {
    /// Those of a request.
    pub fn of(request: &Request) -> Terms {
        Terms {
            to: request.value.get("to").and_then(Value::as_str).map(Arc::from),
            beyond_window: request.value.get("beyond_window").and_then(Value::as_bool).unwrap_or(false),
        }
    }
}

/// What a filter names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is a count of what it says")]
pub struct RowCount {
    pub rows: i64,
    pub topics: i64,
    pub first_id: Option<i64>,
    pub last_id: Option<i64>,
    /// Written so long ago that consumers may have forgotten them.
    pub beyond: i64,
}

/// What retention has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// The row from which on nothing has been removed: its id and when it was written (RFC 3339). None: there is none.
    pub first: Option<(i64, String)>,
    /// Rows that the filter may mean have been removed.
    pub removed: bool,
    /// Ids that it names and that are not there.
    pub missing: Vec<i64>,
}

impl Horizon {
    /// Why the request cannot be carried out as it is, if that is so.
    pub fn refusal(&self) -> Option<String> {
        let from = match &self.first {
            Some((id, at)) => format!("everything is there from id {id} on, written at {at}"),
            None => "no row is left".to_owned(),
        };
        match &*self.missing {
            [] if self.removed => {
                Some(format!("some of these rows have been removed (retention.published); {from}"))
            }
            [] => None,
            [id] => Some(format!(
                "message {id} is not there: rolled back, or removed (retention.published); {from}"
            )),
            [id, ..] => Some(format!(
                "{} of these messages are not there, the first is {id}: rolled back, or removed (retention.published); {from}",
                self.missing.len()
            )),
        }
    }
}

/// Reads the next published rows that a request names, behind `after`: at most `rows`, out of the next `looks`. Rows that were
/// written longer ago than consumers remember (`window`) are passed over, unless the request means them. Fails with
/// [`StoreError::Failed`] on a filter that Postgres cannot read.
pub async fn page(
    session: &mut Session,
    request: &Request,
    window: Duration,
    after: i64,
    rows: i64,
    looks: i64,
) -> Result<LetterPage, StoreError> {
    let filter = RowFilter::of(request);
    // What is missing was never seen, however old it is.
    let is_bounded = request.kind != Some(Kind::Repair) && !Terms::of(request).beyond_window;
    let window = is_bounded.then_some(window.as_secs_f64());
    let query = session
        .call(include_str!("sql/replay_page.sql"))
        .bind(after)
        .bind(rows)
        .bind(filter.ids())
        .bind(filter.topic)
        .bind(filter.key)
        .bind(filter.key_base64)
        .bind(filter.written_from)
        .bind(filter.written_until)
        .bind(&request.asked_at)
        .bind(looks)
        .bind(filter.from_id)
        .bind(filter.until_id)
        .bind(window);
    let mut names = TopicNames::default();
    let mut found = LetterPage::default();
    session
        .each("read published rows", query, |row| {
            let id = row::int8(row, 0)?;
            if !row::flag(row, 3)? {
                found.looked_to = id;
                return Ok(());
            }
            let topic = names.share(row::text(row, 1)?.unwrap_or_default());
            let letter: Letter = (id.unwrap_or(0), topic, row::bytes(row, 2)?.map(Box::from));
            found.letters.push(letter);
            Ok(())
        })
        .await?;
    Ok(found)
}

/// How many published rows a filter names; `window` is how long consumers remember them.
pub async fn count(
    session: &mut Session,
    filter: &RowFilter,
    window: Duration,
) -> Result<RowCount, StoreError> {
    const WHAT: &str = "count published rows";
    let filter = filter.clone();
    let call = session
        .call(include_str!("sql/replay_count.sql"))
        .bind(filter.ids())
        .bind(filter.topic)
        .bind(filter.key)
        .bind(filter.key_base64)
        .bind(filter.written_from)
        .bind(filter.written_until)
        .bind(filter.from_id)
        .bind(filter.until_id)
        .bind(window.as_secs_f64());
    super::inspect::document(session, WHAT, call).await
}

/// Looks how much of what a filter names is left.
pub async fn horizon(session: &mut Session, filter: &RowFilter) -> Result<Horizon, StoreError> {
    const WHAT: &str = "look what is left of published rows";
    let failed = |error| StoreError::from_sqlx(WHAT, error);
    let bounded = filter.from_id.is_some() || filter.written_from.is_some();
    let call = session
        .call(include_str!("sql/replay_horizon.sql"))
        .bind(filter.from_id.unwrap_or(1))
        .bind(filter.ids.clone());
    let row = session.one(WHAT, call).await?;
    let first_id: Option<i64> = row.try_get("first_id").map_err(failed)?;
    let first_at: Option<String> = row.try_get("first_at").map_err(failed)?;
    let mut removed: bool = bounded && row.try_get::<bool, _>("removed").map_err(failed)?;
    let missing: Vec<i64> = row.try_get("missing").map_err(failed)?;
    if let (true, Some(from), Some(first)) = (removed, &filter.written_from, &first_at) {
        let call = session.call(include_str!("sql/is_before.sql")).bind(from.clone()).bind(first.clone());
        removed = session.value(WHAT, call).await?;
    }
    Ok(Horizon { first: first_id.zip(first_at), removed, missing })
}

/// Ids follow the clock, give or take a moment: so many seconds are left for that.
pub const SLACK_SECONDS: f64 = 60.0;

/// The highest id that is left; 0: no row is.
pub async fn last_id(session: &mut Session) -> Result<i64, StoreError> {
    session.value("look for the newest row", session.call(include_str!("sql/last_id.sql"))).await
}

/// The lowest id of the rows written at `time` (as Postgres reads it) and so many seconds, or later; behind the newest one if there
/// is none. A few dozen index probes, however many rows there are.
pub async fn first_id_since(session: &mut Session, time: &str, seconds: f64) -> Result<i64, StoreError> {
    const WHAT: &str = "look for the first row of a time";
    let failed = |error| StoreError::from_sqlx(WHAT, error);
    let call = session.call(include_str!("sql/unix_seconds.sql")).bind(time.to_owned());
    let since: f64 = session.value::<f64>(WHAT, call).await? + seconds;
    let (mut low, mut high) = (0, last_id(session).await?.saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        let found =
            session.maybe(WHAT, session.call(include_str!("sql/row_behind.sql")).bind(middle)).await?;
        let Some(row) = found else {
            high = middle;
            continue;
        };
        let (id, written): (i64, f64) =
            (row.try_get("id").map_err(failed)?, row.try_get("written").map_err(failed)?);
        if written >= since {
            high = middle;
        } else {
            low = id + 1;
        }
    }
    Ok(low)
}

/// A point in time as Postgres reads it: the text itself, or so long ago if it is a duration.
pub fn time(text: &str) -> String {
    match humantime::parse_duration(text) {
        Ok(ago) => {
            let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
            humantime::format_rfc3339_micros(at.max(SystemTime::UNIX_EPOCH)).to_string()
        }
        Err(_) => text.to_owned(),
    }
}
