//! Postgres: the only place that names sqlx.
pub mod migrate;
pub mod migration;
pub mod publish;
pub mod rebase;
