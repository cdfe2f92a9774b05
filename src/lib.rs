//! The relay from a Postgres outbox table to Kafka.
pub mod store;
pub use store::publish::{Message, PublishError, publish};
