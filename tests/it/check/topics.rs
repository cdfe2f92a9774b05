//! Sabotaged topics: missing, forbidden, too small for what waits, or forgetful of what was confirmed.

use super::Ground;
use crate::support::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_missing_are_named_with_who_needs_them() {
    let ground = Ground::new().await;
    let missing = ground.env.topic("nosuch");
    let file = format!("[[topic]]\nmatch = '{}'\ndead_letter_topic = '{missing}'\n", ground.topic);
    let create = format!("--create --topic {missing} ");
    let named = format!("{missing}: missing, and a [[topic]] section names it");
    ground.check().await.file(&file).fails("topics there", &[&named, &create]).await;

    ground.env.execute(&format!("select outbox.publish('{missing}', 'k', 'hello')")).await;
    let waited_for = format!("{missing}: missing, and rows wait for it");
    let found = ground.check().await.fails("topics there", &[&waited_for, &create]).await;
    assert_eq!(found.line("topics rights").state, "pass", "the other topic is looked at: {}", found.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_on_topics_are_found_out_without_writing() {
    let ground = Ground::new().await;
    let (env, topic) = (&ground.env, &ground.topic);
    let check = ground.restricted("relay").await;
    // A broker learns of an ACL a moment after the tool has set it.
    let until = async |line: &str, state: &str| {
        eventually(DEADLINE, line, async || check.found().await.line(line).state == state).await;
    };
    env.hide_configuration(topic).await;
    until("topics settings", "warn").await;
    let words = ["they cannot be read", "--allow-principal User:relay --operation DescribeConfigs --topic"];
    check.warns("topics settings", &words).await;

    env.allow_topic(topic).await;
    until("topics settings", "pass").await;
    env.forbid_topic(topic).await;
    until("topics rights", "fail").await;
    // Nobody has allowed to read the settings either, and that is not said twice.
    let words = ["this login may not write to it", "--allow-principal User:relay --operation Write --topic"];
    check.fails("topics rights", &words).await;
    env.allow_topic(topic).await;
    assert!(env.read_topic(topic).await.is_empty(), "no probe is a record");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_do_not_take_what_waits_are_failures() {
    let ground = Ground::new().await;
    let (env, topic) = (&ground.env, &ground.topic);
    env.execute(&format!("select outbox.publish('{topic}', 'k', repeat('x', 3000))")).await;
    env.alter_topic(topic, &[("max.message.bytes", "2000")]).await;
    let words = [
        "max.message.bytes is 2000, and a record of 3183 bytes waits",
        "--add-config max.message.bytes=1048576",
    ];
    ground.check().await.fails("topics record size", &words).await;

    env.alter_topic(topic, &[("min.insync.replicas", "2")]).await;
    let words = ["min.insync.replicas is 2 and there are 1 replicas", "--add-config min.insync.replicas=1"];
    ground.check().await.fails("topics in-sync replicas", &words).await;

    env.alter_topic(topic, &[("cleanup.policy", "compact")]).await;
    assert_eq!(ground.check().await.found().await.line("topics keys").state, "pass");
    env.execute(&format!("insert into outbox.message (topic) values ('{topic}')")).await;
    let words = ["compacts it, and a row without key waits", "--add-config cleanup.policy=delete"];
    ground.check().await.fails("topics keys", &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_can_lose_what_was_confirmed_are_warnings() {
    let ground = Ground::new().await;
    let (env, topic) = (&ground.env, &ground.topic);
    env.alter_topic(topic, &[("retention.ms", "60000")]).await;
    let words = ["retention.ms is 60000 (1m)", "--add-config retention.ms=604800000"];
    ground.check().await.warns("topics retention", &words).await;
    env.alter_topic(topic, &[("retention.bytes", "100000")]).await;
    let words = ["retention.bytes is 100000", "--add-config retention.bytes=-1"];
    ground.check().await.warns("topics retention", &words).await;
    env.alter_topic(topic, &[("unclean.leader.election.enable", "true")]).await;
    let words = ["unclean.leader.election.enable is on", "--add-config unclean.leader.election.enable=false"];
    ground.check().await.warns("topics elections", &words).await;
}
