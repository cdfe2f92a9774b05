//! Sabotaged leases and work: outboxes that belong elsewhere, leaders that are gone, rows that pile up.

use super::Ground;

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_belongs_elsewhere_is_refused() {
    let ground = Ground::new().await;
    let env = &ground.env;
    let rebase = "outbox-relay migrate --rebase";
    let sabotage = async |set: &str| env.execute(&format!("update outbox.lease set {set}")).await;

    sabotage("database_oid = database_oid::bigint + 1").await;
    ground.check().await.fails("lease identity", &["from another database of this server", rebase]).await;
    sabotage("database_oid = (select oid from pg_database where datname = current_database()), system_identifier = 1").await;
    ground.check().await.fails("lease identity", &["from another Postgres server", rebase]).await;
    sabotage("system_identifier = null, kafka_cluster_id = 'another'").await;
    let words = ["went to cluster another", "correct kafka.brokers", rebase];
    ground.check().await.fails("lease kafka cluster", &words).await;
    sabotage("kafka_cluster_id = null").await;

    env.execute("alter sequence outbox.message_id_seq cache 50").await;
    let words = ["draws 50 ids ahead", "alter sequence outbox.message_id_seq cache 1;"];
    let found = ground.check().await.fails("lease id sequence", &words).await;
    env.execute(&found.line("lease id sequence").remedy).await;
    assert_eq!(ground.check().await.found().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_gone_is_told_from_none() {
    let ground = Ground::new().await;
    let env = &ground.env;
    env.execute("delete from outbox.incarnation").await;
    ground
        .check()
        .await
        .warns("lease memory", &["has crashed or was promoted", "nothing where a relay runs"])
        .await;
    env.execute("update outbox.beat set at = clock_timestamp() - interval '1 hour'").await;
    env.execute("insert into outbox.incarnation (token) values (gen_random_uuid())").await;
    let words = ["host/1 has been silent for 36", "nobody has taken over", "start outbox-relay run"];
    ground.check().await.fails("lease leader", &words).await;
    env.execute("update outbox.lease set holder = null, holder_name = null").await;
    ground.check().await.warns("lease leader", &["nobody leads", "outbox-relay run"]).await;

    let leader = env.start_relay().await;
    leader.wait_for_log("leading").await;
    let standby = env.start_relay().await;
    let follows = "select count(*) = 1 from pg_stat_activity
                    where datname = current_database() and application_name = 'outbox-relay/follow'";
    env.eventually_true(follows).await;
    let found = ground.check().await.found().await;
    let line = found.line("lease leader");
    assert!(line.state == "pass" && line.found.ends_with("1 standby"), "{line:?}");
    drop((leader, standby));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_piles_up_is_a_warning() {
    let ground = Ground::new().await;
    let (env, topic) = (&ground.env, &ground.topic);
    env.execute(&format!(
        "insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at)
         values (1000, gen_random_uuid(), '{topic}', 'a', now(), 'retry', 'infinity')"
    ))
    .await;
    let words = ["1 of retry.deferred_max = 1", "outbox-relay keys list"];
    ground.check().await.set("retry.deferred_max", 1).warns("work deferred rows", &words).await;

    env.execute(&format!(
        "insert into outbox.dead_letter (id, event_id, topic, created_at, reason_class, fingerprint, error, attempts,
                                         first_failed_at, last_failed_at)
         values (1001, gen_random_uuid(), '{topic}', now(), 'refused', 'f', 'e', 1, now(), now())"
    ))
    .await;
    let words = ["1 of 1 causes", "outbox-relay dlq groups"];
    ground.check().await.warns("work dead letters", &words).await;
    env.execute("delete from outbox.dead_letter").await;

    env.execute(&format!(
        "insert into outbox.message (slot, topic, created_at) values (0, '{topic}', now() - interval '1 hour')"
    ))
    .await;
    env.execute("delete from outbox.message where created_at > now() - interval '30 minutes'").await;
    let words = ["the oldest is 1h", "retention.published is 1s", "see that a relay runs"];
    let check = ground.check().await.set("retention.published", "1s").set("retention.every", "1s");
    check.warns("work old rows", &words).await;
}
