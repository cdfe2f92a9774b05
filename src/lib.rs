//! The relay from a Postgres outbox table to Kafka.

pub mod servers;
