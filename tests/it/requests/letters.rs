//! Dead letters that are requeued or discarded while something else goes wrong: kills, outages, changes by hand, large numbers.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use outbox_relay::store::connect::SETTINGS;
use outbox_relay::{Ask, AskError, Letters, crash_point};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, raw_sql};

use super::{ask, bury, impatient, no_copy};
use crate::support::history::RECOVERY;
use crate::support::lines::{assert_complete, write_many};
use crate::support::{DEADLINE, Env, Quiet, eventually, scaled};

async fn count(env: &Env, condition: &str) -> i64 {
    env.one(&format!("select count(*) from outbox.dead_letter where {condition}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_maximum_holds_although_the_leader_is_killed_before_and_after_a_page_has_moved() {
    for kind in ["requeue", "discard"] {
        for point in [crash_point::BEFORE_REQUEUE, crash_point::AFTER_REQUEUE] {
            let env = Env::new().await;
            let topic = env.create_topic("maximum", 1, &[]).await;
            bury(&env, &topic, 10, 1500).await;
            let call = format!("select outbox.{kind}('{{\"topic\": \"{topic}\", \"max\": 700}}', 'test')");
            let id: i64 = env.one(&call).await;
            let dying = impatient(&env).await.env("OUTBOX_RELAY_CRASH_AT", point);
            dying.start().await.wait_for_exit(RECOVERY).await;
            let (done, moved) = (
                env.one::<i64>("select done from outbox.request").await,
                count(&env, "state <> 'open'").await,
            );
            assert_eq!(done, moved, "the settlement of a page tells its request");
            assert_eq!(moved > 0, point == crash_point::AFTER_REQUEUE, "{kind} {point}");
            let _next = impatient(&env).await.start().await;
            env.eventually_true(&format!("select state = 'done' from outbox.request where id = {id}")).await;
            assert_eq!(count(&env, "state <> 'open'").await, 700, "{kind} {point}");
            assert_eq!(env.one::<i64>("select done from outbox.request").await, 700, "{kind} {point}");
            if kind == "requeue" {
                no_copy(&env.expect_records(&topic, 700).await);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_wait_for_a_requeue_that_cannot_go_on() {
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("stuck", 1, &[]).await;
    bury(&env, &topic, 10, 3000).await;
    let relay = impatient(&env).await.set("relay.drain_timeout", "1s").start().await;
    write_many(&env, &topic, 10, 1_000_000, 10).await;
    env.expect_records(&topic, 10).await;
    let server = std::sync::Arc::clone(&env.kafka().await.server);
    assert!(server.freeze());
    let long = ask(&env, &format!("outbox.requeue('{{\"topic\": \"{topic}\"}}')"), "running").await;
    // The first page has entered; its records get no answer, so the second one waits.
    env.eventually_true("select count(*) > 0 from outbox.deferred").await;
    env.eventually_true(&format!(
        "select done > 0 and begun_at < clock_timestamp() - interval '2 seconds' from outbox.request where id = {long}"
    ))
    .await;
    let asked = Instant::now();
    ask(&env, "outbox.pause('other')", "running").await;
    let brief = ask(&env, "outbox.pause('brief', '1 second')", "running").await;
    env.eventually_true(&format!("select state = 'expired' from outbox.request where id = {brief}")).await;
    let took = asked.elapsed();
    eprintln!("two pauses and the end of one took {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(server.thaw());
    env.eventually_true(&format!("select state = 'done' from outbox.request where id = {long}")).await;
    let records = env.expect_records(&topic, 3010).await;
    no_copy(&records);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_letters_that_were_dead_when_it_was_asked_are_meant() {
    let env = Env::new().await;
    let topic = env.create_topic("then", 1, &[]).await;
    bury(&env, &topic, 10, 600).await;
    let mut asker = PgConnection::connect(&env.admin_url()).await.expect("connect");
    raw_sql("set timezone = 'Asia/Tokyo'").execute(&mut asker).await.expect("a zone");
    let discard = async |asker: &mut PgConnection, filter: &str| -> i64 {
        let ask = format!("select outbox.discard('{filter}', 'test')");
        sqlx::query_scalar(&ask).fetch_one(asker).await.expect("it is asked")
    };
    let before = r#"{"dead_until": "2001-02-03 04:05"}"#;
    let zoned = discard(&mut asker, before).await;
    let now = discard(&mut asker, r#"{"dead_until": "now"}"#).await;
    let by_topic = discard(&mut asker, &format!(r#"{{"topic": "{topic}"}}"#)).await;
    env.execute("update outbox.dead_letter set dead_at = clock_timestamp() where id >= 1000500").await;
    let _relay = impatient(&env).await.start().await;
    for (id, done) in [(zoned, 0), (now, 500), (by_topic, 0)] {
        env.eventually_true(&format!("select state = 'done' from outbox.request where id = {id}")).await;
        assert_eq!(env.one::<i64>(&format!("select done from outbox.request where id = {id}")).await, done);
    }
    assert_eq!(count(&env, "state = 'open' and id >= 1000500").await, 100);
    let meant = format!(
        "select (filter ->> 'dead_until')::timestamptz = '2001-02-02 19:05 UTC' from outbox.request where id = {zoned}"
    );
    assert!(env.one::<bool>(&meant).await, "the time is that of whoever asks");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pace_is_kept_and_leaves_room_for_others_until_it_is_cancelled() {
    let env = Env::new().await;
    let topic = env.create_topic("slow", 1, &[]).await;
    bury(&env, &topic, 10, 2000).await;
    let _relay = impatient(&env).await.start().await;
    // Pages of twenty, one a second.
    let slow =
        ask(&env, &format!("outbox.requeue('{{\"topic\": \"{topic}\"}}', pace => 20)"), "running").await;
    env.eventually_true(&format!("select done >= 60 from outbox.request where id = {slow}")).await;
    let too_fast =
        "select done > 20 * (2 + extract(epoch from clock_timestamp() - begun_at)) from outbox.request";
    assert!(!env.one::<bool>(&format!("{too_fast} where id = {slow}")).await);
    // It leaves room for others.
    ask(&env, r#"outbox.discard('{"ids": [1001999]}', 'test', pace => 1)"#, "done").await;
    ask(&env, &format!("outbox.cancel({slow}, 'enough')"), "done").await;
    let done: i64 = env.one(&format!("select done from outbox.request where id = {slow}")).await;
    assert!((60..1000).contains(&done), "{done}");
    env.expect_records(&topic, done as usize).await;
    assert_eq!(count(&env, "state = 'requeued'").await, done);
}

#[tokio::test(flavor = "multi_thread")]
async fn due_rows_leave_while_page_after_page_is_requeued() {
    let env = Env::new().await;
    let topic = env.create_topic("turns", 1, &[]).await;
    bury(&env, &topic, 100, 10_000).await;
    let _relay = impatient(&env).await.start().await;
    let id: i64 = env.one(&format!("select outbox.requeue('{{\"topic\": \"{topic}\"}}')")).await;
    let most = AtomicI64::new(0);
    let look = async || {
        most.fetch_max(env.one("select count(*) from outbox.deferred").await, Ordering::Relaxed);
        env.one::<bool>(&format!("select state = 'done' from outbox.request where id = {id}")).await
    };
    eventually(DEADLINE, "the request is done", look).await;
    let most = most.into_inner();
    eprintln!("at most {most} of 10000 were deferred at a time");
    assert!((1..7000).contains(&most), "they enter and do not leave: {most}");
    assert_complete(&env.expect_records(&topic, 10_000).await, 100, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_not_meant_are_looked_at_once() {
    let env = Env::new().await;
    let topic = env.create_topic("sparse", 1, &[]).await;
    // A key for each, and more of them than one page looks at.
    bury(&env, &topic, 12_000, 12_000).await;
    let _relay = impatient(&env).await.start().await;
    let id = ask(&env, r#"outbox.requeue('{"key": "k0"}')"#, "done").await;
    let far = format!("select done || ' up to ' || last_id from outbox.request where id = {id}");
    assert_eq!(env.one::<String>(&far).await, "1 up to 1011999");
    env.expect_records(&topic, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_letters_are_grouped_requeued_and_discarded_in_bounded_memory() {
    let letters = scaled(10_000, 1_000_000);
    let env = Env::new().await;
    let topic = env.create_topic("many", 1, &[]).await;
    bury(&env, &topic, 1000, letters).await;
    env.execute("analyze outbox.dead_letter").await;
    let groups = "select count(*) = 2 from outbox.dead_letter_group";
    assert!(env.one::<bool>(groups).await);
    // A small cap: the requeue has to wait for room again and again.
    let relay = impatient(&env).await.set("retry.deferred_max", 2000).start().await;
    let begun = memory(relay.pid());
    let started = Instant::now();
    let patience = DEADLINE * scaled(1, 100) as u32;
    let over = async |id: i64| {
        let is_done = format!("select state = 'done' from outbox.request where id = {id}");
        eventually(patience, "the request is done", async || env.one::<bool>(&is_done).await).await;
    };
    let discard = env.one(r#"select outbox.discard('{"fingerprint": "odd"}', 'test')"#).await;
    over(discard).await;
    let requeue = env.one(&format!("select outbox.requeue('{{\"topic\": \"{topic}\"}}')")).await;
    over(requeue).await;
    let grown = memory(relay.pid()).saturating_sub(begun);
    eprintln!("{letters} letters in {:?}, memory grew by {} kB", started.elapsed(), grown);
    assert!(grown < 64 << 10, "memory grew by {grown} kB");
    assert_eq!(count(&env, "state = 'discarded'").await, letters / 2);
    assert_eq!(count(&env, "state = 'requeued' and replay_count = 1").await, letters / 2);
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    no_copy(&env.expect_records_within(&topic, (letters / 2) as usize, patience).await);
}

/// Resident memory of a process, in kB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is running");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).expect("a number of kB")
}

#[tokio::test]
async fn a_page_costs_what_it_looks_at_however_few_letters_fit() {
    let quiet = Quiet::new().await;
    let letters = scaled(50_000, 1_000_000);
    quiet
        .execute(&format!(
            "insert into outbox.dead_letter (id, event_id, topic, key, created_at, reason_class, fingerprint, error, \
                                             attempts, first_failed_at, last_failed_at) \
             select n, gen_random_uuid(), 't' || n % 10, convert_to('k' || n, 'UTF8'), now(), 'refused', 'f' || n % 20, 'e', 1, \
                    now(), now() from generate_series(1, {letters}) n"
        ))
        .await;
    let mut relay = quiet.connect("relay_login").await;
    let settings: String =
        SETTINGS[..4].iter().map(|(name, value)| format!("set {name} = {value};")).collect();
    let sql = include_str!("../../../src/store/sql/letters.sql");
    let types = "bigint, bigint, bigint[], text, text, text, text, text, text, bigint, text";
    raw_sql(&format!("{settings} prepare letters ({types}) as {sql}"))
        .execute(&mut relay)
        .await
        .expect("prepare");
    let half = letters / 2;
    for (what, arguments, looks, found, most) in [
        ("ids", "'{5,7}', null, null, null, null, null, null", 1000, 2, 50),
        ("a cause", "null, 'f3', null, null, null, null, null", 1000, 500, 500),
        ("a topic", "null, null, 't3', null, null, null, null", 1000, 500, 500),
        ("all", "null, null, null, null, null, null, 'now'", 1000, 500, 50),
        // None of these fits: the page ends where it has looked enough.
        ("a key", "null, null, null, 'nobody', null, null, null", 1000, 0, 50),
        ("a key, looking further", "null, null, null, 'nobody', null, null, null", 10_000, 0, 300),
        ("a time", "null, null, null, null, null, null, 'yesterday'", 10_000, 0, 300),
        ("a cause and a topic", "null, 'f3', 't4', null, null, null, null", 1000, 0, 500),
    ] {
        let after = if what == "ids" { 0 } else { half };
        let call = format!("letters({after}, 500, {arguments}, {looks}, 'infinity')");
        raw_sql(&format!("execute {call}"))
            .execute(&mut relay)
            .await
            .unwrap_or_else(|e| panic!("{call}: {e}"));
        let explain = format!("explain (analyze, buffers, format json) execute {call}");
        let row = raw_sql(&explain).fetch_one(&mut relay).await.expect("explain");
        let text: String = sqlx::Row::get_unchecked(&row, 0);
        let plan: Value = serde_json::from_str(&text).expect("explain writes JSON");
        let plan = &plan[0]["Plan"];
        let buffers = plan["Shared Hit Blocks"].as_u64().expect("buffers")
            + plan["Shared Read Blocks"].as_u64().expect("buffers");
        let rows = plan["Actual Rows"].as_f64().expect("rows");
        eprintln!("{what}: {buffers} buffers of {most}, {rows} rows");
        assert_eq!(rows as i64, found + 1, "{what}, and how far was looked");
        assert!(buffers <= most, "{what}: {buffers} buffers: {plan:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_in_rust_ask_with_typed_requests() {
    let env = Env::new().await;
    env.execute("create role program_login login; grant outbox_admin to program_login").await;
    let mut admin = PgConnection::connect(&env.url_as("program_login")).await.expect("connect");
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 3600);
    let letters = Letters::of_topic("orders").and_key("k").dead_from(noon).at_most(10);
    for (ask, row) in [
        (
            Ask::requeue(letters).pace(5).why("repaired"),
            json!(["requeue", null, {"key": "k", "max": 10, "topic": "orders", "dead_from": "1970-01-01T12:00:00+00:00"}, null, 5, "repaired"]),
        ),
        (
            Ask::discard(Letters::with_ids(&[3, 4])),
            json!(["discard", null, {"ids": [3, 4]}, null, null, null]),
        ),
        (
            Ask::discard(Letters::of_cause("f")),
            json!(["discard", null, {"fingerprint": "f"}, null, null, null]),
        ),
        (
            Ask::pause("orders").lasting(Duration::from_secs(60)),
            json!(["pause", "orders", {}, null, null, null]),
        ),
        (Ask::resume("orders"), json!(["resume", "orders", {}, null, null, null])),
        (Ask::rate(None, None), json!(["rate", null, {}, {"rate": null}, null, null])),
        (Ask::rate(Some("a*"), Some(7)), json!(["rate", "a*", {}, {"rate": 7}, null, null])),
        (Ask::policy("a*", json!({"attempts": 3})), json!(["policy", "a*", {}, {"attempts": 3}, null, null])),
        (Ask::cancel(1), json!(["cancel", null, {}, {"request": 1}, null, null])),
    ] {
        let id = outbox_relay::ask(&mut admin, &ask).await.expect("an admin may ask");
        let found = "select jsonb_build_array(kind, topic, filter, value, pace, why)::text from outbox.request where id = ";
        let found: String = env.one(&format!("{found}{id}")).await;
        assert_eq!(serde_json::from_str::<Value>(&found).expect("JSON"), row);
    }
    let left = "select expires_at - asked_at between '59 seconds' and '61 seconds' from outbox.request where kind = 'pause'";
    assert!(env.one::<bool>(left).await);
    let refused = outbox_relay::ask(&mut admin, &Ask::pause("or ders")).await;
    let Err(AskError::Refused(reason)) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "request refused: pause needs the name of one topic: letters, digits, . _ -");
    let mut producer = PgConnection::connect(&env.app_url()).await.expect("connect");
    let refused = outbox_relay::ask(&mut producer, &Ask::resume("orders")).await;
    assert!(matches!(refused, Err(AskError::NotAllowed(_))), "{refused:?}");
}
