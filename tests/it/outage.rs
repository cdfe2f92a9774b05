//! Outages: nobody's fault, no attempt spent, nothing to repair afterwards; and one topic's own trouble is no outage.

use std::sync::Arc;
use std::time::Duration;

use crate::support::lines::{assert_complete, expect_complete, write_many};
use crate::support::{DEADLINE, Env, Relay, blocking, eventually};

const OPENED: &str =
    "kafka makes no progress, the circuit is open: nothing more is handed over and no row is charged";

async fn circuit(relay: &Relay, open: bool) {
    let wanted = f64::from(u8::from(open));
    let is = async || relay.metrics().await.value("outbox_circuit_open", &[]) == wanted;
    eventually(DEADLINE, if open { "the circuit opens" } else { "the circuit closes" }, is).await;
}

async fn nobody_was_charged(env: &Env) {
    let sql = "select count(*) = 0 from outbox.dead_letter union all select count(*) = 0 from outbox.deferred where attempts > 0";
    let innocent: Vec<bool> = sqlx::query_scalar(sql).fetch_all(env.admin()).await.expect("select");
    assert_eq!(innocent, [true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_the_circuit_opens_and_nobody_is_charged() {
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("outage", 3, &[]).await;
    let relay = env.relay().await.set("kafka.stall_after", "2s").expect_errors().start().await;
    write_many(&env, &topic, 10, 0, 100).await;
    env.expect_records(&topic, 100).await;

    // Frozen brokers: connections stay, answers do not come.
    let server = Arc::clone(&env.kafka().await.server);
    assert!(server.freeze());
    write_many(&env, &topic, 10, 10, 1000).await;
    circuit(&relay, true).await;
    let said = relay.wait_for_log(OPENED).await;
    assert!(said.field("because").is_some());
    write_many(&env, &topic, 10, 110, 1000).await;
    assert!(server.thaw());
    circuit(&relay, false).await;
    // A broker that wakes on a busy machine may lose its connections, and a window goes out twice.
    expect_complete(&env, &topic, 10, 210).await;

    // Brokers that are gone.
    env.kill_kafka().await;
    write_many(&env, &topic, 10, 210, 100).await;
    circuit(&relay, true).await;
    env.start_kafka_again().await;
    circuit(&relay, false).await;
    expect_complete(&env, &topic, 10, 220).await;
    nobody_was_charged(&env).await;
    env.eventually_true("select waiting = 0 from outbox.backlog where topic is null").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_topics_only_replica_does_not_stop_the_others() {
    let env = Env::with_own_kafka().await;
    let kafka = env.kafka().await;
    let second = kafka.join(2).await;
    let third = kafka.join(3).await;
    let (sick, well) = (env.topic("sick"), env.topic("well"));
    let placed = async || {
        kafka.create_topic_on(&sick, 2).await;
        kafka.create_topic_on(&well, 3).await;
    };
    placed().await;
    let relay = env.relay().await.set("kafka.stall_after", "2s").set("retry.base", "100ms").expect_errors();
    let relay = relay.set("retry.max", "500ms").start().await;
    for topic in [&sick, &well] {
        write_many(&env, topic, 5, 0, 50).await;
        env.expect_records(topic, 50).await;
    }

    blocking(move || {
        second.kill();
        Ok::<_, std::io::Error>(second)
    })
    .await;
    write_many(&env, &sick, 5, 10, 500).await;
    write_many(&env, &well, 5, 10, 500).await;
    let lane = format!("select count(*) = 1 from outbox.open_lane where topic = '{sick}'");
    env.eventually_true(&lane).await;
    // Settlement goes on, with new rows of both.
    write_many(&env, &sick, 5, 110, 500).await;
    write_many(&env, &well, 5, 110, 500).await;
    // With the stalled topic the producer goes; what of the others was in flight may come twice.
    expect_complete(&env, &well, 5, 210).await;
    env.eventually_true(&format!(
        "select count(*) filter (where state = 'published') = 1050 from outbox.status where topic = '{well}'"
    ))
    .await;
    assert_eq!(
        relay.metrics().await.value("outbox_circuit_open", &[]),
        0.0,
        "others are confirmed: no outage"
    );
    nobody_was_charged(&env).await;
    drop(third);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_told_from_brokers_that_are_away() {
    let env = Env::new().await;
    let topic = env.create_topic("login", 1, &[]).await;
    write_many(&env, &topic, 1, 0, 1).await;
    let relay = env.restricted_relay().await.property("sasl.password", "wrong").expect_errors().start().await;
    let counted =
        async |class: &str| relay.metrics().await.value("outbox_kafka_errors_total", &[("class", class)]);
    let refused = async || counted("authentication").await > 0.0;
    eventually(Duration::from_secs(30), "the refused login is counted as one", refused).await;
    // Each producer has tried again by the time that the relay has said so twice.
    relay.wait_for_log("cannot lead yet, trying again").await;
    let tries = async || relay.logged("cannot lead yet, trying again") >= 2;
    eventually(Duration::from_secs(60), "the relay says it again", tries).await;
    assert_eq!(counted("unreachable").await, 0.0, "the broker is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_rows_back_and_is_nobodys_fault() {
    let env = Env::new().await;
    let (held, well) = (env.create_topic("held", 1, &[]).await, env.create_topic("well", 1, &[]).await);
    let client = env.topic("client");
    let relay =
        env.relay().await.property("client.id", &client).set("kafka.stall_after", "2s").expect_errors();
    // A row that is charged once is dead.
    let relay = relay.set("retry.attempts", 1).start().await;
    for topic in [&held, &well] {
        write_many(&env, topic, 10, 0, 50).await;
        env.expect_records(topic, 50).await;
    }

    // More than ten seconds' worth of it: the broker answers, and then is silent for some seconds.
    env.set_producer_quota(&client, Some(40_000)).await;
    write_many(&env, &held, 10, 5, 4000).await;
    let errors = async |class: &str| {
        relay.metrics().await.get("outbox_kafka_errors_total", &[("class", class)]).unwrap_or(0.0)
    };
    eventually(DEADLINE, "the quota is counted", async || errors("throttled").await > 0.0).await;
    // The last request may have been answered before the silence: these rows are in it for certain.
    write_many(&env, &held, 10, 405, 500).await;
    let said = relay.wait_for_log(OPENED).await;
    assert_eq!(said.field("because").and_then(|because| because.as_str()), Some("throttled"));
    write_many(&env, &well, 10, 5, 500).await;

    env.set_producer_quota(&client, None).await;
    for (topic, rows) in [(&held, 4550), (&well, 550)] {
        assert_complete(
            &env.expect_records_within(topic, rows, Duration::from_secs(120)).await,
            10,
            rows as i64 / 10,
        );
    }
    env.eventually_true("select waiting = 0 from outbox.backlog where topic is null").await;
    for (topic, rows) in [(&held, 4550), (&well, 550)] {
        assert_eq!(env.read_topic(topic).await.len(), rows, "no record twice");
    }
    nobody_was_charged(&env).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.attempt").await, 0);
    assert_eq!(
        env.one::<i64>("select count(*) from outbox.ledger where lane is not null").await,
        0,
        "no lane"
    );
    assert_eq!(relay.metrics().await.value("outbox_producer_replaced_total", &[]), 0.0);
    assert_eq!(errors("unreachable").await, 0.0);
    circuit(&relay, false).await;
}
