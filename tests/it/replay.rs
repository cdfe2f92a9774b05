//! Published rows go out again when somebody asks: marked, in order, paced, and never what is gone or was to go once.

use std::collections::HashSet;

use outbox_relay::crash_point;

use crate::operate::{say, says};
use crate::support::history::RECOVERY;
use crate::support::lines::{assert_complete, write_many};
use crate::support::{DEADLINE, Env, Record, RelayBuilder, eventually};

async fn relay(env: &Env) -> RelayBuilder {
    env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms").set("lease.ttl", "1s")
}

/// So many versions of each of three keys, published.
async fn published(env: &Env, topic: &str, versions: i64) {
    write_many(env, topic, 3, 0, 3 * versions).await;
    env.expect_records(topic, 3 * versions as usize).await;
    until_settled(env).await;
}

async fn until_settled(env: &Env) {
    env.eventually_true(
        "select coalesce((select max(id) from outbox.message), 0) = \
                (select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1)",
    )
    .await;
}

fn copies_of(records: &[Record], request: i64) -> Vec<Record> {
    let mark = request.to_string();
    records.iter().filter(|record| record.header("outbox-replay") == Some(&*mark)).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn published_rows_go_out_again_marked_and_in_order() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 2, &[]).await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 10).await;

    says(&say(&env, "replay").await, 1, &["names no messages", "--all"]);
    says(&say(&env, "replay --topic nosuch --yes").await, 0, &["no published message fits"]);
    let dry = say(&env, &format!("replay --topic {topic} --dry-run")).await;
    says(
        &dry,
        0,
        &["would send 30 published messages of 1 topics again: ids 1 to 30", "nothing was changed"],
    );
    says(&say(&env, &format!("replay --topic {topic}")).await, 1, &["nothing was changed", "--yes"]);
    let asked = say(&env, &format!("replay --topic {topic} --why consumer-lost-its-disk --yes")).await;
    says(&asked, 0, &["done (request 1, 30 rows)"]);

    let records = env.expect_records(&topic, 60).await;
    let copies = copies_of(&records, 1);
    assert_complete(&copies, 3, 10);
    let first: HashSet<_> = records[..].iter().map(|record| (record.event_id(), record.seq())).collect();
    assert_eq!(first.len(), 30, "a copy carries the event id and the outbox-seq of its row");
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.ledger where published @> 7::bigint").await, 1);
    let redelivered =
        relay.metrics().await.value("outbox_redeliveries_total", &[("topic", &topic), ("cause", "replay")]);
    assert_eq!(redelivered, 30.0);
    let life = say(&env, "message 7").await;
    says(&life, 0, &["published under epoch 1", "replayed by request 1", "offset"]);
    let life = say(&env, "message 7 -o json").await.json();
    let replayed = &life[0]["replayed"][0];
    let copy = copies.iter().find(|record| record.seq() == 7).expect("it was replayed");
    assert_eq!(
        (replayed["partition"].as_i64(), replayed["offset"].as_i64()),
        (Some(i64::from(copy.partition)), Some(copy.offset)),
        "{life}"
    );
    let audit = say(&env, "requests show 1").await;
    says(&audit, 0, &["replay", "admin_login", "consumer-lost-its-disk", "30"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_means_ids_events_keys_and_times_and_goes_elsewhere() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let other = env.create_topic("rebuilt", 1, &[]).await;
    let _relay = relay(&env).await.start().await;
    published(&env, &topic, 5).await;
    let to = format!("--to {other} --yes");
    let mut expected = 0;
    let event: String = env.one("select event_id::text from outbox.message where id = 4").await;
    for (filter, rows) in [
        ("--id 2 --id 3".to_owned(), 2),
        (format!("--event-id {event}"), 1),
        ("--from-id 6 --until-id 9".to_owned(), 4),
        (format!("--topic {topic} --key k1"), 5),
        ("--from 1h --max 3".to_owned(), 3),
        ("--until 2000-01-01T00:00:00Z".to_owned(), 0),
        ("--all --rate 1000".to_owned(), 15),
    ] {
        let said = say(&env, &format!("replay {filter} {to}")).await;
        let done = if rows == 0 { "no published message fits".to_owned() } else { format!("{rows} rows") };
        says(&said, 0, &[&done]);
        expected += rows;
        let records = env.expect_records(&other, expected).await;
        assert_eq!(records.len(), expected, "{filter}");
    }
    assert_eq!(env.read_topic(&topic).await.len(), 15, "nothing came back to the topic of their own");
    let life = say(&env, "message 4").await;
    says(&life, 0, &[&topic, &other, "replayed by request 2"]);
    // What is in the other topic is no receipt of the row.
    assert_eq!(env.one::<i64>("select count(*) from outbox.ledger where published @> 4::bigint").await, 1);

    says(&say(&env, "replay --id 4711 --yes").await, 1, &["message 4711 is not there", "from id 1 on"]);
    says(
        &say(&env, &format!("replay --event-id {} --yes", uuid::Uuid::from_u128(7))).await,
        1,
        &["--within"],
    );
    says(&say(&env, "replay --from tomorrowish --yes").await, 1, &["tomorrowish"]);
    says(&say(&env, "replay --all --to no/topic --yes").await, 1, &["to needs the name of one topic"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_retention_has_removed_are_refused_with_what_is_left() {
    let env = Env::new().await;
    let topic = env.create_topic("old", 1, &[]).await;
    let relay =
        relay(&env).await.set("retention.published", "1s").set("retention.every", "100ms").start().await;
    env.eventually_true("select bool_and(width = 1) from outbox.ring").await;
    published(&env, &topic, 5).await;
    env.eventually_true("select count(*) = 0 from outbox.message").await;
    assert!(relay.terminate().await.success());
    let _keeps = self::relay(&env).await.set("retention.published", "1h").start().await;
    write_many(&env, &topic, 3, 5, 3).await;
    env.expect_records(&topic, 18).await;
    until_settled(&env).await;

    for filter in ["--from-id 1", "--from-id 3 --until-id 5", "--from 1h", "--id 3"] {
        let said = say(&env, &format!("replay {filter} --yes")).await;
        says(&said, 1, &["removed (retention.published)", "from id 16 on, written at"]);
    }
    // The same rule for whoever asks in SQL.
    let id: i64 = env.one(r#"select outbox.replay('{"from_id": 1}', 'test')"#).await;
    env.eventually_true(&format!("select state = 'refused' from outbox.request where id = {id}")).await;
    let why: String = env.one(&format!("select error from outbox.request where id = {id}")).await;
    assert!(why.contains("from id 16 on"), "{why}");
    says(&say(&env, "replay --all --yes").await, 0, &["3 rows"]);
    env.expect_records(&topic, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_stays_while_a_replay_has_not_come_to_its_rows() {
    let env = Env::new().await;
    let topic = env.create_topic("held", 1, &[]).await;
    let relay = relay(&env).await.set("retention.published", "1s").set("retention.every", "100ms");
    let _relay = relay.start().await;
    env.eventually_true("select bool_and(width = 1) from outbox.ring").await;
    // In effect before the rows are written: it is asked of rows that come.
    published(&env, &topic, 10).await;
    let id: i64 =
        env.one(r#"select outbox.replay('{"written_until": "infinity"}', 'test', pace => 10)"#).await;
    // The last of them goes seconds after its slot would have been emptied.
    env.eventually_true(&format!("select state = 'done' and done = 30 from outbox.request where id = {id}"))
        .await;
    assert_complete(&copies_of(&env.expect_records(&topic, 60).await, id), 3, 10);
    env.eventually_true("select count(*) = 0 from outbox.message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_consumers_may_have_forgotten_goes_again_only_on_purpose() {
    let env = Env::new().await;
    let topic = env.create_topic("window", 1, &[("max.message.bytes", "2000")]).await;
    let _relay = relay(&env)
        .await
        .set("consumers.dedupe_window", "2s")
        .set("retry.attempts", 2)
        .expect_errors()
        .start()
        .await;
    published(&env, &topic, 1).await;
    let long = "insert into outbox.message (topic, key, payload) values ('{topic}', 'long', convert_to(repeat('x', 5000), 'UTF8'))";
    env.execute(&long.replace("{topic}", &topic)).await;
    env.eventually_true("select count(*) = 1 from outbox.dead_letter").await;
    env.alter_topic(&topic, &[]).await;
    env.eventually_true(
        "select max(created_at) < clock_timestamp() - interval '2 seconds' from outbox.message",
    )
    .await;
    // The command knows the window from its own configuration.
    let knows = async |arguments: &str| {
        let mut command =
            crate::operate::command(&env, "admin_login", &arguments.split(' ').collect::<Vec<_>>());
        command.env("OUTBOX_RELAY__CONSUMERS__DEDUPE_WINDOW", "2s");
        crate::operate::Said::of(command.output().await.expect("it starts"))
    };
    says(
        &knows("replay --id 1 --yes").await,
        1,
        &["1 of these were written more than 2s ago", "--beyond-window"],
    );
    says(&knows("dlq requeue --all --yes").await, 1, &["more than 2s ago", "--beyond-window"]);
    // In SQL: nothing that is too old goes by mistake.
    let id: i64 = env.one(r#"select outbox.replay('{"ids": [1]}', 'test')"#).await;
    env.eventually_true(&format!("select state = 'done' and done = 0 from outbox.request where id = {id}"))
        .await;

    says(&knows("replay --id 1 --beyond-window --yes").await, 0, &["a second time", "1 rows"]);
    says(&knows("dlq requeue --all --beyond-window --yes").await, 0, &["a second time", "1 rows"]);
    let records = env.expect_records(&topic, 5).await;
    let marks: Vec<Option<&str>> = records[3..].iter().map(|record| record.header("outbox-replay")).collect();
    assert_eq!(marks, [Some("2"), Some("3")], "a letter that is too old is marked as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_at_most_once_are_never_replayed() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let once = env.create_topic("clicks", 1, &[]).await;
    let _relay = relay(&env).await.topic(&once, "delivery = 'at_most_once'").start().await;
    published(&env, &topic, 1).await;
    write_many(&env, &once, 1, 0, 3).await;
    env.expect_records(&once, 3).await;
    env.eventually_true("select count(*) = 6 from outbox.status where state = 'published'").await;
    let refused = format!("topic {once} is at_most_once: its rows are never sent again");
    says(&say(&env, &format!("replay --topic {once} --yes")).await, 1, &[&refused]);
    says(&say(&env, &format!("replay --topic {topic} --to {once} --yes")).await, 1, &[&refused]);
    says(&say(&env, "replay --all --yes").await, 0, &["3 rows"]);
    env.expect_records(&topic, 6).await;
    assert_eq!(env.read_topic(&once).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_killed_in_the_middle_goes_on_and_repeats_nothing() {
    let env = Env::new().await;
    let topic = env.create_topic("crash", 1, &[]).await;
    let first = relay(&env).await.start().await;
    published(&env, &topic, 400).await;
    assert!(first.terminate().await.success());
    let id: i64 = env.one(r#"select outbox.replay('{"from_id": 1}', 'test')"#).await;
    for point in [crash_point::BEFORE_REQUEUE, crash_point::AFTER_REQUEUE] {
        let dies = relay(&env).await.env("OUTBOX_RELAY_CRASH_AT", point).expect_errors().start().await;
        dies.wait_for_exit(RECOVERY).await;
    }
    let _last = relay(&env).await.start().await;
    env.eventually_true(&format!(
        "select state = 'done' and done = 1200 from outbox.request where id = {id}"
    ))
    .await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let records = env.expect_records(&topic, 2400).await;
    // What was on its way to Kafka when the process died goes twice, as any row does.
    let copies = copies_of(&records, id);
    let mut seen = HashSet::new();
    let firsts: Vec<Record> = copies.into_iter().filter(|record| seen.insert(record.seq())).collect();
    assert_complete(&firsts, 3, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_dies_stays_a_copy() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let narrow = env.create_topic("narrow", 1, &[("max.message.bytes", "1000")]).await;
    let _relay = relay(&env).await.set("retry.attempts", 2).expect_errors().start().await;
    let long = "insert into outbox.message (topic, key, payload) values ('{topic}', 'long', convert_to(repeat('x', 5000), 'UTF8'))";
    env.execute(&long.replace("{topic}", &topic)).await;
    env.expect_records(&topic, 1).await;
    until_settled(&env).await;
    says(&say(&env, &format!("replay --id 1 --to {narrow} --yes")).await, 0, &["1 rows"]);
    let dead = format!("select count(*) = 1 from outbox.dead_letter where topic = '{narrow}' and replay = 1");
    env.eventually_true(&dead).await;
    env.alter_topic(&narrow, &[]).await;
    says(&say(&env, "dlq requeue --all --yes").await, 0, &["1 rows"]);
    let records = env.expect_records(&narrow, 1).await;
    assert_eq!(records[0].header("outbox-replay"), Some("1"));
    // It is still a copy: the row itself was published once, and is not in the topic of its copy.
    eventually(DEADLINE, "the copy is settled", async || {
        say(&env, "message 1 -o json").await.json()[0]["replayed"].as_array().map(Vec::len) == Some(1)
    })
    .await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.ledger where published @> 1::bigint").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_replay_waits_for_the_copies_of_the_first() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let one = env.create_topic("one", 1, &[]).await;
    let other = env.create_topic("other", 1, &[]).await;
    let relay = relay(&env).await.start().await;
    published(&env, &topic, 10).await;
    says(&say(&env, &format!("topics pause {one} --yes")).await, 0, &["in effect"]);
    says(&say(&env, &format!("replay --all --to {one} --yes")).await, 0, &["30 rows"]);
    says(&say(&env, &format!("replay --all --to {other} --no-wait --yes")).await, 3, &["asked as request 3"]);
    env.eventually_true("select state = 'running' from outbox.request where id = 3").await;
    // A row that somebody else waits for is not passed over, and nobody else's fault.
    assert_eq!(
        relay.logged("rows were changed or deleted by somebody else, the settlement went on without them"),
        0
    );
    says(&say(&env, &format!("topics resume {one} --yes")).await, 0, &["done"]);
    assert_complete(&env.expect_records(&one, 30).await, 3, 10);
    env.eventually_true("select state = 'done' and done = 30 from outbox.request where id = 3").await;
    assert_complete(&env.expect_records(&other, 30).await, 3, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_went_while_older_ones_stayed_are_missed() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let still = env.create_topic("still", 1, &[]).await;
    let relay = relay(&env).await.set("retention.published", "1s").set("retention.every", "100ms");
    let _relay = relay.start().await;
    env.eventually_true("select bool_and(width = 1) from outbox.ring").await;
    says(&say(&env, &format!("topics pause {still} --yes")).await, 0, &["in effect"]);
    env.expect_lane(&still, "paused").await;
    // Its slot stays with its lane; those of the others go.
    write_many(&env, &still, 1, 0, 1).await;
    let slot: i16 = env.one("select slot from outbox.message where id = 1").await;
    env.eventually_true(&format!(
        "select floor(extract(epoch from clock_timestamp()))::bigint % 8 <> {slot}"
    ))
    .await;
    write_many(&env, &topic, 3, 0, 9).await;
    env.expect_records(&topic, 9).await;
    env.eventually_true("select array_agg(id) = '{1}' from outbox.message").await;
    for filter in ["--from-id 2", "--from 1h"] {
        let said = say(&env, &format!("replay {filter} --topic {topic} --yes")).await;
        says(&said, 1, &["some of these rows have been removed (retention.published)"]);
    }
}
