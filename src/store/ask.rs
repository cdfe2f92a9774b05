//! For operators' programs in Rust: a request, and `ask`, which writes it.
//!
//! A typed door to `outbox.request` in the schema, which holds the rules. Needs no relay, no Kafka client and no
//! configuration; a login that is a member of `outbox_admin` is enough. The leader carries requests out (`relay/requests.rs`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::Session;
use super::call::Call;

const ASK: &str = include_str!("sql/ask.sql");

/// Which dead letters are meant, of those that are open when it is asked. All conditions hold together.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "letters do nothing until something is asked about them"]
pub struct Letters(Map<String, Value>);

impl Letters {
    /// Those of a filter as `outbox.request` takes it.
    pub(crate) fn of_filter(filter: Map<String, Value>) -> Letters {
        Letters(filter)
    }

    fn only(name: &str, value: Value) -> Letters {
        Letters(Map::from_iter([(name.to_owned(), value)]))
    }

    fn and(mut self, name: &str, value: Value) -> Letters {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Every open one.
    pub fn all() -> Letters {
        Letters::only("dead_until", json!("now"))
    }

    /// Those with these ids, at most ten thousand.
    pub fn with_ids(ids: &[i64]) -> Letters {
        Letters::only("ids", json!(ids))
    }

    /// Those that died of one cause.
    pub fn of_cause(fingerprint: &str) -> Letters {
        Letters::only("fingerprint", json!(fingerprint))
    }

    /// Those of a topic.
    pub fn of_topic(topic: &str) -> Letters {
        Letters::only("topic", json!(topic))
    }

    /// Of these, those of a topic.
    pub fn and_topic(self, topic: &str) -> Letters {
        self.and("topic", json!(topic))
    }

    /// Of these, those of a key, which is text.
    pub fn and_key(self, key: &str) -> Letters {
        self.and("key", json!(key))
    }

    /// Of these, those that died at this time or later.
    pub fn dead_from(self, time: SystemTime) -> Letters {
        self.and("dead_from", json!(timestamp(time)))
    }

    /// Of these, those that died at this time or before.
    pub fn dead_until(self, time: SystemTime) -> Letters {
        self.and("dead_until", json!(timestamp(time)))
    }

    /// Of these, the first so many, in order of id.
    pub fn at_most(self, letters: u64) -> Letters {
        self.and("max", json!(letters))
    }
}

/// What an operator wants of the relay.
///
/// ```
/// use std::time::Duration;
/// use outbox_relay::{Ask, Letters};
///
/// let again = Ask::requeue(Letters::of_topic("orders").at_most(1000)).pace(50).why("the limit was raised");
/// let still = Ask::pause("orders").lasting(Duration::from_secs(600)).why("the consumers are being rebuilt");
/// # let _ = (again, still);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a request does nothing until it is asked"]
pub struct Ask {
    kind: &'static str,
    topic: Option<String>,
    filter: Map<String, Value>,
    value: Option<Value>,
    pace: Option<i32>,
    seconds: Option<f64>,
    why: Option<String>,
}

impl Ask {
    fn new(kind: &'static str, topic: Option<&str>, value: Option<Value>) -> Ask {
        let topic = topic.map(str::to_owned);
        Ask { kind, topic, filter: Map::new(), value, pace: None, seconds: None, why: None }
    }

    /// Dead letters are to be sent again, in order of id within each key and before later rows of the key.
    pub fn requeue(letters: Letters) -> Ask {
        Ask { filter: letters.0, ..Ask::new("requeue", None, None) }
    }

    /// Dead letters are to be given up. They stay in the table.
    pub fn discard(letters: Letters) -> Ask {
        Ask { filter: letters.0, ..Ask::new("discard", None, None) }
    }

    /// Published rows are to be sent again, in order of id within each key and before later rows of the key.
    pub(crate) fn replay(filter: Map<String, Value>, to: Option<&str>, beyond_window: bool) -> Ask {
        let mut value = Map::new();
        value.extend(to.map(|to| ("to".to_owned(), json!(to))));
        value.extend(beyond_window.then(|| ("beyond_window".to_owned(), json!(true))));
        Ask { filter, ..Ask::new("replay", None, Some(Value::Object(value))) }
    }

    /// Rows whose records are missing are to be sent again; at most ten thousand.
    pub(crate) fn repair(ids: &[i64]) -> Ask {
        let filter = Map::from_iter([("ids".to_owned(), json!(ids))]);
        // As long as slots are held for a replay.
        Ask { filter, ..Ask::new("repair", None, None) }.lasting(Duration::from_secs(24 * 3600))
    }

    /// A topic is to stand still until it is resumed.
    pub fn pause(topic: &str) -> Ask {
        Ask::new("pause", Some(topic), None)
    }

    /// A topic is to go on.
    pub fn resume(topic: &str) -> Ask {
        Ask::new("resume", Some(topic), None)
    }

    /// Topics of this pattern, or all topics together, are to get this many records a second; `None` takes a limit away.
    pub fn rate(topics: Option<&str>, per_second: Option<u32>) -> Ask {
        Ask::new("rate", topics, Some(json!({"rate": per_second})))
    }

