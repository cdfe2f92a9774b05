//! The relay from a Postgres outbox table to Kafka.
//!
//! Services write business rows and outbox rows in one Postgres transaction. The relay reads every committed outbox row,
//! sends it to Kafka and, once Kafka has confirmed it, settles it in an append-only ledger beside the outbox.
//! Where it stands is a database snapshot, not a number, so no row is missed however long its transaction took.
//! One relay leads and others stand by; the right to lead is a lease in the same database, and its epoch fences.
//! Consumers get every row at least once, in order per key, with a stable event id to deduplicate on.
//!
//! # Where to read
//! From the top down; a module uses only those below it.
//!
//! - `cli`: the command line. `main.rs` does arguments → configuration → logging → runtime → one match on the command.
//! - `daemon`: builds the parts, owns start and stop. `demo`: the newcomer's first minute. `ops`: operators' commands.
//! - `leader`: when a lease may be taken and for how long it may be trusted.
//! - `relay`: the three loops and how they meet: `read` the next page, `send` this one, `settle` the previous one.
//! - `store`: Postgres, one typed function per file of `store/sql`. `kafka`: producers, their reports and error classes.
//! - `reconcile`: compares rows and receipts with what is really in the topics.
//! - `backlog`: samples what waits, for the gauges of leader and standbys alike; `vitals`: how the process itself is.
//! - `certificate`: when one expires. Pure.
//! - `policy`, `position`, `ordering`, `message`, `partition`, `verdict`, `backoff`, `receipt`: the rules. Pure: they neither
//!   wait, log, read a clock nor draw random numbers; time and jitter come in as arguments.
//! - `config`, `telemetry`, `metrics`, `trace`, `health`, `http`: settings, logs, every metric's name, spans, probes.
//! - `board`: the status page. It only shows.
//! - `task`: why the end of any internal task is the end of the process.
//! - `servers`: private Postgres, PgBouncer and Kafka servers for demo, tests and benchmarks. `crash_point`: where the crash tests
//!   end the process; not in release builds.
//!
//! # What always holds
//! - A row is settled only after Kafka confirmed it, or by a verdict that the ledger records. A crash in between repeats
//!   the window, never loses it.
//! - Every statement with which the relay writes checks the epoch of its lease and the incarnation of the server.
//! - No transaction is open while we wait for Kafka, and none spans two round trips.
//! - A row whose key waits for an earlier row waits, too; `send` alone knows which keys do.
//! - sqlx is named only in `store`, rdkafka only in `kafka`, OpenTelemetry only in `trace`, metric names only in `metrics`;
//!   `store` and `kafka` do not know each other.
//! - Nothing grows without a bound: pages, the window, deferred rows, channels, label values.
//! - Logs and spans carry no payloads, keys or connection strings.
//!
//! # What is deliberately absent
//! - A status column or any update of outbox rows: marking would cost more than publishing.
//! - Clocks deciding anything between two machines: leases are judged on one's own monotonic clock.
//! - LISTEN and NOTIFY, logical replication, advisory locks, extensions: a plain connection is all it takes.
//! - Kafka transactions and exactly-once claims: consumers deduplicate on the event id.
//! - Transforming, filtering or routing rows: what a service wrote is what Kafka gets.

pub mod backlog;
pub mod backoff;
pub mod board;
pub mod certificate;
pub mod cli;
pub mod config;
pub mod crash_point;
pub mod daemon;
pub mod demo;
pub mod health;
pub mod http;
pub mod kafka;
pub mod leader;
pub mod message;
pub mod metrics;
pub mod ops;
pub mod ordering;
pub mod partition;
pub mod policy;
pub mod position;
pub mod receipt;
pub mod reconcile;
pub mod relay;
pub mod servers;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod trace;
pub mod verdict;
pub mod vitals;

pub use store::ask::{Ask, AskError, Letters, ask};
pub use store::publish::{Message, PublishError, publish};
