//! For services in Rust: a message, and `publish`, which writes it in the service's own transaction.
//!
//! A typed door to `outbox.publish` in the schema, which holds the rules. Needs no relay, no Kafka client and no
//! configuration; a login that is a member of `outbox_producer` is enough.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::error::ErrorKind;
use sqlx::postgres::{PgConnection, PgDatabaseError};
use uuid::Uuid;

/// What a service wants on a topic.
///
/// ```
/// use outbox_relay::Message;
///
/// #[derive(serde::Serialize)]
/// struct OrderPlaced { order: u64, cents: u64 }
///
/// let message = Message::new("orders")
///     .key("order-17")
///     .json(&OrderPlaced { order: 17, cents: 4200 })?
///     .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[must_use = "a message does nothing until it is published"]
pub struct Message {
    topic: String,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Map<String, Value>,
    partition: Option<i32>,
    deliver_after: Option<SystemTime>,
    expires_at: Option<SystemTime>,
    event_id: Option<Uuid>,
    serialize: bool,
}

impl Message {
    /// A message without a key (no order) and without a payload (a tombstone) until they are given.
    pub fn new(topic: impl Into<String>) -> Self {
        Message {
            topic: topic.into(),
            key: None,
            payload: None,
            headers: Map::new(),
            partition: None,
            deliver_after: None,
            expires_at: None,
            event_id: None,
            serialize: false,
        }
    }

    /// Messages with equal keys keep their order.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The bytes that consumers get.
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = Some(payload.into());
        self
    }

    /// The payload as JSON. Fails only if the value cannot be JSON, such as a map whose keys are not strings.
    pub fn json(mut self, payload: &impl Serialize) -> Result<Self, serde_json::Error> {
        self.payload = Some(serde_json::to_vec(payload)?);
        Ok(self)
    }

    /// Adds a header; the same name again adds another value. The relay's own names are refused when publishing.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let value = Value::String(value.into());
        match self.headers.entry(name.into()).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(values) => values.push(value),
            _ => unreachable!("headers are only made here, as arrays"),
        }
        self
    }

    /// Chooses the partition instead of leaving it to the key. Order per key ends where partitions are mixed.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Not to be delivered before this time.
    pub fn deliver_after(mut self, time: SystemTime) -> Self {
        self.deliver_after = Some(time);
        self
    }

    /// Not to be delivered after this time.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.expires_at = Some(time);
        self
    }

    /// An event id derived from the business operation, so that doing it twice is recognisable. Random by default.
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.event_id = Some(event_id);
        self
    }

    /// Makes writers of this topic and key take turns until they commit, where they do not lock a common row anyway.
    pub fn serialize(mut self) -> Self {
        self.serialize = true;
        self
    }
}

/// Without key, payload and header values: they may be secret, and `Debug` ends up in logs.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("event_id", &self.event_id)
            .field("payload_bytes", &self.payload.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

/// Why a message was not written. The caller's transaction is aborted in each case.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The message breaks a rule: another try with the same message cannot succeed.
    #[error("{reason}")]
    Refused {
        /// What is wrong with it.
        reason: String,
        /// What would be right.
        hint: Option<String>,
    },
    /// The login is no member of `outbox_producer`.
    #[error("this login may not publish; grant it the role outbox_producer")]
    NotAllowed(#[source] sqlx::Error),
    /// The database has no outbox.
    #[error("this database has no outbox; run outbox-relay migrate")]
    NoOutbox(#[source] sqlx::Error),
    /// Anything else that a database can answer, such as a lost connection or a deadlock.
    #[error("publish to the outbox")]
    Database(#[source] sqlx::Error),
}

/// Writes the message in the caller's transaction and returns its event id. It reaches Kafka if, and only if, that
/// transaction commits. For the order of a key, call it *after* the business row is locked or written.
///
/// It takes a connection and not a pool, because outside of a transaction an outbox protects nothing;
/// `publish(&mut transaction, &message)` works as it stands.
pub async fn publish(connection: &mut PgConnection, message: &Message) -> Result<Uuid, PublishError> {
    let headers = (!message.headers.is_empty()).then(|| Value::Object(message.headers.clone()).to_string());
    sqlx::query_scalar(include_str!("sql/publish.sql"))
        .bind(&message.topic)
        .bind(&message.key)
        .bind(&message.payload)
        .bind(headers)
        .bind(message.partition)
        .bind(message.deliver_after.map(micros))
        .bind(message.expires_at.map(micros))
        .bind(message.event_id)
        .bind(message.serialize)
        .fetch_one(connection)
        .await
        .map_err(PublishError::from_sqlx)
}

impl PublishError {
    fn from_sqlx(source: sqlx::Error) -> Self {
        let Some(error) = source.as_database_error() else { return PublishError::Database(source) };
        match error.code().as_deref() {
            Some("42501") => PublishError::NotAllowed(source),
            Some("3F000" | "42883" | "42P01") => PublishError::NoOutbox(source),
            Some("22023" | "22P05") => PublishError::refused(error),
            _ if matches!(error.kind(), ErrorKind::CheckViolation | ErrorKind::NotNullViolation) => {
                PublishError::refused(error)
            }
            _ => PublishError::Database(source),
        }
    }

    fn refused(error: &dyn sqlx::error::DatabaseError) -> Self {
        let hint = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
        PublishError::Refused { reason: error.message().to_owned(), hint: hint.map(str::to_owned) }
    }
}

/// Microseconds since 1970, the resolution of Postgres. Times beyond what 64 bits hold are far outside what Postgres takes.
fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}