    /// Topics of this pattern are to get another policy: a JSON object with keys of a `[[topic]]` section.
    pub fn policy(topics: &str, policy: Value) -> Ask {
        Ask::new("policy", Some(topics), Some(policy))
    }

    /// Rows that wait for their next try, of a topic or of one of its keys, are to be tried now.
    pub fn retry_now(topic: &str, key: Option<&str>) -> Ask {
        Ask::new("retry_now", Some(topic), key.map(|key| json!({"key": key})))
    }

    /// The message that a key waits for is to become a dead letter.
    pub fn skip_head(topic: &str, key: &str) -> Ask {
        Ask::new("skip_head", Some(topic), Some(json!({"key": key})))
    }

    /// The later messages of a key are to pass the one that they wait for, which is tried on.
    pub fn release(topic: &str, key: &str) -> Ask {
        Ask::new("release", Some(topic), Some(json!({"key": key})))
    }

    /// Of requests about a key: the key in base64 instead of text.
    pub fn key_base64(self, key: &str) -> Ask {
        Ask { value: Some(json!({"key_base64": key})), ..self }
    }

    /// The leader is to step down, so that another relay leads.
    pub fn resign() -> Ask {
        Ask::new("resign", None, None)
    }

    /// Planned work is announced: for this time, a day at most, alerts about what it stops are held back.
    pub fn maintenance(time: Duration) -> Ask {
        Ask::new("maintenance", None, None).lasting(time)
    }

    /// Another request is to end.
    pub fn cancel(request: i64) -> Ask {
        Ask::new("cancel", None, Some(json!({"request": request})))
    }

    /// Of requeue and discard: so many rows a second.
    pub fn pace(self, rows: u32) -> Ask {
        Ask { pace: Some(i32::try_from(rows).unwrap_or(i32::MAX)), ..self }
    }

    /// It ends by itself after this time.
    pub fn lasting(self, time: Duration) -> Ask {
        Ask { seconds: Some(time.as_secs_f64()), ..self }
    }

    /// For whoever reads the audit trail.
    pub fn why(self, why: impl Into<String>) -> Ask {
        Ask { why: Some(why.into()), ..self }
    }
}

/// Why a request was not written.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The request makes no sense; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The login is no member of `outbox_admin`.
    #[error("this login may not ask; grant it the role outbox_admin")]
    NotAllowed(#[source] sqlx::Error),
    /// The database has no outbox, or an older one.
    #[error("this database has no outbox that takes requests; run outbox-relay migrate")]
    NoOutbox(#[source] sqlx::Error),
    /// Anything else that a database can answer, such as a lost connection.
    #[error("ask for something of the relay")]
    Database(#[source] sqlx::Error),
}

/// Writes the request and returns its number, under which `outbox.request` tells what came of it. It is in effect within two
/// seconds of the commit.
pub async fn ask(connection: &mut PgConnection, ask: &Ask) -> Result<i64, AskError> {
    write(ask, Call::prepared(ASK), connection).await
}

/// The same on a connection of the commands, which may lead through a pooler.
pub async fn ask_through(session: &mut Session, ask: &Ask) -> Result<i64, AskError> {
    let call = session.call(ASK);
    write(ask, call, session.connection()).await
}

/// Lets only so many messages of a topic wait (`None`: any number), and returns the number of the note about it.
pub async fn set_quota(
    session: &mut Session,
    topic: &str,
    max_waiting: Option<i64>,
    why: Option<&str>,
) -> Result<i64, AskError> {
    let call = session.call(include_str!("sql/set_quota.sql"));
    let call = call.bind(topic.to_owned()).bind(max_waiting).bind(why.map(str::to_owned));
    let row = call.one(session.connection()).await.map_err(AskError::from_sqlx)?;
    row.try_get(0).map_err(AskError::from_sqlx)
}

async fn write(ask: &Ask, call: Call<'_>, connection: &mut PgConnection) -> Result<i64, AskError> {
    let call = call
        .bind(ask.kind.to_owned())
        .bind(ask.topic.clone())
        .bind(Value::Object(ask.filter.clone()).to_string())
        .bind(ask.value.as_ref().map(Value::to_string))
        .bind(ask.pace)
        .bind(ask.seconds)
        .bind(ask.why.clone());
    let row = call.one(connection).await.map_err(AskError::from_sqlx)?;
    row.try_get(0).map_err(AskError::from_sqlx)
}

impl AskError {
    fn from_sqlx(source: sqlx::Error) -> AskError {
        let code = source.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            "23514" => AskError::Refused(
                source.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default(),
            ),
            "42501" => AskError::NotAllowed(source),
            "3F000" | "42P01" | "42703" => AskError::NoOutbox(source),
            _ => AskError::Database(source),
        }
    }
}

/// A point in time as Postgres reads it in every time zone, to the microsecond.
fn timestamp(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_micros(time.max(UNIX_EPOCH));
    text.to_string()
}
