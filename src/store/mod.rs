//! Postgres: the only place that names sqlx.
pub mod migrate;
pub mod publish;
pub mod rebase;
