//! What gauges say while something is wrong, on the leader and on a standby.

use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env, Relay, eventually};

/// The newest scrape of each relay has this value.
async fn expect(relays: &[&Relay], name: &str, labels: &[(&str, &str)], fits: impl Fn(f64) -> bool) {
    for relay in relays {
        let fit = async || relay.metrics().await.get(name, labels).is_some_and(&fits);
        eventually(DEADLINE, &format!("{name} {labels:?} of both"), fit).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_and_standby_show_dead_letters_blocked_keys_and_how_kafka_is() {
    let env = Env::new().await;
    let topic = env.create_topic("gauges", 1, &[("max.message.bytes", "2000")]).await;
    let relay = async || {
        let relay = env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms").expect_errors();
        let section = "attempts = 3\nowner = \"checkout\"\ntier = \"critical\"";
        relay.topic(&topic, section).start().await
    };
    let leader = relay().await;
    let standby = relay().await;
    let both = [&leader, &standby];
    // Before anything was written: the configuration names the topic.
    let of_topic = [("topic", topic.as_str())];
    expect(&both, "outbox_dead_letters", &of_topic, |letters| letters == 0.0).await;
    let info = [
        ("topic", topic.as_str()),
        ("owner", "checkout"),
        ("tier", "critical"),
        ("delivery", "at_least_once"),
    ];
    expect(&both, "outbox_topic_info", &info, |one| one == 1.0).await;
    expect(&both, "outbox_oldest_dead_letter_timestamp_seconds", &[], |at| at == 0.0).await;

    write(&env, &[Line::new(&topic, "k", 0).of_bytes(5000), Line::new(&topic, "k", 1)]).await;
    expect(&both, "outbox_dead_letters", &of_topic, |letters| letters == 1.0).await;
    expect(&both, "outbox_oldest_dead_letter_timestamp_seconds", &[], |at| at > 1e9).await;
    env.expect_records(&topic, 1).await;
    expect(&both, "outbox_oldest_blocked_key_timestamp_seconds", &[], |at| at == 0.0).await;

    expect(&both, "outbox_kafka_brokers", &[("state", "up")], |brokers| brokers == 1.0).await;
    expect(&both, "outbox_runtime_workers", &[], |workers| workers >= 1.0).await;
    expect(&both, "outbox_runtime_busy_seconds_total", &[], |seconds| seconds > 0.0).await;
    expect(&both, "outbox_runtime_delay_seconds_count", &[], |looks| looks > 0.0).await;

    env.execute("update outbox.dead_letter set state = 'discarded'").await;
    expect(&both, "outbox_dead_letters", &of_topic, |letters| letters == 0.0).await;
}

/// A row that was to wait for two seconds was delivered at once when they were over.
async fn scheduled_rows_are_not_late(env: &Env, relay: &Relay) {
    let topic = env.create_topic("later", 1, &[]).await;
    let sql = "insert into outbox.message (topic, deliver_after) values ($1, clock_timestamp() + interval '2 seconds')";
    sqlx::query(sql).bind(&topic).execute(env.app()).await.expect("written");
    env.expect_records(&topic, 1).await;
    let labels = [("topic", topic.as_str())];
    expect(&[relay], "outbox_delivery_seconds_count", &labels, |count| count == 1.0).await;
    expect(&[relay], "outbox_delivery_seconds_sum", &labels, |seconds| seconds < 1.9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_waits_shows_since_when_and_its_retry_takes_part_in_a_histogram() {
    let env = Env::new().await;
    let topic = env.create_topic("gauges", 1, &[("max.message.bytes", "2000")]).await;
    let relay = env.relay().await.set("retry.base", "100ms").set("retry.max", "200ms");
    let relay = relay.set("retry.attempts", 1000).expect_errors().start().await;
    scheduled_rows_are_not_late(&env, &relay).await;
    write(&env, &[Line::new(&topic, "k", 0).of_bytes(5000), Line::new(&topic, "k", 1)]).await;
    expect(&[&relay], "outbox_oldest_blocked_key_timestamp_seconds", &[], |at| at > 1e9).await;
    expect(&[&relay], "outbox_retry_seconds_count", &[("topic", &topic)], |count| count == 0.0).await;

    env.alter_topic(&topic, &[("max.message.bytes", "1000000")]).await;
    env.expect_records(&topic, 2).await;
    expect(&[&relay], "outbox_retry_seconds_count", &[("topic", &topic)], |count| count >= 1.0).await;
    expect(&[&relay], "outbox_oldest_blocked_key_timestamp_seconds", &[], |at| at == 0.0).await;
}
