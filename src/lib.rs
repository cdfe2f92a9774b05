//! The relay from a Postgres outbox table to Kafka.
pub mod backoff;
pub mod kafka;
pub mod message;
pub mod ordering;
pub mod position;
pub mod receipt;
pub mod store;
pub mod verdict;
