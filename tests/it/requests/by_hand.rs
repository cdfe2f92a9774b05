//! Somebody changes with SQL what the relay has just read: the settlement goes on without it, and says so.

use outbox_relay::position::Position;
use outbox_relay::store::StoreError;
use outbox_relay::store::settle::{Death, Deferral, Outcome, Rare, Settlement};
use sqlx::{PgConnection, Postgres, Transaction};
use uuid::Uuid;

use crate::requests::{ask, bury, impatient};
use crate::support::lines::{Line, pass_ten_ids, versions, write};
use crate::support::{DEADLINE, Env, Record, Relay, eventually};

const LEFT_OUT: &str = "rows were changed or deleted by somebody else, the settlement went on without them";

/// Waits until the relay waits for a lock on this table.
async fn until_it_waits(env: &Env, table: &str) {
    env.eventually_true(&format!(
        "select exists (select from pg_stat_activity a join pg_locks l using (pid) \
                         where a.application_name = 'outbox-relay/settle' and a.wait_event_type = 'Lock' \
                           and a.datname = current_database() and l.relation = 'outbox.{table}'::regclass)"
    ))
    .await;
}

async fn begin(env: &Env) -> Transaction<'static, Postgres> {
    env.admin().begin().await.expect("begin")
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Nothing waits any more, in the database or in the relay's memory.
async fn nothing_waits(env: &Env, relay: &Relay) {
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let free = async || relay.metrics().await.value("outbox_blocked_keys", &[]) == 0.0;
    eventually(DEADLINE, "no key is blocked", free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_changed_or_deleted_while_they_are_requeued_are_left_out() {
    let env = Env::new().await;
    let topic = env.create_topic("changed", 1, &[]).await;
    bury(&env, &topic, 10, 10).await;
    let relay = impatient(&env).await.start().await;
    let mut hand = begin(&env).await;
    run(&mut hand, "update outbox.dead_letter set state = 'discarded' where id = 1000003").await;
    run(&mut hand, "delete from outbox.dead_letter where id = 1000007").await;
    let request: i64 = env.one(&format!("select outbox.requeue('{{\"topic\": \"{topic}\"}}')")).await;
    until_it_waits(&env, "dead_letter").await;
    hand.commit().await.expect("commit");

    env.eventually_true(&format!(
        "select state = 'done' and done = 8 from outbox.request where id = {request}"
    ))
    .await;
    let line = relay.wait_for_log(LEFT_OUT).await;
    assert_eq!(line.field("rows").and_then(serde_json::Value::as_u64), Some(2));
    assert_eq!(env.expect_records(&topic, 8).await.len(), 8);
    assert_eq!(
        env.one::<String>("select state from outbox.dead_letter where id = 1000003").await,
        "discarded"
    );
    nothing_waits(&env, &relay).await;
    // Their keys are free.
    write(&env, &[Line::new(&topic, "k3", 1), Line::new(&topic, "k7", 1)]).await;
    let found = versions(&env.expect_records(&topic, 10).await);
    assert_eq!((&found["k3"], &found["k7"]), (&vec![1], &vec![1]));
    let labels = [("topic", topic.as_str()), ("cause", "requeue")];
    assert_eq!(relay.metrics().await.value("outbox_redeliveries_total", &labels), 8.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_open_again_while_it_waits_for_its_next_try_enters_once() {
    let env = Env::new().await;
    let topic = env.create_topic("twice", 1, &[("max.message.bytes", "2000")]).await;
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000).start().await;
    bury(&env, &topic, 2, 2).await;
    env.execute(
        "update outbox.dead_letter set payload = convert_to(repeat('x', 5000), 'UTF8') where id = 1000000",
    )
    .await;
    ask(&env, r#"outbox.requeue('{"ids": [1000000]}')"#, "done").await;
    env.eventually_true("select attempts >= 1 from outbox.deferred where id = 1000000").await;
    env.execute("update outbox.dead_letter set state = 'open'").await;
    ask(&env, &format!("outbox.requeue('{{\"topic\": \"{topic}\"}}')"), "done").await;
    env.expect_records(&topic, 1).await;
    env.alter_topic(&topic, &[]).await;
    assert_eq!(env.expect_records(&topic, 2).await.len(), 2);
    nothing_waits(&env, &relay).await;
    assert_eq!(env.read_topic(&topic).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_deleted_before_they_are_put_off_are_left_out() {
    let env = Env::new().await;
    let topic = env.create_topic("deleted", 1, &[("max.message.bytes", "2000")]).await;
    let relay = impatient(&env).await.set("retry.attempts", 1_000_000).start().await;
    relay.wait_for_log("leading").await;
    let mut hand = begin(&env).await;
    run(&mut hand, "lock table outbox.deferred in share mode").await;
    let ids = write(
        &env,
        &[
            Line::new(&topic, "k", 0).of_bytes(5000),
            Line::new(&topic, "k", 1),
            Line::new(&topic, "other", 0).of_bytes(5000),
        ],
    )
    .await;
    until_it_waits(&env, "deferred").await;
    run(&mut hand, &format!("delete from outbox.message where id = {}", ids[0])).await;
    hand.commit().await.expect("commit");

    relay.wait_for_log(LEFT_OUT).await;
    let records = env.expect_records(&topic, 1).await;
    assert_eq!(versions(&records)["k"], [1], "the row behind it goes on");
    env.eventually_true(&format!("select array_agg(id) = array[{}]::bigint[] from outbox.deferred", ids[2]))
        .await;
    let lacking = format!("select count(*) = 1 from outbox.ledger where lacking @> {}::bigint", ids[0]);
    env.eventually_true(&lacking).await;
    env.alter_topic(&topic, &[]).await;
    env.expect_records(&topic, 2).await;
    nothing_waits(&env, &relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_deleted_between_the_sweep_and_its_settlement_is_left_out() {
    let env = Env::new().await;
    let topic = env.create_topic("swept", 1, &[]).await;
    let relay = env.relay().await.set("retention.every", "200ms").expect_errors().start().await;
    pass_ten_ids(&env, &topic).await;
    let mut hand = begin(&env).await;
    run(&mut hand, "lock table outbox.deferred in share mode").await;
    env.execute(&format!(
        "insert into outbox.message (txid, id, topic, key, payload) overriding system value \
         values ('3', 5, '{topic}', 'k', '00000000'), ('3', 6, '{topic}', 'l', '00000000')"
    ))
    .await;
    until_it_waits(&env, "deferred").await;
    run(&mut hand, "delete from outbox.message where id = 5").await;
    hand.commit().await.expect("commit");

    relay.wait_for_log(LEFT_OUT).await;
    let records = env.expect_records(&topic, 2).await;
    assert_eq!(records.iter().map(Record::seq).collect::<Vec<_>>(), [11, 6]);
    nothing_waits(&env, &relay).await;
    write(&env, &[Line::new(&topic, "k", 2)]).await;
    assert_eq!(versions(&env.expect_records(&topic, 3).await)["k"], [1, 2]);
}

#[tokio::test]
async fn a_settlement_whose_answer_was_lost_says_again_what_it_went_on_without() {
    let env = Env::new().await;
    let token = Uuid::new_v4();
    env.execute(&format!("insert into outbox.incarnation (token) values ('{token}')")).await;
    env.execute("insert into outbox.message (topic, key) select 't', 'k' from generate_series(1, 4)").await;
    env.execute("delete from outbox.message where id in (2, 3)").await;
    bury(&env, "t", 1, 3).await;
    env.execute("update outbox.dead_letter set state = 'discarded' where id = 1000001").await;
    let death = |id| Death {
        id,
        class: "refused",
        fingerprint: "f".to_owned(),
        error: "e".to_owned(),
        attempts: 1,
        copy: None,
    };
    let rare = Rare {
        dead: vec![death(3), death(4)],
        requeued: vec![1_000_000, 1_000_001],
        passable: vec![1_000_000],
        discarded: vec![1_000_002, 1_000_003],
        ..Rare::default()
    };
    let outcome =
        Outcome { deferred: vec![Deferral::behind(1), Deferral::behind(2)], rare, ..Outcome::default() };
    let position = Position { snapshot: "9:9:".to_owned(), high: 4, late: None };
    let settlement = Settlement::new(0, 1, token, false, position.clone(), true, outcome);
    let mut session = env.store().connect("settle").await.expect("connect");
    for time in ["first", "second"] {
        let lacking = settlement.write(&mut session).await.expect("it is written");
        assert_eq!(lacking, [2, 3, 1_000_001, 1_000_003], "{time}");
    }
    let rows = "select string_agg(id || case when passable then ' passable' else '' end, ', ' order by id) from outbox.deferred";
    assert_eq!(env.one::<String>(rows).await, "1, 1000000 passable");
    let account =
        "select concat_ws(' ', deferred, dead, lacking) from outbox.ledger where epoch = 0 and seq = 1";
    assert_eq!(
        env.one::<String>(account).await,
        "{[1,2)} {[4,5)} {[2,4),[1000001,1000002),[1000003,1000004)}",
        "the ledger says what became of which"
    );
    let late = Settlement::new(0, 5, token, false, position, false, Outcome::default());
    let refused = late.write(&mut session).await;
    assert!(matches!(refused, Err(StoreError::OutOfTurn)), "{refused:?}");
}
