//! What the tests share: servers, databases, topics and relays, spoken to in verbs.
//!
//! Start with [`Env`]. This module must not hold expectations about the relay's promises; those are the tests'.
#![allow(dead_code, unused_imports, reason = "a vocabulary: not every verb is needed at all times")]

mod env;
pub mod history;
mod kafka;
pub mod lines;
mod otlp;
mod postgres;
mod quiet;
mod relay;
mod wait;

pub use env::{Env, EnvBuilder};
pub use kafka::{Kafka, Record};
pub use otlp::{Collector, attribute, hex};
pub use postgres::{Postgres, migrate};
pub use quiet::{Quiet, ROWS_PER_SLOT};
pub use relay::{LogLine, Metrics, Relay, RelayBuilder};
pub use wait::{DEADLINE, eventually, wait_for};

use std::error::Error;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// Names the seed of a random test, to repeat one that failed.
pub const SEED: &str = "OUTBOX_RELAY_TEST_SEED";

/// The seed of a random test: from the environment, else a new one. It is printed, and shown when the test fails.
pub fn seed() -> u64 {
    let given = std::env::var(SEED).ok();
    let seed = given.map_or_else(rand::random, |text| text.parse().expect("a seed is a number below 2^64"));
    eprintln!("repeat this run with {SEED}={seed}");
    seed
}

/// A generator of random numbers from [`seed`].
pub fn random() -> StdRng {
    StdRng::seed_from_u64(seed())
}

/// How large a test is: `few`, or `many` under `make scale`, which sets `OUTBOX_RELAY_TEST_SCALE=full`.
pub fn scaled(few: i64, many: i64) -> i64 {
    if std::env::var("OUTBOX_RELAY_TEST_SCALE").is_ok_and(|text| text == "full") { many } else { few }
}

/// An error with its causes, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Runs what blocks beside the runtime, and panics with the chain of an error.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> T
where
    T: Send + 'static,
    E: Error + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await.expect("the work does not panic");
    done.unwrap_or_else(|error| panic!("{}", chain(&error)))
}
