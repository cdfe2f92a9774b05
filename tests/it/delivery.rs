//! What a service writes is what Kafka gets, byte for byte.

use crate::support::Env;

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_row_becomes_a_confirmed_record() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = env.start_relay().await;
    relay.wait_for_log("leading").await;

    sqlx::query("insert into outbox.message (topic, key, payload) values ($1, 'k', 'hello')")
        .bind(&topic)
        .execute(env.app())
        .await
        .expect("insert");

    let records = env.expect_records(&topic, 1).await;
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(records[0].payload.as_deref(), Some(&b"hello"[..]));
    env.eventually_true("select state = 'published' from outbox.status").await;
    assert!(relay.terminate().await.success());
}
