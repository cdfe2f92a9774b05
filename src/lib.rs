//! The relay from a Postgres outbox table to Kafka.
pub mod config;
pub mod metrics;
