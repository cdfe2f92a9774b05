//! What somebody who helps from afar wants to know of a server: settings, sizes, versions, the last errors.
//!
//! Owns the statements of `debug bundle` that no other command needs. No payload, header or key is among what they answer.

use serde_json::Value;

use super::inspect::{document, documents};
use super::{Session, StoreError};

/// Version, settings, roles of this login.
pub async fn server(session: &mut Session) -> Result<Value, StoreError> {
    let call = session.call(include_str!("sql/server_facts.sql"));
    document(session, "read the server's settings", call).await
}

/// Migrations and sizes of tables.
pub async fn schema(session: &mut Session) -> Result<Value, StoreError> {
    let call = session.call(include_str!("sql/schema_facts.sql"));
    document(session, "read the schema's size", call).await
}

/// The newest attempts that failed.
pub async fn attempts(session: &mut Session, limit: i64) -> Result<Vec<Value>, StoreError> {
    let call = session.call(include_str!("sql/attempt_list.sql")).bind(limit);
    documents(session, "read failed attempts", call).await
}
