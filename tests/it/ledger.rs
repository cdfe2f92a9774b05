//! The ledger answers for every message where it went, and that record is there.

use std::collections::HashMap;

use outbox_relay::receipt::{self, Receipt};
use sqlx::Row;
use sqlx::postgres::types::PgRange;
use uuid::Uuid;

use crate::support::Env;

/// Where a record is: topic, partition, offset.
type Place = (String, i32, i64);

/// Settlements as the binary reads them, without the schema's function: published ids and where their records are.
async fn settlements(env: &Env) -> HashMap<i64, Receipt> {
    let sql = "select array(select r from unnest(published) r), receipts from outbox.ledger where receipts is not null";
    let rows = sqlx::query(sql).fetch_all(env.admin()).await.expect("select");
    let mut places = HashMap::new();
    for row in rows {
        let ranges: Vec<PgRange<i64>> = row.get(0);
        let ids = ranges.iter().flat_map(|range| match (range.start, range.end) {
            (std::ops::Bound::Included(first), std::ops::Bound::Excluded(end)) => first..end,
            other => panic!("ranges have both ends: {other:?}"),
        });
        let receipts = receipt::decode(row.get(1)).expect("receipts of this version");
        let before = places.len();
        places.extend(ids.zip(receipts.iter().copied()));
        assert_eq!(
            places.len() - before,
            receipts.len(),
            "one receipt for each published id, and no id twice"
        );
    }
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_has_a_receipt_and_its_record_is_there() {
    const ROWS: i64 = 3000;
    let env = Env::new().await;
    let wide = env.create_topic("wide", 5, &[]).await;
    let narrow = env.create_topic("narrow", 1, &[("max.message.bytes", "20000")]).await;
    let relay = env.relay().await.set("relay.page_rows", 200).set("retry.base", "10ms").start().await;
    // Keys, no keys, rolled back ids, rows that go alone, tombstones.
    for part in 0..30 {
        let sql = format!(
            "insert into outbox.message (topic, key, payload) \
             select case when n % 10 = 0 then '{narrow}' else '{wide}' end, \
                    case when n % 3 > 0 then convert_to('k' || n % 50, 'UTF8') end, \
                    case when n % 7 > 0 then convert_to(n::text, 'UTF8') end \
               from generate_series({part} * 100, {part} * 100 + 99) n"
        );
        let mut transaction = env.app().begin().await.expect("begin");
        sqlx::raw_sql(&sql).execute(&mut *transaction).await.expect("insert");
        transaction.commit().await.expect("commit");
        let mut transaction = env.app().begin().await.expect("begin");
        sqlx::raw_sql("insert into outbox.message (topic) values ('rolled-back')")
            .execute(&mut *transaction)
            .await
            .expect("insert");
        transaction.rollback().await.expect("rollback");
    }
    tokio::join!(
        env.expect_records(&wide, ROWS as usize * 9 / 10),
        env.expect_records(&narrow, ROWS as usize / 10)
    );
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    assert!(relay.terminate().await.success());

    let mut there: HashMap<Place, Uuid> = HashMap::new();
    for topic in [&wide, &narrow] {
        let records = env.read_topic(topic).await;
        there.extend(
            records
                .iter()
                .map(|record| ((topic.clone(), record.partition, record.offset), record.event_id())),
        );
    }
    assert_eq!(there.len() as i64, ROWS, "no record twice");

    let sql = "select id, event_id, topic, state, record_partition, record_offset, \
                      published_at between created_at and clock_timestamp() as timely from outbox.status";
    let rows = sqlx::query(sql).fetch_all(env.admin()).await.expect("select");
    assert_eq!(rows.len() as i64, ROWS);
    let receipts = settlements(&env).await;
    assert_eq!(receipts.len() as i64, ROWS);
    for row in rows {
        let (id, topic): (i64, String) = (row.get("id"), row.get("topic"));
        assert_eq!(
            (row.get::<&str, _>("state"), row.get::<bool, _>("timely")),
            ("published", true),
            "row {id}"
        );
        let (partition, offset): (i32, Option<i64>) = (row.get("record_partition"), row.get("record_offset"));
        assert_eq!(receipts[&id], Receipt { partition, offset }, "row {id}");
        let place = (topic, partition, offset.expect("a run without faults knows every offset"));
        assert_eq!(there.remove(&place), Some(row.get("event_id")), "row {id} at {place:?}");
    }
    assert!(there.is_empty(), "records of nobody: {there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_newest_receipt_of_a_message_names_a_record_of_it() {
    let env = Env::new().await;
    let topic = env.create_topic("crashed", 3, &[]).await;
    let sql = format!(
        "insert into outbox.message (topic, key, payload) \
         select '{topic}', convert_to('k' || n % 50, 'UTF8'), convert_to(n::text, 'UTF8') from generate_series(1, 2000) n"
    );
    env.execute(&sql).await;
    let relay = async || env.relay().await.set("relay.page_rows", 200).set("lease.ttl", "1s");
    let crashing = relay().await.env("OUTBOX_RELAY_CRASH_AT", "after_confirm:3").spawn().await;
    crashing.wait_for_exit(crate::support::DEADLINE).await;
    let _second = relay().await.start().await;
    env.eventually_true("select count(*) = 2000 from outbox.status where state = 'published'").await;

    let records = env.read_topic(&topic).await;
    let there: HashMap<(i32, i64), Uuid> =
        records.iter().map(|record| ((record.partition, record.offset), record.event_id())).collect();
    let sql = "select event_id, record_partition, record_offset from outbox.status";
    for row in sqlx::query(sql).fetch_all(env.admin()).await.expect("select") {
        let place = (row.get(1), row.get::<Option<i64>, _>(2).expect("an offset"));
        assert_eq!(there.get(&place), Some(&row.get::<Uuid, _>(0)), "{place:?}");
    }
    assert!(records.len() > 2000, "the crash repeated what was confirmed and not settled");
}
