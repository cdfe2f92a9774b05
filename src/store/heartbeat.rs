//! The relay's own row in the outbox: written through the ordinary path, so that its arrival says that this path is open.
//!
//! Owns the statements; the pace is `relay/heartbeat.rs`.

use uuid::Uuid;

use super::{Session, StoreError};

/// Writes the next heartbeat row to this topic. `false`: the last one still waits, so none was written.
pub async fn write(session: &mut Session, epoch: i64, token: Uuid, topic: &str) -> Result<bool, StoreError> {
    const WHAT: &str = "write a heartbeat";
    let query = session.call(include_str!("sql/write_heartbeat.sql")).bind(epoch).bind(token).bind(topic);
    let outcome: String = session.value(WHAT, query).await?;
    match outcome.as_str() {
        "written" => Ok(true),
        "waits" => Ok(false),
        "lease_lost" => StoreError::deposed().map(|()| false),
        _ => Err(StoreError::Forgotten),
    }
}

/// When the newest one was written that Kafka has confirmed, Unix seconds by the database's clock; 0: none was.
pub async fn confirmed(session: &mut Session) -> Result<f64, StoreError> {
    session.value("look for the last heartbeat", session.call(include_str!("sql/heartbeat.sql"))).await
}
