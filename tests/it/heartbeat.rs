//! The relay's own row: it goes the whole way, its arrival is seen everywhere, and it never piles up.

use serde_json::Value;

use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env, Record, Relay, RelayBuilder, eventually};

const CONFIRMED: &str = "outbox_heartbeat_confirmed_timestamp_seconds";

/// A relay with a quick heartbeat.
async fn beating(env: &Env, topic: &str) -> RelayBuilder {
    env.relay().await.set("heartbeat.topic", topic).set("heartbeat.every", "100ms").set("lease.ttl", "1s")
}

/// When the last confirmed one was written, as this relay says.
async fn confirmed(relay: &Relay) -> f64 {
    relay.metrics().await.value(CONFIRMED, &[])
}

/// The relay hears of a heartbeat that was written after this time.
async fn confirms_after(relay: &Relay, time: f64) {
    eventually(DEADLINE, "a later heartbeat is confirmed", async || confirmed(relay).await > time).await;
}

/// So many times more has the leader seen whether it is time for the next one.
async fn looks(relay: &Relay, times: f64) {
    let operation = [("operation", "heartbeat")];
    let count = async || relay.metrics().await.value("outbox_database_seconds_count", &operation);
    let before = count().await;
    eventually(DEADLINE, "it is looked for the next one", async || count().await >= before + times).await;
}

fn epoch(record: &Record) -> i64 {
    let payload: Value = serde_json::from_slice(record.payload.as_deref().expect("a payload")).expect("JSON");
    assert!(payload["written_at"].is_string(), "{payload}");
    payload["epoch"].as_i64().expect("the leader's epoch")
}

/// When each row was written that is not settled, Unix seconds, oldest first.
async fn waiting(env: &Env) -> Vec<f64> {
    let rows = "select extract(epoch from m.created_at)::float8 from outbox.message m \
                 where not exists (select from outbox.ledger l where l.published @> m.id) order by m.id";
    sqlx::query_scalar(rows).fetch_all(env.admin()).await.expect("select")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_goes_all_the_way_and_leader_and_standby_say_when_it_was_written() {
    let env = Env::new().await;
    let topic = env.create_topic("heartbeat", 1, &[]).await;
    let leader = beating(&env, &topic).await.start().await;
    leader.wait_for_log("leading").await;
    let standby = beating(&env, &topic).await.start().await;
    let records = env.expect_records(&topic, 3).await;
    assert_eq!(epoch(&records[2]), 1);
    assert_eq!(records[0].key, None);
    for relay in [&leader, &standby] {
        confirms_after(relay, 0.0).await;
        let said = confirmed(relay).await;
        let written = "select count(*) from outbox.message m join outbox.status s using (id) \
                        where s.state = 'published' and abs(extract(epoch from m.created_at)::float8 - $1) < 0.000002";
        let rows: i64 = sqlx::query_scalar(written).bind(said).fetch_one(env.admin()).await.expect("select");
        assert_eq!(rows, 1, "{said} is when a published row was written");
        confirms_after(relay, said).await;
    }
    // An ordinary row is counted like any other.
    let delivered = [("topic", topic.as_str()), ("outcome", "delivered")];
    assert!(leader.metrics().await.value("outbox_messages_total", &delivered) >= 3.0);
    assert_eq!(
        standby.metrics().await.value("outbox_database_seconds_count", &[("operation", "heartbeat")]),
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_topic_there_is_no_heartbeat() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = env.relay().await.set("heartbeat.every", "100ms").start().await;
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    env.expect_records(&topic, 1).await;
    let sampled = async || {
        relay.metrics().await.value("outbox_database_seconds_count", &[("operation", "sample")]) >= 2.0
    };
    eventually(DEADLINE, "gauges are sampled", sampled).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.message").await, 1);
    assert_eq!(env.one::<Option<i64>>("select id from outbox.heartbeat").await, None);
    let metrics = relay.metrics().await;
    assert_eq!(metrics.value("outbox_database_seconds_count", &[("operation", "heartbeat")]), 0.0);
    assert_eq!(metrics.value(CONFIRMED, &[]), 0.0);
    let connections = "select count(*) from pg_stat_activity \
                        where datname = current_database() and application_name = 'outbox-relay/heartbeat'";
    assert_eq!(env.one::<i64>(connections).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_one_heartbeat_waits_and_not_many() {
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("heartbeat", 1, &[]).await;
    let relay = beating(&env, &topic).await.expect_errors().start().await;
    confirms_after(&relay, 0.0).await;
    env.kill_kafka().await;
    // Whether the one that was on its way arrived has to be found out first. The one that waits goes on waiting, alone.
    let stands_still = async || {
        let before = waiting(&env).await;
        looks(&relay, 10.0).await;
        !before.is_empty() && waiting(&env).await == before
    };
    eventually(DEADLINE, "no heartbeat is written while one waits", stands_still).await;
    let waiting = waiting(&env).await;
    assert_eq!(waiting.len(), 1);
    let last = waiting[0];
    assert!(confirmed(&relay).await < last, "it has not arrived");
    env.start_kafka_again().await;
    confirms_after(&relay, last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_whose_topic_is_missing_stands_alone() {
    let env = Env::new().await;
    let (missing, topic) = (env.topic("missing"), env.create_topic("orders", 1, &[]).await);
    let relay = beating(&env, &missing).await.expect_errors().start().await;
    env.expect_lane(&missing, "missing").await;
    looks(&relay, 5.0).await;
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    env.expect_records(&topic, 1).await;
    assert_eq!(
        env.one::<i64>(&format!("select count(*) from outbox.message where topic = '{missing}'")).await,
        1
    );
    env.kafka().await.create_topic(&missing, 1, &[]).await;
    confirms_after(&relay, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_goes_on_with_the_heartbeat() {
    let env = Env::new().await;
    let topic = env.create_topic("heartbeat", 1, &[]).await;
    let first = beating(&env, &topic).await.start().await;
    let second = beating(&env, &topic).await.start().await;
    confirms_after(&second, 0.0).await;
    let leads = async |relay: &Relay| relay.metrics().await.value("outbox_leader", &[]) == 1.0;
    let (leader, other) = if leads(&first).await { (&first, &second) } else { (&second, &first) };
    leader.kill().await;
    eventually(DEADLINE, "the other one leads", async || leads(other).await).await;
    // The gauge alone may still be catching up with the first leader's last one.
    env.eventually_true("select exists (select from outbox.ledger where epoch = 2 and published <> '{}')")
        .await;
    let last = confirmed(other).await;
    confirms_after(other, last).await;
    // Nobody writes any more, so the topic has an end.
    other.kill().await;
    let records = env.read_topic(&topic).await;
    assert!(records.iter().any(|record| epoch(record) == 2), "a heartbeat of the new leader has arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_heartbeats_go_like_other_rows() {
    let env = Env::new().await;
    let topic = env.create_topic("heartbeat", 1, &[]).await;
    let relay = beating(&env, &topic).await.set("retention.published", "1s").set("retention.every", "100ms");
    let relay = relay.start().await;
    env.eventually_true("select min(id) > 5 from outbox.message").await;
    let last = confirmed(&relay).await;
    confirms_after(&relay, last).await;
}
