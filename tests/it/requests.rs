//! What operators ask for: dead letters that go again or are given up, topics that stand, rates and policies at run time.

mod by_hand;
mod cancel;
mod copies;
mod letters;
mod maintenance;

use std::collections::HashSet;

use outbox_relay::crash_point;
use sqlx::{Connection, PgConnection};

use crate::support::history::RECOVERY;
use crate::support::lines::{
    Line, assert_complete, expect_complete, first_versions, versions, write, write_many,
};
use crate::support::{DEADLINE, Env, Record, RelayBuilder, eventually};

async fn impatient(env: &Env) -> RelayBuilder {
    let relay = env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms").set("lease.ttl", "1s");
    relay.set("retry.attempts", 2).expect_errors()
}

/// Asks, and waits until the request has come to this state.
async fn ask(env: &Env, call: &str, state: &str) -> i64 {
    let id: i64 = env.one(&format!("select {call}")).await;
    env.eventually_true(&format!("select state = '{state}' from outbox.request where id = {id}")).await;
    id
}

/// Dead letters of this topic as the relay writes them, `keys` keys in turns: the ids begin at a million.
async fn bury(env: &Env, topic: &str, keys: i64, letters: i64) {
    let sql = format!(
        "insert into outbox.dead_letter (id, event_id, topic, key, payload, created_at, reason_class, fingerprint, error, \
                                         attempts, first_failed_at, last_failed_at) \
         select 1000000 + n, gen_random_uuid(), '{topic}', convert_to('k' || n % {keys}, 'UTF8'), \
                convert_to(to_char(n / {keys}, 'fm00000000'), 'UTF8'), clock_timestamp(), 'refused', \
                case n % 2 when 0 then 'even' else 'odd' end, 'refused', 3, clock_timestamp(), clock_timestamp() \
           from generate_series(0, {letters} - 1) n"
    );
    env.execute(&sql).await;
}

