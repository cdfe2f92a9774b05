//! A relay that is killed anywhere loses nothing: what it had in its window is sent again, and not more.

use std::os::unix::process::ExitStatusExt;

use outbox_relay::crash_point;
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::support::history::{Load, RECOVERY, expect_history, open_transaction, traced};
use crate::support::{Env, RelayBuilder, seed};

/// Small, so that the bound on duplicates is tight and a killed relay has something in every stage.
const WINDOW_ROWS: usize = 200;
const PAGE_ROWS: usize = 50;

const SIGKILL: i32 = 9;

async fn relay(env: &Env) -> RelayBuilder {
    traced(env.relay().await)
        .set("lease.ttl", "1s")
        .set("relay.window_rows", WINDOW_ROWS)
        .set("relay.page_rows", PAGE_ROWS)
}

/// Starts a relay that ends itself at the `times`-th passing of a point, and waits until it has.
async fn run_until(env: &Env, point: &str, times: u32) {
    let relay = relay(env).await.env("OUTBOX_RELAY_CRASH_AT", format!("{point}:{times}")).start().await;
    let status = relay.wait_for_exit(RECOVERY).await;
    assert_eq!(status.signal(), Some(SIGKILL), "the relay dies at {point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_at_any_point_repeats_at_most_its_window() {
    let env = Env::new().await;
    let topic = env.create_topic("crash", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    // The others have tests of their own.
    let elsewhere =
        [crash_point::INSIDE_LATE_PAGING, crash_point::BEFORE_REQUEUE, crash_point::AFTER_REQUEUE];
    let points = crash_point::ALL.into_iter().filter(|point| !elsewhere.contains(point));
    let points: Vec<&str> = points.collect();
    for point in &points {
        run_until(&env, point, 4).await;
    }
    let last = relay(&env).await.start().await;
    last.wait_for_log("leading").await;
    load.more(50).await;
    load.stop().await;

    let delivered = expect_history(&env, &topic).await;
    delivered.assert_repeated_at_most(WINDOW_ROWS);
    // Epochs count from 1, one for each relay. What was confirmed and not settled is sent again: no fewer, either.
    let unsettled = points.iter().position(|point| *point == crash_point::AFTER_CONFIRM).expect("a point");
    assert!(delivered.repeated_after(unsettled as i64 + 1) > 0, "the kill came too late: {delivered:?}");
    assert_eq!(delivered.epochs.last(), Some(&(points.len() as i64 + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_while_it_pages_late_rows_goes_on_in_the_middle() {
    const LATE_ROWS: u32 = 600;
    let env = Env::new().await;
    let topic = env.create_topic("late", 3, &[]).await;
    let late = open_transaction(&env, &topic, LATE_ROWS).await;
    let load = Load::start(&env, &topic).await;

    // Nine pages of late rows have been read, the window holds four: the ledger knows some of the set.
    let armed = format!("{}:8", crash_point::INSIDE_LATE_PAGING);
    let first = relay(&env).await.env("OUTBOX_RELAY_CRASH_AT", armed).start().await;
    env.eventually_true("select (select max(high) from outbox.ledger) > 600").await;
    late.commit().await.expect("commit");
    assert_eq!(first.wait_for_exit(RECOVERY).await.signal(), Some(SIGKILL), "the relay dies while it pages");

    let second = relay(&env).await.start().await;
    second.wait_for_log("leading").await;
    load.more(50).await;
    load.stop().await;
    env.eventually_true("select late_after > 0 from outbox.ledger where epoch = 2 and seq = 0").await;
    expect_history(&env, &topic).await.assert_repeated_at_most(WINDOW_ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_killed_at_random_moments_lose_nothing() {
    const ROUNDS: usize = 4;
    let mut random = StdRng::seed_from_u64(seed());
    let env = Env::new().await;
    let topic = env.create_topic("random", 3, &[]).await;
    let load = Load::start_seeded(&env, &topic, random.random()).await;
    let mut leader = relay(&env).await.start().await;
    leader.wait_for_log("leading").await;
    for _ in 0..ROUNDS {
        let standby = relay(&env).await.start().await;
        // The writers' progress is the clock: the moment has nothing to do with what the relay is doing.
        load.more(random.random_range(1..200)).await;
        leader.kill().await;
        standby.wait_for_log("leading").await;
        leader = standby;
    }
    load.stop().await;
    let delivered = expect_history(&env, &topic).await;
    delivered.assert_repeated_at_most(WINDOW_ROWS);
    assert!(leader.terminate().await.success(), "the last relay ends in good order");
}
