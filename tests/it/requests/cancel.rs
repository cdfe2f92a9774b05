//! Requests end where they should: cancelled, under the policy, at the time that was meant.

use outbox_relay::crash_point;

use crate::requests::{ask, bury, impatient};
use crate::support::history::RECOVERY;
use crate::support::lines::{Line, versions, write, write_many};
use crate::support::{DEADLINE, Env, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_leaves_the_rest_dead_and_says_who_wanted_that() {
    let env = Env::new().await;
    let topic = env.create_topic("cancelled", 1, &[]).await;
    bury(&env, &topic, 7, 2000).await;
    let _relay = impatient(&env).await.start().await;
    let id = ask(&env, &format!("outbox.requeue('{{\"topic\": \"{topic}\"}}', pace => 20)"), "running").await;
    env.eventually_true(&format!("select done >= 20 from outbox.request where id = {id}")).await;
    let cancel = ask(&env, &format!("outbox.cancel({id}, 'wrong topic')"), "done").await;
    env.eventually_true(&format!("select state = 'cancelled' from outbox.request where id = {id}")).await;
    let took = format!(
        "select extract(epoch from c.ended_at - c.asked_at)::float8 from outbox.request c where c.id = {cancel}"
    );
    assert!(env.one::<f64>(&took).await < 2.0);
    let done: i64 = env.one(&format!("select done from outbox.request where id = {id}")).await;
    let error: String = env.one(&format!("select error from outbox.request where id = {id}")).await;
    assert_eq!(error, format!("cancelled by request {cancel}"));
    let audit = format!("select who || ' ' || why || ' ' || value from outbox.request where id = {cancel}");
    assert_eq!(env.one::<String>(&audit).await, format!("postgres wrong topic {{\"request\": {id}}}"));
    // What had entered goes out, what had not stays dead.
    env.expect_records(&topic, done as usize).await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    ask(&env, "outbox.discard('{\"fingerprint\": \"none\"}', 'the loop goes on')", "done").await;
    assert_eq!(env.read_topic(&topic).await.len() as i64, done);
    let open = "select count(*) from outbox.dead_letter where state = 'open'";
    assert_eq!(env.one::<i64>(open).await, 2000 - done);

    for over in [id, cancel, 4711] {
        let refused = ask(&env, &format!("outbox.cancel({over}, 'again')"), "refused").await;
        let error: String = env.one(&format!("select error from outbox.request where id = {refused}")).await;
        assert_eq!(
            error,
            format!("request {over} is over, or there is none; outbox.request shows what became of it")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_in_effect_ends_with_its_cancellation() {
    let env = Env::new().await;
    let topic = env.create_topic("held", 1, &[]).await;
    let relay = impatient(&env).await.start().await;
    write_many(&env, &topic, 1, 0, 2).await;
    env.expect_records(&topic, 2).await;
    let id = ask(&env, &format!("outbox.pause('{topic}')"), "running").await;
    env.expect_lane(&topic, "paused").await;
    write_many(&env, &topic, 1, 2, 3).await;
    relay.kill().await;
    // Also where the leader that is to do it comes only after that.
    let cancel: i64 = env.one(&format!("select outbox.cancel({id}, 'works again')")).await;
    let _next = impatient(&env).await.start().await;
    assert_eq!(versions(&env.expect_records(&topic, 5).await)["k0"], [0, 1, 2, 3, 4]);
    env.eventually_true(&format!(
        "select array_agg(state order by id) = '{{cancelled,done}}' from outbox.request where id in ({id}, {cancel})"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_does_not_wait_for_kafka_and_withdraws_the_page_that_does() {
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("silent", 1, &[]).await;
    bury(&env, &topic, 7, 5000).await;
    let _relay = impatient(&env).await.set("retry.attempts", 1_000_000).start().await;
    write_many(&env, &topic, 1, 0, 5).await;
    env.expect_records(&topic, 5).await;
    env.stop_kafka().await;
    // The first page is due and stays on its way to Kafka; the second one stands behind it.
    let id =
        ask(&env, &format!("outbox.requeue('{{\"topic\": \"{topic}\"}}', pace => 500)"), "running").await;
    env.eventually_true(&format!(
        "select done = 500 and begun_at < clock_timestamp() - interval '3 seconds' from outbox.request where id = {id}"
    ))
    .await;
    let cancel = ask(&env, &format!("outbox.cancel({id}, 'kafka is down')"), "done").await;
    let took = format!(
        "select extract(epoch from c.ended_at - c.asked_at)::float8 from outbox.request c where c.id = {cancel}"
    );
    assert!(env.one::<f64>(&took).await < 2.0);
    env.start_kafka_again().await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let moved = "select count(*) from outbox.dead_letter where state = 'requeued'";
    assert_eq!(env.one::<i64>(moved).await, 500, "the page that had not entered stays dead");
    // The loop goes on with other requests.
    ask(&env, r#"outbox.requeue('{"ids": [1004999]}')"#, "done").await;
    env.eventually_true("select state = 'requeued' from outbox.dead_letter where id = 1004999").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_whose_time_was_over_before_it_began_moves_nothing() {
    let env = Env::new().await;
    let topic = env.create_topic("tardy", 1, &[]).await;
    bury(&env, &topic, 7, 10).await;
    env.execute(&format!(
        "insert into outbox.request (kind, filter, expires_at) values ('requeue', '{{\"topic\": \"{topic}\"}}', clock_timestamp())"
    ))
    .await;
    let _relay = impatient(&env).await.start().await;
    env.eventually_true("select state = 'expired' and done = 0 from outbox.request").await;
    ask(&env, r#"outbox.discard('{"topic": "none"}', 'the loop goes on')"#, "done").await;
    env.eventually_true("select count(*) = 10 from outbox.dead_letter where state = 'open'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_requeued_under_skip_hold_nobody_back_after_a_takeover() {
    let env = Env::new().await;
    let topic = env.create_topic("loose", 1, &[("max.message.bytes", "2000")]).await;
    bury(&env, &topic, 1, 2).await;
    env.execute("update outbox.dead_letter set payload = convert_to(repeat('0', 5000), 'UTF8')").await;
    env.one::<i64>(&format!("select outbox.requeue('{{\"topic\": \"{topic}\"}}')")).await;
    let patient = async || {
        let relay = impatient(&env).await.set("retry.attempts", 1_000_000);
        relay.topic(&topic, "on_failure = 'skip'")
    };
    let first = patient().await.env("OUTBOX_RELAY_CRASH_AT", crash_point::AFTER_REQUEUE);
    first.start().await.wait_for_exit(RECOVERY).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.deferred where passable").await, 2);
    let second = patient().await.start().await;
    second.wait_for_log("leading").await;
    write(&env, &[Line::new(&topic, "k0", 7)]).await;
    assert_eq!(versions(&env.expect_records(&topic, 1).await)["k0"], [7]);
    // They are still retried. The row itself may have been put off in their company, until its confirm is settled.
    env.eventually_true("select count(*) = 2 and min(id) >= 1000000 from outbox.deferred").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_free_when_its_topic_is_switched_to_skip() {
    let env = Env::new().await;
    let topic = env.create_topic("switched", 1, &[("max.message.bytes", "2000")]).await;
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000).start().await;
    let line = |version: i64| Line::new(&topic, "k", version).of_bytes(if version == 0 { 5000 } else { 100 });
    write(&env, &(0..3).map(line).collect::<Vec<_>>()).await;
    env.eventually_true("select max(attempts) >= 2 and count(*) = 3 from outbox.deferred").await;
    ask(&env, &format!(r#"outbox.set_policy('{topic}', '{{"on_failure": "skip"}}')"#), "running").await;
    assert_eq!(versions(&env.expect_records(&topic, 2).await)["k"], [1, 2]);
    let free = async || relay.metrics().await.value("outbox_blocked_keys", &[]) == 0.0;
    eventually(DEADLINE, "no key is blocked", free).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.deferred where passable").await, 1);
    // And back: what fails now holds the key again, and lets it go when it is out.
    ask(&env, &format!(r#"outbox.set_policy('{topic}', '{{"on_failure": "block"}}')"#), "running").await;
    env.eventually_true("select count(*) = 0 from outbox.deferred where passable").await;
    let held = async || relay.metrics().await.value("outbox_blocked_keys", &[]) == 1.0;
    eventually(DEADLINE, "the key is blocked", held).await;
    write(&env, &[line(3)]).await;
    env.eventually_true("select count(*) = 1 from outbox.deferred where reason = 'behind'").await;
    env.alter_topic(&topic, &[]).await;
    assert_eq!(versions(&env.expect_records(&topic, 4).await)["k"], [1, 2, 0, 3]);
    eventually(DEADLINE, "no key is blocked", free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_mean_the_same_wherever_the_relay_runs_and_are_fixed_when_they_are_asked() {
    let env = Env::new().await;
    let topic = env.create_topic("timed", 1, &[]).await;
    bury(&env, &topic, 4, 4).await;
    env.execute(&format!(
        "alter role relay_login in database \"{}\" set timezone = 'Pacific/Kiritimati'",
        env.database()
    ))
    .await;
    env.execute("update outbox.dead_letter set dead_at = '2026-01-01 12:00+00' where id = 1000002").await;
    let filter = r#"{"dead_from": "2026-01-01 11:30", "dead_until": "2026-01-01 14:30+02"}"#;
    let first: i64 = env.one(&format!("select outbox.requeue('{filter}')")).await;
    let stored = format!(
        "select filter ->> 'dead_from' || ' ' || (filter ->> 'dead_until') from outbox.request where id = {first}"
    );
    assert_eq!(env.one::<String>(&stored).await, "2026-01-01T11:30:00+00:00 2026-01-01T12:30:00+00:00");
    let second: i64 =
        env.one(r#"select outbox.requeue('{"dead_until": "now", "ids": [1000000, 1000001]}')"#).await;
    env.execute("update outbox.dead_letter set dead_at = clock_timestamp() where id = 1000001").await;
    let _relay = impatient(&env).await.start().await;
    env.eventually_true(&format!(
        "select bool_and(state = 'done') from outbox.request where id in ({first}, {second})"
    ))
    .await;
    let sent = "select array_agg(id order by id) from outbox.dead_letter where state = 'requeued'";
    assert_eq!(env.one::<Vec<i64>>(sent).await, [1_000_000, 1_000_002]);
}
