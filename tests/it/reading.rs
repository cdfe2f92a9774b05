//! Nothing that was committed is lost, repeated or out of order, whatever the transactions look like.
//!
//! The relay's reader and three broken ones run through the same random transactions and the same schedules, before
//! the same judge. A test that lets a broken reader pass would prove nothing about the relay's.

mod paging;
mod readers;
mod verdict;
mod writers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_relay::store::poll::PageLimits;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, PgConnection, raw_sql};
use tokio::time::{MissedTickBehavior, interval};

use self::readers::{Broken, Fault, Reading, Relay};
use self::verdict::{Faults, judge};
use self::writers::{Load, committed, open_accounts, write};
use crate::support::{Env, Quiet, random};

/// Large enough to be no matter.
const ROOMY: PageLimits = PageLimits { rows: 5_000, bytes: 8 << 20, max_row_bytes: 1 << 20 };

/// Reads until everything is read.
async fn drain(reading: &mut impl Reading) {
    while !reading.page().await {}
}

/// Lets a reader read while the writers write, with small pages, settlements far behind and starts in between.
async fn read_along(reading: &mut impl Reading, over: &AtomicBool, random: &mut StdRng) {
    let mut pace = interval(Duration::from_millis(3));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Asked before the page: what was committed by now is in it.
        let all_written = over.load(Ordering::SeqCst);
        let idle = reading.page().await;
        if idle && all_written {
            break;
        } else if idle {
            pace.tick().await;
        }
        if random.random_bool(0.3) {
            reading.settle(random.random_range(1..=6)).await;
        }
        if random.random_bool(0.02) {
            reading.start_again(small_pages(random)).await;
        }
    }
    reading.settle(usize::MAX).await;
}

fn small_pages(random: &mut StdRng) -> PageLimits {
    let bytes = if random.random_bool(0.5) { 8 << 20 } else { random.random_range(20..=400) };
    PageLimits { rows: random.random_range(7..=50), bytes, max_row_bytes: 1 << 20 }
}

