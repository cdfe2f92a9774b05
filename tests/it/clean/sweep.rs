//! Rows that nobody accounts for are found, at the price of a page.

use std::str::FromStr;
use std::time::Duration;

use outbox_relay::store::connect::SETTINGS;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row, raw_sql};

use super::{narrow_slots, tidy, until_empty};
use crate::support::lines::{Line, pass_ten_ids, write};
use crate::support::{DEADLINE, Env, Quiet, ROWS_PER_SLOT, Record, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_a_foreign_txid_is_found_counted_and_published() {
    let env = Env::new().await;
    let topic = env.create_topic("foreign", 1, &[]).await;
    let relay = env.relay().await.set("retention.every", "200ms").expect_errors().start().await;
    pass_ten_ids(&env, &topic).await;
    let foreign = format!(
        "insert into outbox.message (txid, id, topic, key, payload) overriding system value values ('3', 5, '{topic}', 'k', '00000000')"
    );
    env.execute(&foreign).await;
    let records = env.expect_records(&topic, 2).await;
    assert_eq!(records.iter().map(Record::seq).collect::<Vec<_>>(), [11, 5]);
    relay.wait_for_log("rows were passed by and no settlement accounts for them: somebody wrote a foreign txid or id, or the ledger was changed").await;
    assert_eq!(relay.metrics().await.value("outbox_loss_incidents_total", &[]), 1.0);
    let none = async || relay.metrics().await.value("outbox_unaccounted_messages", &[]) == 0.0;
    eventually(DEADLINE, "it is accounted for", none).await;
    env.eventually_true("select state = 'published' from outbox.status where id = 5").await;
    assert_eq!(env.read_topic(&topic).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_a_txid_of_the_future_is_found_and_published() {
    let env = Env::new().await;
    let topic = env.create_topic("future", 1, &[]).await;
    let _relay = env.relay().await.set("retention.every", "200ms").expect_errors().start().await;
    pass_ten_ids(&env, &topic).await;
    env.execute(&format!(
        "insert into outbox.message (txid, id, topic, key, payload) overriding system value \
         values ('1000000000000', 5, '{topic}', 'k', '00000000')"
    ))
    .await;
    let records = env.expect_records(&topic, 2).await;
    assert_eq!(records.iter().map(Record::seq).collect::<Vec<_>>(), [11, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_unaccounted_rows_than_a_sweep_publishes_are_counted_once_and_left_to_a_person() {
    let env = Env::new().await;
    let topic = env.create_topic("many", 1, &[]).await;
    let relay = tidy(&env).await.expect_errors().start().await;
    narrow_slots(&env).await;
    env.execute(&format!(
        "begin; insert into outbox.message (topic) select '{topic}' from generate_series(1, 5000); rollback"
    ))
    .await;
    write(&env, &[Line::new(&topic, "k", 1)]).await;
    env.expect_records(&topic, 1).await;
    until_empty(&env).await;
    // Two pages' worth, so that the end of a page is not taken for the end of the trouble.
    env.execute(&format!(
        "insert into outbox.message (txid, id, slot, topic, key, payload, created_at) overriding system value \
         select '3', n - 40000, (select (floor(extract(epoch from clock_timestamp()))::bigint + 4) % 8), '{topic}', 'k', '00000000', \
                clock_timestamp() - interval '1 hour' from generate_series(1, 25000) n"
    ))
    .await;
    let counted = async || relay.metrics().await.value("outbox_unaccounted_messages", &[]) == 25_000.0;
    eventually(Duration::from_secs(60), "all of them are counted", counted).await;
    let line = relay.wait_for_line("an ERROR", DEADLINE, |line| line.level() == Some("ERROR")).await;
    assert_eq!(line.field("publishes"), Some(&Value::Bool(false)));
    // Many sweeps later it is still one incident, one line, and everything is where it was.
    let rounds =
        async || relay.metrics().await.value("outbox_database_seconds_count", &[("operation", "clean")]);
    let before = rounds().await;
    eventually(Duration::from_secs(60), "more rounds", async || rounds().await >= before + 10.0).await;
    let metrics = relay.metrics().await;
    assert_eq!(metrics.value("outbox_unaccounted_messages", &[]), 25_000.0);
    assert_eq!(metrics.value("outbox_loss_incidents_total", &[]), 1.0);
    assert_eq!(relay.log().iter().filter(|line| line.level() == Some("ERROR")).count(), 1);
    assert_eq!(env.one::<i64>("select count(*) from outbox.message where id < 0").await, 25_000);
    assert_eq!(env.read_topic(&topic).await.len(), 1);
}

/// What an execution of a statement touches, and its plan; nothing of the message or ledger ring may be read as a whole.
async fn cost(connection: &mut PgConnection, call: &str) -> (u64, Value) {
    let explain = format!("explain (analyze, buffers, format json) execute {call}");
    // The first execution plans, and reads the catalog.
    raw_sql(&explain).execute(&mut *connection).await.unwrap_or_else(|error| panic!("{call}: {error}"));
    let row = raw_sql(&explain).fetch_one(&mut *connection).await.expect("as before");
    let plan: Value = serde_json::from_str(row.get_unchecked::<&str, _>(0)).expect("explain writes JSON");
    let plan = plan[0]["Plan"].clone();
    let mut nodes = vec![&plan];
    while let Some(node) = nodes.pop() {
        let table = node["Relation Name"].as_str().unwrap_or_default();
        let ring = table.starts_with("message_") || table.starts_with("ledger_");
        assert!(!(ring && node["Node Type"] == "Seq Scan"), "reads all of {table}: {plan:#}");
        nodes.extend(node["Plans"].as_array().into_iter().flatten());
    }
    let blocks = |kind: &str| plan[kind].as_u64().expect("explain counts buffers");
    (blocks("Shared Hit Blocks") + blocks("Shared Read Blocks"), plan)
}

#[tokio::test]
async fn a_page_of_the_sweep_costs_the_page_and_not_the_slot_or_the_ledger() {
    const PAGE: i64 = 10_000;
    // A database of its own: it says of every row that it was published, and the ledger is where others begin to read.
    let quiet = Quiet::new().await;
    for slot in 3..6 {
        quiet.fill(slot).await;
    }
    // Everything was published, a hundred rows a settlement, in every slot of the ledger.
    quiet
        .execute(
            "begin; delete from outbox.ledger; \
             insert into outbox.ledger (slot, epoch, seq, snapshot, high, as_of, published) \
             select n % 8, 0, n, pg_current_snapshot(), n * 100, pg_current_xact_id(), int8multirange(int8range(n * 100 - 99, n * 100 + 1)) \
               from generate_series(1, (select max(id) / 100 + 1 from outbox.message)) n; commit",
        )
        .await;
    let options = PgConnectOptions::from_str(&quiet.url_as("relay_login")).expect("a URL").options(SETTINGS);
    let mut relay = PgConnection::connect_with(&options).await.expect("connect");
    let sweep = include_str!("../../../src/store/sql/sweep.sql");
    let settlements = include_str!("../../../src/store/sql/settlements.sql");
    let prepare = format!(
        "prepare sweep (int, bigint, bigint, bigint) as {sweep}; \
         prepare settlements (int, bigint, bigint, bigint) as {settlements}"
    );
    raw_sql(&prepare).execute(&mut relay).await.expect("the statements prepare");
    let ends = "select min(id), max(id) from outbox.message where slot = 4";
    let (first, last): (i64, i64) =
        sqlx::query_as(ends).fetch_one(&mut relay).await.expect("the slot is full");
    for after in [i64::MIN, first + PAGE, last - PAGE] {
        let (buffers, plan) = cost(&mut relay, &format!("sweep(4, {after}, {PAGE}, 10)")).await;
        eprintln!("{buffers} buffers for a page of {PAGE} rows behind {after}");
        // The rows lie a hundred to a page or closer, the settlements a few to a row of the index.
        assert!(buffers < PAGE as u64 / 20, "{buffers} buffers: {plan:#}");
    }
    let answer = raw_sql(&format!("execute sweep(4, {}, {PAGE}, 10)", i64::MIN)).fetch_one(&mut relay).await;
    let answer = answer.expect("the page is swept");
    assert_eq!(
        (answer.get::<i64, _>("rows"), answer.get::<i64, _>("lost"), answer.get::<bool, _>("open")),
        (PAGE, 0, false)
    );
    // Every run of the page is looked for, and the first one is there; then none is.
    let (buffers, _) = cost(&mut relay, "settlements(4, 0, 0, 500)").await;
    eprintln!("{buffers} buffers for a page of settlements whose messages are there");
    assert!(buffers < 500, "{buffers}");
    const { assert!(3 * ROWS_PER_SLOT > 10 * PAGE, "there is much more than a page") };
}
