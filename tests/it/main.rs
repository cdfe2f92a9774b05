//! All tests that need real servers, in one binary: one module per promise, everything shared in `support`.
//!
//! `make test` installs what they need. A server that cannot be started fails the test; nothing is skipped.
#![allow(clippy::print_stderr, reason = "a test that fails shows what it saw")]

mod bad_input;
mod barrier;
mod bench;
mod board;
mod brake;
mod bundle;
mod canary;
mod check;
#[path = "../faults/checker/mod.rs"]
mod checker;
mod clean;
mod crash;
mod delivery;
mod demo;
mod failures;
mod fatal;
mod gauges;
mod health;
mod heartbeat;
mod help;
mod lanes;
mod lead;
mod ledger;
mod logs;
mod metrics_page;
mod migrate;
mod once;
mod operate;
mod order;
mod outage;
mod outputs;
mod plan;
mod pooler;
#[path = "../faults/proxy/mod.rs"]
mod proxy;
mod reading;
mod reconcile;
mod replay;
mod requests;
mod runbooks;
mod schema;
mod servers;
mod servers_smoke;
mod support;
mod tap;
mod tasks;
mod tidy;
mod tls;
mod top;
mod traces;
mod verify;
