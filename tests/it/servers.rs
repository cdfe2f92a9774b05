//! Postgres and Kafka may stop, crash, or not be there yet: the relay waits, says so once, and goes on without help.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::history::{Load, RECOVERY, ROWS_PER_SECOND, expect_history, traced};
use crate::support::{Env, LogLine, Relay, RelayBuilder, eventually, migrate};

const WINDOW_ROWS: usize = 200;

/// Longer than any server needs to come back: what ends a lease in these tests is not the clock.
const TTL: &str = "60s";

async fn relay(env: &Env) -> RelayBuilder {
    let relay = traced(env.relay().await).set("lease.ttl", TTL);
    relay.set("relay.window_rows", WINDOW_ROWS).set("relay.page_rows", 50)
}

/// Waits until the relay leads for the `times`-th time, and returns its epoch.
async fn leads(relay: &Relay, times: usize) -> i64 {
    eventually(RECOVERY, "the relay leads", async || relay.logged("leading") >= times).await;
    let log = relay.log();
    let line = log.iter().rfind(|line| line.message() == Some("leading")).expect("it was counted");
    line.field("epoch").and_then(Value::as_i64).expect("a leader names its epoch")
}

async fn said(relay: &Relay, message: &str, error: &str) {
    let wanted = |line: &LogLine| {
        let found = line.field("error").and_then(Value::as_str).unwrap_or_default();
        line.message() == Some(message) && found.contains(error)
    };
    relay.wait_for_line(error, RECOVERY, wanted).await;
}

/// Waits until the relay says that this keeps it from leading.
async fn waits_for(relay: &Relay, error: &str) {
    said(relay, "cannot lead yet, trying again", error).await;
}

