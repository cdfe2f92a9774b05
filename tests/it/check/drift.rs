//! Topics that are changed behind the relay's back: its leader sees it, and so does `check` where records tell.

use std::time::Duration;

use super::Ground;
use crate::support::lines::{assert_complete, write_many};
use crate::support::{Relay, eventually};

/// The relay looks at a topic about once a minute, and within seconds when an operator says that something was repaired.
async fn drifts(ground: &Ground, relay: &Relay, settings: &[(&str, f64)]) {
    ground
        .env
        .execute(&format!(
            "insert into outbox.request (kind, topic) values ('retry_now', '{}')",
            ground.topic
        ))
        .await;
    let name = "outbox_topic_setting_drift";
    eventually(Duration::from_secs(20), &format!("{settings:?}"), async || {
        let metrics = relay.metrics().await;
        let is = |(setting, value): &(&str, f64)| {
            metrics.get(name, &[("topic", &ground.topic), ("setting", setting)]) == Some(*value)
        };
        settings.iter().all(is)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_changed_behind_the_relays_back_drift() {
    let ground = Ground::new().await;
    let (env, topic) = (&ground.env, &ground.topic);
    env.execute("update outbox.lease set holder = null; delete from outbox.message").await;
    let relay = env.start_relay().await;
    write_many(env, topic, 20, 0, 40).await;
    assert_complete(&env.expect_records(topic, 40).await, 20, 2);
    let drift = "outbox_topic_setting_drift";
    assert_eq!(relay.metrics().await.value(drift, &[("topic", topic)]), 0.0, "a series each, all at zero");

    env.alter_topic(topic, &[("retention.ms", "60000"), ("unclean.leader.election.enable", "true")]).await;
    env.kafka().await.add_partitions(topic, 7).await;
    let changed = [("partitions", 1.0), ("retention_ms", 1.0), ("unclean_leader_election", 1.0)];
    drifts(&ground, &relay, &[&changed[..], &[("cleanup_policy", 0.0), ("max_message_bytes", 0.0)]].concat())
        .await;
    let line =
        relay.wait_for_log("a topic is not as it was, or can lose records; see outbox-relay check").await;
    assert_eq!(line.field("topic").and_then(|topic| topic.as_str()), Some(topic.as_str()));

    env.alter_topic(topic, &[]).await;
    drifts(&ground, &relay, &[("partitions", 1.0), ("retention_ms", 0.0), ("unclean_leader_election", 0.0)])
        .await;
    // Records of before lie where their keys do not lead any more: who was not there can tell by that.
    env.eventually_true("select count(*) = 40 from outbox.status where state = 'published'").await;
    let words = ["of the last 40 records with a key lie elsewhere than their key leads among 7 partitions"];
    ground.check().await.warns("topics partitions", &words).await;
    assert!(relay.terminate().await.success());
}
