//! Probes of real relays: what hangs is not alive, what waits for somebody else is, and a standby is ready.

use crate::support::lines::write_many;
use crate::support::{DEADLINE, Env, Relay, RelayBuilder, eventually};

/// So long a minute of the probes takes here. Every loop tries more often.
const MINUTE_S: u64 = 8;

async fn relay(env: &Env) -> RelayBuilder {
    env.relay().await.env("OUTBOX_RELAY_MINUTE", MINUTE_S).set("lease.ttl", "1s")
}

async fn asked(relay: &Relay, path: &str) -> (u16, String) {
    relay.get(path).await.expect("it is served")
}

async fn says(relay: &Relay, path: &str, status: u16, words: &str) {
    eventually(DEADLINE, &format!("{path} says {status}: {words}"), async || {
        let (code, text) = asked(relay, path).await;
        code == status && text.contains(words)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_hangs_while_rows_wait_is_not_alive() {
    let env = Env::new().await;
    let topic = env.create_topic("stuck", 1, &[]).await;
    write_many(&env, &topic, 1, 0, 10).await;
    let stuck = relay(&env).await.env("OUTBOX_RELAY_HANG_AT", "read").expect_errors().start().await;
    stuck.wait_for_log("leading").await;
    // The lease is kept: nobody else would end this.
    assert_eq!(asked(&stuck, "/livez").await.0, 200, "not before a minute is over");
    says(&stuck, "/livez", 503, "read: has not tried for").await;
    assert_eq!(stuck.metrics().await.value("outbox_leader", &[]), 1.0);
    assert!(env.read_topic(&topic).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_a_minute_costs_readiness_and_never_a_restart() {
    let env = Env::with_own_postgres().await;
    let leader = relay(&env).await.expect_errors().start().await;
    leader.wait_for_log("leading").await;
    let standby = relay(&env).await.expect_errors().start().await;
    for relay in [&leader, &standby] {
        says(relay, "/startupz", 200, "loops: ok").await;
        says(relay, "/readyz", 200, "postgres: ok").await;
    }
    env.stop_postgres_fast().await;
    for relay in [&leader, &standby] {
        says(relay, "/readyz", 503, "postgres: out of reach for").await;
        let (status, text) = asked(relay, "/livez").await;
        assert_eq!(status, 200, "a restart would not help: {text}");
    }
    env.start_postgres_again().await;
    for relay in [&leader, &standby] {
        says(relay, "/readyz", 200, "postgres: ok").await;
    }
}