/// Waits until the relay says that the server has forgotten what it remembers, and leads again.
async fn starts_anew(relay: &Relay, times: usize) -> i64 {
    const STEPPED_DOWN: &str = "stepped down, everything of this lease is forgotten";
    said(relay, STEPPED_DOWN, "the server has been restarted by a crash or a failover").await;
    leads(relay, times).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_restart_of_postgres_is_sat_out_within_the_lease() {
    let env = Env::with_own_postgres().await;
    let topic = env.create_topic("fast", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let relay = relay(&env).await.start().await;
    leads(&relay, 1).await;
    load.more(50).await;
    env.stop_postgres_fast().await;
    env.start_postgres_again().await;
    load.more(50).await;
    load.stop().await;
    let delivered = expect_history(&env, &topic).await;
    delivered.assert_repeated_at_most(0);
    assert_eq!(delivered.epochs, [1], "a clean restart keeps the lease and what the relay remembers");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_restart_of_postgres_makes_the_relay_start_anew() {
    let env = Env::with_own_postgres().await;
    let topic = env.create_topic("immediate", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let relay = relay(&env).await.start().await;
    leads(&relay, 1).await;
    load.more(50).await;
    env.stop_postgres_immediate().await;
    env.start_postgres_again().await;
    assert_eq!(starts_anew(&relay, 2).await, 2);
    load.more(50).await;
    load.stop().await;
    // Marks of the last second may have been lost with the server, and their rows with the window are sent again.
    expect_history(&env, &topic).await.assert_repeated_at_most(WINDOW_ROWS + ROWS_PER_SECOND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_of_postgres_makes_the_relay_start_anew() {
    let env = Env::with_own_postgres().await;
    let topic = env.create_topic("backend", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let relay = relay(&env).await.set("relay.durable_marks", true).start().await;
    leads(&relay, 1).await;
    for crash in 1..=2 {
        load.more(50).await;
        let backend: i32 = sqlx::query_scalar(
            "select pid from pg_stat_activity where backend_type = 'client backend' \
             and usename = 'app_login' limit 1",
        )
        .fetch_one(env.admin())
        .await
        .expect("a writer is connected");
        kill_process(Pid::from_raw(backend).expect("a process id"), Signal::KILL).expect("it is ours");
        assert_eq!(starts_anew(&relay, crash + 1).await, crash as i64 + 1);
    }
    load.more(50).await;
    load.stop().await;
    // Marks that wait for the disk survive every crash.
    expect_history(&env, &topic).await.assert_repeated_at_most(WINDOW_ROWS);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_kafka_cost_neither_rows_nor_the_lease() {
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("kafka", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let relay = relay(&env).await.start().await;
    leads(&relay, 1).await;
    for kill in [false, true] {
        load.more(50).await;
        if kill {
            env.kill_kafka().await;
        } else {
            env.stop_kafka().await;
        }
        load.more(50).await;
        env.start_kafka_again().await;
        load.more(50).await;
    }
    load.stop().await;
    let delivered = expect_history(&env, &topic).await;
    assert_eq!(delivered.epochs, [1], "an outage of Kafka does not end the lease");
    assert!(delivered.repeated_within <= 2 * WINDOW_ROWS, "{delivered:?}");
    let deferred: i64 = sqlx::query_scalar("select count(*) from outbox.ledger where deferred <> '{}'")
        .fetch_one(env.admin())
        .await
        .expect("read the ledger");
    assert_eq!(deferred, 0, "an outage costs latency, never attempts");
    assert!(warnings(&relay) < 60, "a flood of {} warnings", warnings(&relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_with_kafka_frozen_ends_within_its_timeout() {
    const DRAIN: Duration = Duration::from_secs(2);
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("drain", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let first = relay(&env).await.set("relay.drain_timeout", "2s").start().await;
    leads(&first, 1).await;
    env.eventually_true("select exists (select from outbox.ledger where published <> '{}')").await;
    load.more(20).await;
    assert!(env.kafka().await.server.freeze(), "kafka runs");
    load.more(50).await;
    first.ask_to_stop();
    let status = first.wait_for_exit(RECOVERY).await;
    assert_eq!(status.code(), Some(0), "what is in flight is the next leader's");
    let stopping = first.wait_for_log("stopping, the window is being drained").await.at();
    let stopped = first.wait_for_log("relay stopped").await.at();
    let took = stopped.duration_since(stopping).unwrap_or_default();
    // The resignation follows the drain. A busy machine may double the whole, a relay that waits for Kafka would not end.
    assert!(took < 2 * DRAIN, "{took:?}");
    assert!(first.logged("lease resigned") == 1);
    assert!(env.kafka().await.server.thaw(), "kafka runs");

    let second = relay(&env).await.start().await;
    leads(&second, 1).await;
    load.more(50).await;
    load.stop().await;
    expect_history(&env, &topic).await.assert_repeated_at_most(WINDOW_ROWS);
}

fn warnings(relay: &Relay) -> usize {
    relay.log().iter().filter(|line| line.level() == Some("WARN")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_started_before_its_servers_says_for_which_it_waits() {
    let env = Env::builder().own_postgres().own_kafka().start().await;
    let topic = env.create_topic("early", 3, &[]).await;
    let relay_to_be = relay(&env).await;
    tokio::join!(env.stop_postgres_fast(), env.stop_kafka());

    let relay = relay_to_be.start().await;
    waits_for(&relay, "postgres is not reachable").await;
    let (status, body) = relay.get("/readyz").await.expect("an answer");
    assert!(status == 503 && body.contains("postgres is not reachable"), "{body}");
    env.start_postgres_again().await;
    waits_for(&relay, "waiting for kafka").await;
    let (live, _) = relay.get("/livez").await.expect("an answer");
    assert_eq!(live, 200, "a restart would not help");
    env.start_kafka_again().await;
    leads(&relay, 1).await;
    let (status, body) = relay.get("/readyz").await.expect("an answer");
    assert_eq!(status, 200, "{body}");
    // Of librdkafka's own lines ten pass in ten seconds.
    assert!(warnings(&relay) < 30, "a flood of {} warnings", warnings(&relay));
    let load = Load::start(&env, &topic).await;
    load.more(20).await;
    load.stop().await;
    expect_history(&env, &topic).await.assert_repeated_at_most(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_host_in_the_url_is_passed_over() {
    let env = Env::new().await;
    let topic = env.create_topic("hosts", 1, &[]).await;
    let url = env.relay_url();
    // Nobody listens on port 1.
    let two = url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1");
    assert_ne!(two, url);
    let relay = relay(&env).await.env("DATABASE_URL", two).start().await;
    leads(&relay, 1).await;
    let load = Load::start(&env, &topic).await;
    load.more(20).await;
    load.stop().await;
    expect_history(&env, &topic).await.assert_repeated_at_most(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_database_is_said_in_a_line_and_can_be_repaired() {
    let env = Env::builder().unmigrated().start().await;
    let number = env.database().split('_').next().expect("a number");
    let (login, database) = (format!("{number}_login"), format!("{number}_later"));
    let url = |role: &str| env.postgres.server.url_as(role, &database);
    let relay = relay(&env).await.env("DATABASE_URL", url(&login)).start().await;

    waits_for(&relay, "check user and password in postgres.url").await;
    eventually(RECOVERY, "the relay has tried ten times", async || {
        let operation = [("operation", "connect")];
        relay.metrics().await.get("outbox_database_errors_total", &operation) >= Some(10.0)
    })
    .await;
    env.execute(&format!("create role {login} login")).await;
    waits_for(&relay, "check the database name in postgres.url").await;
    env.execute(&format!("create database {database}")).await;
    waits_for(&relay, "schema outbox is missing in this database: run outbox-relay migrate").await;
    let (status, body) = relay.get("/readyz").await.expect("an answer");
    assert!(status == 503 && body.contains("run outbox-relay migrate"), "{body}");
    migrate(&url("postgres")).await;
    waits_for(&relay, "grant this login the role that it needs: outbox_relay to relay").await;
    env.execute(&format!("grant outbox_relay to {login}")).await;
    leads(&relay, 1).await;
    let lines = relay.logged("cannot lead yet, trying again");
    // Each trouble is said once, and again every ten seconds on a machine on which repairing takes that long.
    assert!(lines <= 8, "{lines} lines for four troubles");
    let (status, body) = relay.get("/readyz").await.expect("an answer");
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_led_before_it_is_promoted() {
    let env = Env::with_own_postgres().await;
    let topic = env.create_topic("replica", 1, &[]).await;
    env.stop_postgres_fast().await;
    std::fs::write(env.postgres.server.data_directory().join("standby.signal"), "").expect("write a file");
    env.start_postgres_again().await;
    let relay = relay(&env).await.start().await;
    waits_for(&relay, "is a replica; the relay needs the primary").await;
    env.execute("select pg_promote()").await;
    leads(&relay, 1).await;
    let load = Load::start(&env, &topic).await;
    load.more(20).await;
    load.stop().await;
    expect_history(&env, &topic).await.assert_repeated_at_most(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_kafka_refuses_is_named() {
    let env = Env::new().await;
    let brokers = env.kafka().await.server.restricted_brokers();
    let relay = relay(&env).await.env("KAFKA_BROKERS", brokers);
    let relay = relay.property("security.protocol", "sasl_plaintext").property("sasl.mechanism", "PLAIN");
    let relay = relay.property("sasl.username", "relay").property("sasl.password", "wrong").start().await;
    waits_for(&relay, "kafka refuses the login: check security.protocol, sasl.* and ssl.*").await;
    let (status, body) = relay.get("/readyz").await.expect("an answer");
    assert!(status == 503 && body.contains("kafka refuses the login"), "{body}");
    // Two of the relay's own lines, two of the producer's, and librdkafka's, cut short.
    assert!(warnings(&relay) < 15, "a flood of {} warnings", warnings(&relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_waits_for_kafka_ends_when_asked() {
    let env = Env::new().await;
    // Nobody listens on port 1.
    let relay = relay(&env).await.env("KAFKA_BROKERS", "127.0.0.1:1").start().await;
    env.eventually_true(
        "select exists (select from pg_stat_activity where datname = current_database() \
         and application_name = 'outbox-relay/follow' and query like '%outbox.migration%' and state = 'idle')",
    )
    .await;
    relay.ask_to_stop();
    // It has just asked the brokers, who have five seconds for their answer. It does not wait for that.
    let status = relay.wait_for_exit(Duration::from_secs(3)).await;
    assert_eq!(status.code(), Some(0));
}
