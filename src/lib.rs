//! The relay from a Postgres outbox table to Kafka.
pub mod config;
pub mod health;
pub mod http;
pub mod metrics;
pub mod telemetry;
