//! Producers can ask how much waits, and a topic can have a quota.

use sqlx::PgPool;

use crate::operate::{say, says};
use crate::support::Env;
use crate::support::lines::{Line, write};

async fn publish(pool: &PgPool, topic: &str) -> Result<(), String> {
    let call = format!("select outbox.publish('{topic}', 'k', 'x')");
    sqlx::query(&call).execute(pool).await.map(|_| ()).map_err(|error| error.to_string())
}

async fn waiting(env: &Env, topic: Option<&str>) -> i64 {
    let topic = topic.map_or("null".to_owned(), |topic| format!("'{topic}'"));
    sqlx::query_scalar(&format!("select waiting from outbox.pressure({topic})"))
        .fetch_one(env.app())
        .await
        .expect("a producer may ask")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_a_quota_refuses_more_until_the_relay_has_caught_up() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let other = env.create_topic("users", 1, &[]).await;
    let said = say(&env, &format!("topics set {topic} --quota 5 --yes --why drill")).await;
    says(&said, 0, &["done (noted as request 1)"]);
    for _ in 0..5 {
        publish(env.app(), &topic).await.expect("the quota is not used up");
    }
    let refused = publish(env.app(), &topic).await.expect_err("five wait");
    assert!(
        refused.contains(&format!("about 5 messages of topic {topic} wait, its quota is 5")),
        "{refused}"
    );
    let many = format!(r#"select outbox.publish_many('[{{"topic": "{topic}", "payload": "x"}}]')"#);
    let refused = sqlx::query(&many).execute(env.app()).await.expect_err("by any door").to_string();
    assert!(refused.contains("its quota is 5"), "{refused}");
    publish(env.app(), &other).await.expect("another topic has none");
    // The plain insert is a producer's own choice.
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    assert_eq!((waiting(&env, Some(&topic)).await, waiting(&env, None).await), (6, 7));

    let _relay = env.start_relay().await;
    env.expect_records(&topic, 6).await;
    env.eventually_true("select waiting = 0 and lag = '0' from outbox.pressure()").await;
    publish(env.app(), &topic).await.expect("nothing waits any more");
    says(&say(&env, &format!("topics set {topic} --quota none --yes")).await, 0, &["done"]);
    assert_eq!(env.one::<i64>("select count(*) from outbox.quota").await, 0);
    let audit = say(&env, "requests list").await;
    says(&audit, 0, &["quota", "drill", "admin_login"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_off_or_stands_in_a_lane_counts() {
    let env = Env::new().await;
    let missing = env.topic("missing");
    let _relay = env.relay().await.expect_errors().start().await;
    write(&env, &[Line::new(&missing, "k", 0)]).await;
    env.expect_lane(&missing, "missing").await;
    write(&env, &[Line::new(&missing, "k", 1), Line::new(&missing, "l", 0)]).await;
    env.eventually_true(&format!("select waiting = 3 and lag > '0' from outbox.pressure('{missing}')")).await;
    assert_eq!(waiting(&env, Some("nosuch")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_the_admins_business() {
    let env = Env::new().await;
    let set = "select outbox.set_quota('orders', 5)";
    sqlx::query(set).execute(env.app()).await.expect_err("a producer may not");
    sqlx::query("insert into outbox.quota values ('orders', 5)")
        .execute(env.app())
        .await
        .expect_err("nor so");
    says(&say(&env, "topics set or/ders --quota 5 --yes").await, 1, &["a quota needs the name of one topic"]);
    says(&say(&env, "topics set orders --quota 0 --yes").await, 1, &["whole number of messages"]);
    says(&say(&env, "topics set orders --quota 5 --rate 5 --yes").await, 2, &["cannot be used with"]);
    says(
        &say(&env, "topics set orders --quota 5 --dry-run").await,
        0,
        &["would refuse messages of topic orders"],
    );
    assert_eq!(env.one::<i64>("select count(*) from outbox.quota").await, 0);
}