#[track_caller]
fn no_copy(records: &[Record]) {
    let events: HashSet<_> = records.iter().map(Record::event_id).collect();
    assert_eq!(events.len(), records.len(), "a record came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_again_in_order_and_before_the_later_rows_of_their_key() {
    let env = Env::new().await;
    let topic = env.create_topic("again", 1, &[("max.message.bytes", "2000")]).await;
    let relay = impatient(&env).await.start().await;
    // Versions 0 to 4 of each key die, 5 is delivered; then 6 fails and 7 waits behind it.
    let mut lines = Vec::new();
    for version in 0..6 {
        for key in 0..5 {
            let bytes = if version < 5 { 5000 } else { 100 };
            lines.push(Line::new(&topic, format!("k{key}"), version).of_bytes(bytes));
        }
    }
    write(&env, &lines).await;
    env.eventually_true("select count(*) = 25 from outbox.dead_letter where state = 'open'").await;
    env.expect_records(&topic, 5).await;
    ask(&env, &format!("outbox.pause('{topic}', why => 'repair')"), "running").await;
    env.eventually_true(&format!("select count(*) = 1 from outbox.open_lane where topic = '{topic}'")).await;
    env.alter_topic(&topic, &[]).await;
    ask(&env, &format!("outbox.requeue('{{\"topic\": \"{topic}\"}}', 'limit raised')"), "done").await;
    write_many(&env, &topic, 5, 6, 10).await;
    ask(&env, &format!("outbox.resume('{topic}')"), "done").await;

    let records = env.expect_records(&topic, 40).await;
    for (key, found) in versions(&records) {
        assert_eq!(found, [5, 0, 1, 2, 3, 4, 6, 7], "{key}");
    }
    no_copy(&records);
    env.eventually_true("select count(*) = 25 and bool_and(replay_count = 1) from outbox.dead_letter where state = 'requeued'").await;
    let audit = "select who || ' ' || why || ' ' || done from outbox.request where kind = 'requeue'";
    assert_eq!(env.one::<String>(audit).await, "postgres limit raised 25");
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let labels = [("topic", topic.as_str()), ("cause", "requeue")];
    assert_eq!(relay.metrics().await.value("outbox_redeliveries_total", &labels), 25.0);
    assert_eq!(env.one::<i64>("select count(*) from outbox.status where state = 'dead'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeue_that_is_asked_twice_and_killed_in_the_middle_repeats_nothing() {
    let env = Env::new().await;
    let topic = env.create_topic("killed", 3, &[]).await;
    bury(&env, &topic, 7, 2100).await;
    let call = format!("outbox.requeue('{{\"topic\": \"{topic}\"}}')");
    let first: i64 = env.one(&format!("select {call}")).await;
    let second: i64 = env.one(&format!("select {call}")).await;
    for times in [1, 2] {
        let relay = impatient(&env)
            .await
            .env("OUTBOX_RELAY_CRASH_AT", format!("{}:{times}", crash_point::AFTER_REQUEUE));
        relay.start().await.wait_for_exit(RECOVERY).await;
    }
    let _last = impatient(&env).await.start().await;
    env.eventually_true(&format!(
        "select bool_and(state = 'done') from outbox.request where id in ({first}, {second})"
    ))
    .await;
    let records = env.expect_records(&topic, 2100).await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    assert_complete(&env.read_topic(&topic).await, 7, 300);
    eprintln!("{} records", records.len());
    assert_eq!(
        env.one::<i64>(
            "select count(*) from outbox.dead_letter where state = 'requeued' and replay_count = 1"
        )
        .await,
        2100
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_chosen_by_cause_time_id_and_number_and_can_be_given_up() {
    let env = Env::new().await;
    let topic = env.create_topic("chosen", 1, &[]).await;
    bury(&env, &topic, 10, 1000).await;
    let relay = impatient(&env).await.start().await;
    ask(&env, r#"outbox.discard('{"fingerprint": "odd"}', 'known loss')"#, "done").await;
    assert_eq!(
        env.one::<i64>(
            "select count(*) from outbox.dead_letter where state = 'discarded' and fingerprint = 'odd'"
        )
        .await,
        500
    );
    let discarded = async || {
        let labels = [("topic", topic.as_str()), ("outcome", "discarded")];
        relay.metrics().await.get("outbox_messages_total", &labels) == Some(500.0)
    };
    eventually(DEADLINE, "they are counted", discarded).await;
    ask(&env, r#"outbox.requeue('{"fingerprint": "even", "max": 50}')"#, "done").await;
    env.expect_records(&topic, 50).await;
    ask(&env, r#"outbox.requeue('{"ids": [1000100, 1000101, 1000102]}')"#, "done").await;
    env.expect_records(&topic, 52).await;
    ask(&env, r#"outbox.requeue('{"key": "k4", "dead_until": "now"}')"#, "done").await;
    let more: i64 = env.one("select count(*) from outbox.dead_letter where state = 'requeued'").await;
    assert!((52..=152).contains(&more), "{more}");
    ask(&env, r#"outbox.requeue('{"dead_until": "yesterday"}')"#, "done").await;
    assert_eq!(
        env.one::<i64>("select count(*) from outbox.dead_letter where state = 'requeued'").await,
        more
    );
    ask(&env, r#"outbox.requeue('{"dead_until": "now"}', pace => 5000)"#, "done").await;
    let records = env.expect_records(&topic, 500).await;
    no_copy(&records);
    assert_eq!(env.one::<i64>("select count(*) from outbox.dead_letter where state = 'open'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_topic_stands_over_takeovers_until_it_is_resumed_or_its_time_is_over() {
    let env = Env::new().await;
    let (topic, well) = (env.create_topic("paused", 1, &[]).await, env.create_topic("well", 1, &[]).await);
    let first = impatient(&env).await.start().await;
    write_many(&env, &topic, 3, 0, 30).await;
    env.expect_records(&topic, 30).await;
    ask(&env, &format!("outbox.pause('{topic}')"), "running").await;
    env.eventually_true(&format!("select cause = 'paused' from outbox.open_lane where topic = '{topic}'"))
        .await;
    write_many(&env, &topic, 3, 10, 300).await;
    write_many(&env, &well, 3, 0, 300).await;
    assert_complete(&env.expect_records(&well, 300).await, 3, 100);
    first.kill().await;
    let second = impatient(&env).await.start().await;
    second.wait_for_log("leading").await;
    write_many(&env, &well, 3, 100, 300).await;
    // What the first had not settled when it was killed comes twice.
    expect_complete(&env, &well, 3, 200).await;
    assert_eq!(env.read_topic(&topic).await.len(), 30, "it stands");
    ask(&env, &format!("outbox.resume('{topic}')"), "done").await;
    assert_complete(&env.expect_records(&topic, 330).await, 3, 110);
    env.eventually_true("select count(*) = 0 from outbox.open_lane").await;

    let id = ask(&env, &format!("outbox.pause('{topic}', '1 second')"), "running").await;
    write_many(&env, &topic, 3, 110, 30).await;
    env.eventually_true(&format!("select state = 'expired' from outbox.request where id = {id}")).await;
    assert_complete(&env.expect_records(&topic, 360).await, 3, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_and_policies_change_at_run_time() {
    let env = Env::new().await;
    let (topic, well) = (env.create_topic("paced", 1, &[]).await, env.create_topic("well", 1, &[]).await);
    let narrow = env.create_topic("narrow", 1, &[("max.message.bytes", "2000")]).await;
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000).start().await;
    let rate = ask(&env, &format!("outbox.set_rate('{topic}', 10)"), "running").await;
    write_many(&env, &topic, 1, 0, 300).await;
    env.eventually_true(&format!("select cause = 'paced' from outbox.open_lane where topic = '{topic}'"))
        .await;
    write_many(&env, &well, 1, 0, 1000).await;
    env.expect_records(&well, 1000).await;
    let went =
        relay.metrics().await.value("outbox_messages_total", &[("topic", &topic), ("outcome", "delivered")]);
    assert!(went < 300.0, "others overtake it");
    ask(&env, &format!("outbox.set_rate('{topic}', null)"), "running").await;
    env.eventually_true(&format!("select state = 'done' from outbox.request where id = {rate}")).await;
    // Repeats count for nothing here: with a lease this short a busy machine may take it over from itself.
    expect_complete(&env, &topic, 1, 300).await;

    // The drain of everything together has a pace as well.
    let limit = async |limit: f64| {
        let shown = async || relay.metrics().await.value("outbox_rate_limit", &[]) == limit;
        eventually(DEADLINE, &format!("the limit is {limit}"), shown).await;
    };
    limit(0.0).await;
    ask(&env, "outbox.set_rate(null, 200, '10 minutes')", "running").await;
    limit(200.0).await;
    write_many(&env, &well, 1, 1000, 300).await;
    ask(&env, "outbox.set_rate(null, null)", "running").await;
    limit(0.0).await;
    assert_complete(&env.expect_records(&well, 1300).await, 1, 1300);

    write(&env, &[Line::new(&narrow, "k", 0).of_bytes(5000), Line::new(&narrow, "k", 1)]).await;
    env.eventually_true("select max(attempts) >= 3 from outbox.deferred").await;
    ask(&env, &format!(r#"outbox.set_policy('{narrow}', '{{"attempts": 2}}')"#), "running").await;
    env.eventually_true("select count(*) = 1 from outbox.dead_letter").await;
    assert_eq!(first_versions(&env.expect_records(&narrow, 1).await)["k"], [1]);
    let refused =
        ask(&env, &format!(r#"outbox.set_policy('{narrow}', '{{"atempts": 2}}')"#), "refused").await;
    let error: String = env.one(&format!("select error from outbox.request where id = {refused}")).await;
    assert!(error.contains("atempts is not a key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_slow_pace_rows_are_settled_second_by_second() {
    let env = Env::new().await;
    let topic = env.create_topic("slow", 1, &[]).await;
    write_many(&env, &topic, 1, 0, 300).await;
    let relay = env.relay().await.set("relay.rate", 20).start().await;
    let some_are_settled = async |topic: &str| {
        let delivered = async || {
            let labels = [("topic", topic), ("outcome", "delivered")];
            relay.metrics().await.get("outbox_messages_total", &labels).unwrap_or(0.0)
        };
        eventually(DEADLINE, "the first rows are settled", async || delivered().await > 0.0).await;
        assert!(delivered().await < 300.0, "all were settled at once");
    };
    some_are_settled(&topic).await;
    // The same for a topic that is read on its own.
    ask(&env, "outbox.set_rate(null, null)", "running").await;
    let paced = env.create_topic("paced", 1, &[]).await;
    ask(&env, &format!("outbox.set_rate('{paced}', 1000)"), "running").await;
    ask(&env, "outbox.set_rate(null, 20)", "running").await;
    write_many(&env, &paced, 1, 0, 300).await;
    some_are_settled(&paced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_in_the_askers_own_statement_and_only_admins_may_ask() {
    let env = Env::new().await;
    for (call, reason) in [
        ("outbox.requeue('{}')", "it names no dead letters"),
        ("outbox.requeue('[]')", "the filter is no JSON object"),
        (r#"outbox.requeue('{"topics": "x"}')"#, "the filter has unknown fields; there are ids, fingerprint"),
        (r#"outbox.requeue('{"ids": 5}')"#, "ids are no JSON array"),
        (r#"outbox.requeue('{"ids": []}')"#, "ids are between one and ten thousand"),
        (
            "outbox.requeue(jsonb_build_object('ids', (select jsonb_agg(n) from generate_series(1, 10001) n)))",
            "ids are between one and ten thousand",
        ),
        (r#"outbox.requeue('{"ids": [1, "2"]}')"#, "ids are no JSON array of numbers, each"),
        (r#"outbox.requeue('{"ids": [1.5]}')"#, "ids are no JSON array of numbers, each"),
        // A condition that was ignored would mean all letters.
        (
            r#"outbox.requeue('{"topic": null}')"#,
            "topic is null, which is no condition; name a value or leave topic out",
        ),
        (r#"outbox.discard('{"topic": "x", "ids": null}', 'w')"#, "ids is null, which is no condition"),
        (r#"outbox.requeue('{"topic": "x", "max": null}')"#, "max is null"),
        (r#"outbox.requeue('{"dead_from": null}')"#, "dead_from is null"),
        (r#"outbox.requeue('{"topic": 5}')"#, "topic is no JSON string"),
        (r#"outbox.discard('{"fingerprint": 5}', 'x')"#, "fingerprint is no JSON string"),
        (r#"outbox.discard('{"dead_until": 5}', 'x')"#, "dead_until is no JSON string"),
        (r#"outbox.requeue('{"topic": "x", "max": "5"}')"#, "max is no whole number of at least 1"),
        (r#"outbox.requeue('{"topic": "x", "max": 0.5}')"#, "max is no whole number of at least 1"),
        (r#"outbox.requeue('{"topic": "x", "max": 0}')"#, "max is no whole number of at least 1"),
        (r#"outbox.requeue('{"key": "k", "key_base64": "aw=="}')"#, "it names the key twice"),
        (r#"outbox.requeue('{"key_base64": "?"}')"#, "key_base64 is not base64"),
        (r#"outbox.requeue('{"dead_until": "someday"}')"#, "dead_until is no time: 'someday'"),
        ("outbox.pause('orders.*')", "pause needs the name of one topic"),
        ("outbox.set_policy('or ders', '{}')", "policy needs a pattern"),
        ("outbox.cancel(null)", "cancel needs the number of a request"),
        (r#"outbox.requeue('{"ids": [5]}', pace => 0)"#, "the pace is at least 1"),
        ("outbox.pause(null)", "pause needs a topic"),
        ("outbox.set_rate('x', 0)", "a rate is at least 1"),
        ("outbox.set_policy('x', '5')", "a policy needs a value"),
        ("outbox.set_maintenance(null)", "maintenance needs an end"),
        ("outbox.set_maintenance('0 seconds')", "maintenance ends after it has begun"),
        ("outbox.set_maintenance('25 hours')", "maintenance lasts a day at most"),
    ] {
        let error =
            sqlx::query(&format!("select {call}")).execute(env.admin()).await.expect_err(call).to_string();
        assert!(error.contains(&format!("request refused: {reason}")), "{call}: {error}");
    }
    for (columns, values, reason) in [
        (
            "kind, topic, filter",
            r#"'discard', 'x', '{"dead_until": "now"}'"#,
            "discard names a topic in its filter",
        ),
        ("kind, topic, filter", r#"'pause', 'x', '{"key": "k"}'"#, "pause has no filter"),
        ("kind, value", r#"'rate', '{"rate": 1.5}'"#, "a rate is a whole number"),
        ("kind, value", r#"'rate', '{"rate": 5000000000}'"#, "a rate is a whole number"),
        ("kind", "'beam'", "'beam' is no kind of request; there are requeue"),
        ("kind", "'replay'", "it names no messages"),
        ("kind, topic", "'maintenance', 'x'", "maintenance is about the whole outbox"),
        ("kind, value", "'maintenance', '{}'", "maintenance has no filter, value or pace"),
        ("kind, topic, filter", r#"'replay', 'x', '{"from_id": 1}'"#, "replay names a topic in its filter"),
        (
            "kind, filter",
            r#"'replay', '{"dead_from": "now"}'"#,
            "the filter has unknown fields; there are ids, from_id",
        ),
        ("kind, filter", r#"'replay', '{"from_id": "1"}'"#, "from_id is no number"),
        ("kind, filter", r#"'replay', '{"written_from": "someday"}'"#, "written_from is no time: 'someday'"),
        (
            "kind, filter, value",
            r#"'replay', '{"ids": [1]}', '{"to": "a b"}'"#,
            "to needs the name of one topic",
        ),
        (
            "kind, filter, value",
            r#"'replay', '{"ids": [1]}', '{"at": "a"}'"#,
            "the value of replay has unknown fields",
        ),
        ("kind, filter", r#"'repair', '{"from_id": 1}'"#, "repair needs ids and nothing else"),
    ] {
        let insert = format!("insert into outbox.request ({columns}) values ({values})");
        let error = sqlx::query(&insert).execute(env.admin()).await.expect_err(&insert).to_string();
        assert!(error.contains(&format!("request refused: {reason}")), "{insert}: {error}");
    }
    let mut admin = PgConnection::connect(&env.url_as("admin_login")).await.expect("connect");
    sqlx::query("select outbox.pause('x', why => 'test')")
        .execute(&mut admin)
        .await
        .expect("an admin may ask");
    for forbidden in [
        "update outbox.request set why = 'x'",
        "delete from outbox.request",
        "insert into outbox.request (kind, topic, who) values ('pause', 'x', 'somebody else')",
    ] {
        sqlx::query(forbidden).execute(&mut admin).await.expect_err(forbidden);
    }
    let mut producer = PgConnection::connect(&env.app_url()).await.expect("connect");
    sqlx::query("select outbox.pause('x')").execute(&mut producer).await.expect_err("a producer may not");
    let mut relay = PgConnection::connect(&env.relay_url()).await.expect("connect");
    sqlx::query("update outbox.request set why = 'x'")
        .execute(&mut relay)
        .await
        .expect_err("what was asked stays");
}
