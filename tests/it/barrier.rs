//! What a failover or a reset could still undo is not published, and never passed over in silence.

use outbox_relay::store::StoreError;
use outbox_relay::store::poll::flush_barrier;
use uuid::Uuid;

use crate::support::Env;

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_synchronous_standby_has_is_not_published() {
    let env = Env::with_own_postgres().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = env.relay().await.set("lease.ttl", "60s").start().await;
    relay.wait_for_log("leading").await;

    env.execute("alter system set synchronous_standby_names = 'absent'").await;
    env.execute("select pg_reload_conf()").await;
    env.eventually_true("select current_setting('synchronous_standby_names') = 'absent'").await;
    // The producer does not wait for the standby, so its row is visible and on the primary's disk.
    let hasty =
        "begin; set local synchronous_commit = local; insert into outbox.message (topic, key, payload)
                 values ('{topic}', 'k', 'hello'); commit";
    env.execute(&hasty.replace("{topic}", &topic)).await;
    env.eventually_true(
        "select exists (select from pg_stat_activity
                         where application_name = 'outbox-relay/read' and wait_event = 'SyncRep')",
    )
    .await;
    assert!(env.read_topic(&topic).await.is_empty(), "the standby could be promoted without this row");

    env.execute("alter system reset synchronous_standby_names").await;
    env.execute("select pg_reload_conf()").await;
    env.expect_records(&topic, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_went_backwards_stops_reading_with_the_remedy() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = env.start_relay().await;
    for n in 0..10 {
        env.execute(&format!("select outbox.publish('{topic}', 'k', '{n}')")).await;
    }
    env.expect_records(&topic, 10).await;

    env.execute("truncate outbox.message restart identity").await;
    env.execute(&format!("select outbox.publish('{topic}', 'k', 'after')")).await;
    let line = relay.wait_for_log("postgres failed, trying again").await;
    assert!(line.text.contains("outbox.message_id_seq stands at 1"), "{}", line.text);
    assert!(line.text.contains("migrate --rebase"), "{}", line.text);
}

/// Behind a pooler a connection survives a crash of the server; what was read before may be lost, and a server that knows nothing of
/// it must not say that it is durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_forgotten_us_makes_nothing_durable() {
    let env = Env::new().await;
    let token = Uuid::new_v4();
    env.execute(&format!("insert into outbox.incarnation (token) values ('{token}')")).await;
    let mut session = env.store().connect("read").await.expect("the server answers");
    // What is on disk already, and what has to get there.
    for written in [0, i64::MAX] {
        flush_barrier(&mut session, Some(written), token).await.expect("it is the same server");
        let other = flush_barrier(&mut session, Some(written), Uuid::new_v4()).await;
        assert!(matches!(other, Err(StoreError::LeaseLost)), "{other:?}");
    }
    env.execute("delete from outbox.incarnation").await;
    for written in [0, i64::MAX] {
        let forgotten = flush_barrier(&mut session, Some(written), token).await;
        assert!(matches!(forgotten, Err(StoreError::Forgotten)), "{forgotten:?}");
    }
}