/// The random test: writers, and one reader beside them.
async fn run(env: &Env, reading: &mut impl Reading, load: Load, random: &mut StdRng) -> Faults {
    let over = AtomicBool::new(false);
    let seed = random.random();
    let mut choices = StdRng::from_rng(random);
    let writing = async {
        write(&env.app_url(), load, seed).await;
        over.store(true, Ordering::SeqCst);
    };
    tokio::join!(writing, read_along(reading, &over, &mut choices));
    let committed = committed(&env.admin_url()).await;
    eprintln!("{} rows committed, {} delivered", committed.len(), reading.delivered().len());
    judge(&committed, reading.delivered())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_transactions_are_read_once_and_in_order() {
    let mut random = random();
    let env = Env::new().await;
    open_accounts(&env.admin_url()).await;
    let mut relay = Relay::start(&env.store(), small_pages(&mut random)).await;
    let load = Load { writers: 24, transactions_per_writer: 60 };
    let faults = run(&env, &mut relay, load, &mut random).await;
    assert!(faults.none(), "{faults:?}");
    assert!(relay.epoch > 3, "the reader never started again");
}

/// Random rounds until the broken reader is caught. Each caught reader has lost what its fault makes it lose.
async fn is_caught_at_random(fault: Fault, caught: impl Fn(&Faults) -> bool) {
    let mut random = random();
    let env = Env::new().await;
    open_accounts(&env.admin_url()).await;
    let mut broken = Broken::start(&env.url_as("relay_login"), fault, small_pages(&mut random)).await;
    let load = Load { writers: 24, transactions_per_writer: 5 };
    for round in 1..=20 {
        let faults = run(&env, &mut broken, load, &mut random).await;
        if caught(&faults) {
            eprintln!("{fault:?} was caught in round {round}");
            return;
        }
    }
    panic!("{fault:?} was not caught");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_transactions_catch_a_reader_of_ids_above_the_last() {
    is_caught_at_random(Fault::IdAboveLast, |faults| !faults.lost.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_transactions_catch_a_reader_of_transactions_below_the_oldest_open_one() {
    is_caught_at_random(Fault::TxidBelowXmin, |faults| !faults.inverted.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_transactions_catch_a_reader_of_listed_transactions_only() {
    is_caught_at_random(Fault::ListOfOpenOnly, |faults| !faults.lost.is_empty()).await;
}

/// A service's transaction that a schedule moves step by step.
struct Step(PgConnection);

impl Step {
    async fn begin(quiet: &Quiet) -> Self {
        let mut step = Self(quiet.connect("app_login").await);
        step.then("begin").await;
        step
    }

    async fn then(&mut self, sql: &str) {
        raw_sql(sql).execute(&mut self.0).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Writes one row.
    async fn row(&mut self, key: &str, version: i64) {
        self.then(&format!("select outbox.publish('t', '{key}', '{version}')")).await;
    }

    async fn commit(mut self) {
        self.then("commit").await;
        self.0.close().await.expect("a connection that worked can be closed");
    }
}

/// The relay's reader and a broken one, side by side.
struct Both {
    relay: Relay,
    broken: Broken,
}

impl Both {
    async fn page(&mut self) {
        self.relay.page().await;
        self.broken.page().await;
    }
}

/// The second transaction to draw an id is the first to commit.
async fn late_commit(quiet: &Quiet, both: &mut Both) {
    let (mut first, mut second) = (Step::begin(quiet).await, Step::begin(quiet).await);
    first.row("a", 1).await;
    second.row("b", 1).await;
    second.commit().await;
    both.page().await;
    first.commit().await;
}

/// The first transaction to get a number is the second to get the key's turn.
async fn early_number(quiet: &Quiet, both: &mut Both) {
    let (mut first, mut second) = (Step::begin(quiet).await, Step::begin(quiet).await);
    first.then("select pg_current_xact_id()").await;
    second.row("a", 1).await;
    second.commit().await;
    both.page().await;
    first.row("a", 2).await;
    first.commit().await;
}

/// A transaction owns an id while snapshots end below its number, because no younger transaction has ended.
async fn above_every_snapshot(quiet: &Quiet, both: &mut Both) {
    let (mut older, mut younger) = (Step::begin(quiet).await, Step::begin(quiet).await);
    older.then("select pg_current_xact_id()").await;
    younger.row("a", 1).await;
    older.row("b", 1).await;
    older.commit().await;
    both.page().await;
    younger.commit().await;
}

/// Both readers go through the same schedule: the relay's must pass, the broken one must be caught.
async fn only_the_broken_reader_fails(
    fault: Fault,
    schedule: impl AsyncFn(&Quiet, &mut Both),
    expected: impl Fn(&[i64]) -> Faults,
) {
    let quiet = Quiet::new().await;
    let url = quiet.url_as("relay_login");
    let relay = Relay::start(&quiet.store(), ROOMY).await;
    let mut both = Both { relay, broken: Broken::start(&url, fault, ROOMY).await };
    schedule(&quiet, &mut both).await;
    drain(&mut both.relay).await;
    drain(&mut both.broken).await;
    let committed = committed(&quiet.url_as("postgres")).await;
    let ids: Vec<i64> = committed.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(judge(&committed, both.relay.delivered()), Faults::default(), "the relay's reader");
    assert_eq!(judge(&committed, both.broken.delivered()), expected(&ids), "{fault:?}");
}

#[tokio::test]
async fn a_row_that_is_committed_after_a_higher_id_was_read_is_read_later() {
    let expected = |ids: &[i64]| Faults { lost: vec![ids[0]], ..Faults::default() };
    only_the_broken_reader_fails(Fault::IdAboveLast, late_commit, expected).await;
}

#[tokio::test]
async fn a_key_keeps_its_order_when_the_older_transaction_writes_last() {
    let expected = |ids: &[i64]| Faults { inverted: vec![ids[0]], ..Faults::default() };
    only_the_broken_reader_fails(Fault::TxidBelowXmin, early_number, expected).await;
}

#[tokio::test]
async fn a_row_of_a_transaction_that_no_snapshot_lists_is_read() {
    let expected = |ids: &[i64]| Faults { lost: vec![ids[0]], ..Faults::default() };
    only_the_broken_reader_fails(Fault::ListOfOpenOnly, above_every_snapshot, expected).await;
}

#[tokio::test]
async fn a_new_leader_reads_a_row_of_a_transaction_that_the_settled_snapshot_does_not_list() {
    let quiet = Quiet::new().await;
    let mut relay = Relay::start(&quiet.store(), ROOMY).await;
    let (mut older, mut younger) = (Step::begin(&quiet).await, Step::begin(&quiet).await);
    older.then("select pg_current_xact_id()").await;
    younger.row("a", 1).await;
    older.row("b", 1).await;
    older.commit().await;
    relay.page().await;
    relay.settle(1).await;
    younger.commit().await;
    // Two takeovers in a row: the second finds only what the first one copied.
    relay.start_again(ROOMY).await;
    relay.start_again(ROOMY).await;
    drain(&mut relay).await;
    let committed = committed(&quiet.url_as("postgres")).await;
    assert_eq!(committed.len(), 2);
    assert_eq!(judge(&committed, relay.delivered()), Faults::default());
}
