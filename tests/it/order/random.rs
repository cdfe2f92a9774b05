//! Order at random: limits, topics and relays come and go while writers write.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;

use super::{impatient, is_calm};
use crate::support::lines::{Line, versions};
use crate::support::{Env, random};

/// One writer of the random test: keys of its own, so that their versions have one order.
async fn write_at_random(
    pool: PgPool,
    topics: [String; 3],
    writer: usize,
    mut random: StdRng,
) -> Vec<Vec<i64>> {
    const KEYS: usize = 6;
    let sql = "insert into outbox.message (topic, key, payload) values ($1, $2, $3)";
    let mut next = vec![vec![0; KEYS]; topics.len()];
    let mut pace = tokio::time::interval(Duration::from_millis(8));
    for _ in 0..400 {
        pace.tick().await;
        let mut written = next.clone();
        let mut transaction = pool.begin().await.expect("begin");
        for _ in 0..random.random_range(1..6) {
            let (topic, key) = (random.random_range(0..topics.len()), random.random_range(0..KEYS));
            let bytes = if random.random_ratio(1, 25) { random.random_range(20_000..90_000) } else { 200 };
            let line =
                Line::new(&topics[topic], format!("w{writer}-{key}"), written[topic][key]).of_bytes(bytes);
            let insert = sqlx::query(sql).bind(line.topic).bind(line.key.as_ref().map(String::as_bytes));
            insert.bind(line.payload()).execute(&mut *transaction).await.expect("insert");
            written[topic][key] += 1;
        }
        if random.random_ratio(1, 10) {
            transaction.rollback().await.expect("rollback");
        } else {
            transaction.commit().await.expect("commit");
            next = written;
        }
    }
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn order_holds_while_limits_topics_and_relays_come_and_go_at_random() {
    let mut random = random();
    let env = Env::new().await;
    let moody = env.create_topic("moody", 3, &[]).await;
    let well = env.create_topic("well", 3, &[]).await;
    let topics = [moody.clone(), well, env.topic("late-born")];
    let start =
        async || impatient(&env).await.set("lease.ttl", "1s").set("relay.page_rows", 100).start().await;
    let mut relay = start().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let seed = StdRng::seed_from_u64(random.random());
        let writing = write_at_random(env.app().clone(), topics.clone(), writer, seed);
        writers.spawn(async move { (writer, writing.await) });
    }

    // A step every half a second of the writers' work.
    let mut step = tokio::time::interval(Duration::from_millis(500));
    let (mut written, mut steps) = (HashMap::new(), 0);
    while written.len() < 4 {
        tokio::select! {
            done = writers.join_next() => {
                let (writer, versions) = done.expect("four writers").expect("no panic");
                written.insert(writer, versions);
            }
            _ = step.tick() => {
                steps += 1;
                let limit = ["1048588", "70000", "30000", "15000"][random.random_range(0..4)];
                env.alter_topic(&moody, &[("max.message.bytes", limit)]).await;
                if steps == 4 {
                    env.create_topic("late-born", 2, &[]).await;
                }
                if random.random_ratio(1, 4) {
                    relay.kill().await;
                    relay = start().await;
                }
            }
        }
    }
    env.alter_topic(&moody, &[]).await;
    // Late rows are in no other number.
    env.eventually_true("select not exists (select from outbox.status where state <> 'published')").await;

    for (at, topic) in topics.iter().enumerate() {
        let records = env.read_topic(topic).await;
        let mut found = versions(&records);
        for (writer, next) in &written {
            for (key, next) in next[at].iter().enumerate() {
                let key = format!("w{writer}-{key}");
                let found = found.remove(&key).unwrap_or_default();
                let mut due = 0;
                for version in &found {
                    assert!(*version <= due, "{topic} {key}: {version} comes before {due} in {found:?}");
                    due = due.max(version + 1);
                }
                assert_eq!(
                    due, *next,
                    "{topic} {key}: rows are missing, or rolled back ones there: {found:?}"
                );
            }
        }
        assert!(found.is_empty(), "records of nobody: {:?}", found.keys());
    }
    is_calm(&relay, 80);
}
