//! At-most-once topics: no record twice, whatever happens, and every loss is counted.

use std::collections::HashSet;
use std::sync::Arc;

use outbox_relay::crash_point;

use crate::support::history::RECOVERY;
use crate::support::lines::{Line, assert_complete, expect_complete, versions, write, write_many};
use crate::support::{DEADLINE, Env, Record, RelayBuilder, eventually};

async fn relay(env: &Env, once: &str) -> RelayBuilder {
    let relay = env.relay().await.set("lease.ttl", "1s").set("kafka.stall_after", "2s").expect_errors();
    let relay = relay.set("relay.window_rows", 400).set("relay.page_rows", 50);
    relay.topic(once, "delivery = 'at_most_once'")
}

#[track_caller]
fn no_copy(records: &[Record]) {
    let events: HashSet<_> = records.iter().map(Record::event_id).collect();
    assert_eq!(events.len(), records.len(), "a record came twice");
}

async fn all_decided(env: &Env, topic: &str) {
    let sql = format!(
        "select bool_and(state in ('published', 'dropped')) from outbox.status where topic = '{topic}'"
    );
    env.eventually_true(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_above_the_limit_is_lost_and_not_sent_without_its_payload() {
    let env = Env::new().await;
    let once = env.create_topic("once", 1, &[]).await;
    let relay = relay(&env, &once).await.set("relay.max_row_bytes", "1KiB").start().await;
    let line =
        |version: i64| Line::new(&once, "k", version).of_bytes(if version % 3 == 1 { 2000 } else { 100 });
    write(&env, &(0..9).map(line).collect::<Vec<_>>()).await;
    let records = env.expect_records(&once, 6).await;
    assert_eq!(versions(&records)["k"], [0, 2, 3, 5, 6, 8]);
    let lost = async || {
        let labels = [("topic", once.as_str()), ("outcome", "dropped")];
        relay.metrics().await.get("outbox_messages_total", &labels) == Some(3.0)
    };
    eventually(DEADLINE, "the losses are counted", lost).await;
    assert_eq!(env.read_topic(&once).await.len(), 6);
}

/// Main waits for Kafka with its window, an at-most-once lane does not: it gets ahead, in the ledger too. The next leader begins
/// with main behind the lane, and many late rows keep it there for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_ahead_of_main_at_a_takeover_sends_nothing_again() {
    let env = Env::with_own_kafka().await;
    let (once, well) = (env.create_topic("once", 1, &[]).await, env.create_topic("well", 1, &[]).await);
    let slow = env.create_topic("slow", 1, &[]).await;
    let mut late = env.app().begin().await.expect("begin");
    let sql = "insert into outbox.message (topic, key, payload) select $1, 'k0', convert_to(to_char(n, 'fm00000000'), 'UTF8') from generate_series(0, 99) n";
    sqlx::query(sql).bind(&slow).execute(&mut *late).await.expect("insert");
    let first = relay(&env, &once).await.set("kafka.stall_after", "60s").start().await;
    write_many(&env, &once, 5, 0, 50).await;
    write_many(&env, &well, 5, 0, 50).await;
    env.expect_records(&once, 50).await;
    env.expect_records(&well, 50).await;
    all_decided(&env, &once).await;
    env.expect_lane(&once, "at_most_once").await;

    let server = Arc::clone(&env.kafka().await.server);
    assert!(server.freeze());
    for round in 0..5 {
        write_many(&env, &well, 5, 10 + round * 2, 10).await;
        write_many(&env, &once, 5, 10 + round * 2, 10).await;
    }
    all_decided(&env, &once).await;
    let main = "select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1";
    let ahead = format!("select high > ({main}) from outbox.open_lane where topic = '{once}'");
    assert!(env.one::<bool>(&ahead).await, "the lane is ahead of main");
    first.kill().await;
    late.commit().await.expect("commit");
    assert!(server.thaw());

    let second = relay(&env, &once).await.set("relay.rate", 20).set("relay.page_rows", 5);
    let second = second.set("relay.window_rows", 10).start().await;
    second.wait_for_log("leading").await;
    write_many(&env, &once, 5, 20, 50).await;
    write_many(&env, &well, 5, 20, 10).await;
    expect_complete(&env, &well, 5, 22).await;
    expect_complete(&env, &slow, 1, 100).await;
    all_decided(&env, &once).await;
    no_copy(&env.read_topic(&once).await);
    let read =
        async |topic: &str| second.metrics().await.value("outbox_read_messages_total", &[("topic", topic)]);
    eventually(DEADLINE, "the new rows are read", async || read(&once).await >= 50.0).await;
    assert_eq!(read(&once).await, 50.0, "no row is read again that was settled before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_settled_before_it_is_sent_and_published_afterwards() {
    let env = Env::new().await;
    let (once, well) = (env.create_topic("once", 3, &[]).await, env.create_topic("well", 3, &[]).await);
    let relay = relay(&env, &once).await.start().await;
    for round in 0..4 {
        write_many(&env, &once, 10, round * 25, 250).await;
        write_many(&env, &well, 10, round * 25, 250).await;
    }
    let records = env.expect_records(&once, 1000).await;
    no_copy(&records);
    assert_complete(&records, 10, 100);
    assert_complete(&env.expect_records(&well, 1000).await, 10, 100);
    all_decided(&env, &once).await;
    let sql = format!(
        "select count(*) filter (where state = 'published') from outbox.status where topic = '{once}'"
    );
    assert_eq!(sqlx::query_scalar::<_, i64>(&sql).fetch_one(env.admin()).await.expect("count"), 1000);
    // Each was named dropped in an earlier settlement than the one that names it published.
    let first = "select bool_and(d.seq < p.seq) from outbox.ledger p, outbox.ledger d \
                  where p.published && d.dropped and p.epoch = d.epoch";
    assert_eq!(
        sqlx::query_scalar::<_, Option<bool>>(first).fetch_one(env.admin()).await.expect("order"),
        Some(true)
    );
    let counted = async || {
        let metrics = relay.metrics().await;
        let outcome =
            |outcome| metrics.value("outbox_messages_total", &[("topic", &once), ("outcome", outcome)]);
        outcome("delivered") == 1000.0 && outcome("dropped") == 0.0
    };
    eventually(DEADLINE, "each is counted once", counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_makes_a_copy_and_the_others_lose_nothing() {
    let env = Env::new().await;
    let (once, well) = (env.create_topic("once", 3, &[]).await, env.create_topic("well", 3, &[]).await);
    let mut written = 0;
    for point in [
        crash_point::AFTER_READ,
        crash_point::AFTER_SEND,
        crash_point::AFTER_CONFIRM,
        crash_point::INSIDE_SETTLEMENT,
        crash_point::AFTER_SETTLEMENT,
    ] {
        for times in [6, 9] {
            write_many(&env, &once, 5, written, 500).await;
            write_many(&env, &well, 5, written, 500).await;
            written += 100;
            let relay = relay(&env, &once).await.env("OUTBOX_RELAY_CRASH_AT", format!("{point}:{times}"));
            relay.start().await.wait_for_exit(RECOVERY).await;
        }
    }
    let _last = relay(&env, &once).await.start().await;
    expect_complete(&env, &well, 5, written).await;
    all_decided(&env, &once).await;
    let records = env.read_topic(&once).await;
    no_copy(&records);
    eprintln!("{} of {} arrived", records.len(), 5 * written);
    // Every row is counted once in the end: as published, or as lost by whoever noticed it.
    let unheard = "select count(*) from ( \
            select id, count(*) as times from outbox.ledger l cross join unnest(l.dropped) run \
             cross join generate_series(lower(run), upper(run) - 1) id group by id) named \
         where times = 1 and not exists (select from outbox.ledger l where l.published @> named.id)";
    env.eventually_true(&format!("select ({unheard}) = 0")).await;
    // What was lost is named: the ledger says of no row that it was published that is not there.
    let sql = format!("select count(*) from outbox.status where topic = '{once}' and state = 'published'");
    let published: i64 = sqlx::query_scalar(&sql).fetch_one(env.admin()).await.expect("count");
    assert!(published as usize <= records.len(), "{published} published, {} there", records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_rows_are_lost_and_counted_and_the_others_wait() {
    let env = Env::with_own_kafka().await;
    let (once, well) = (env.create_topic("once", 1, &[]).await, env.create_topic("well", 1, &[]).await);
    let relay = relay(&env, &once).await.start().await;
    write_many(&env, &once, 2, 0, 20).await;
    write_many(&env, &well, 2, 0, 20).await;
    env.expect_records(&once, 20).await;
    env.expect_records(&well, 20).await;
    let server = Arc::clone(&env.kafka().await.server);
    assert!(server.freeze());
    write_many(&env, &once, 2, 10, 40).await;
    write_many(&env, &well, 2, 10, 40).await;
    let outcome = async |topic: &str, outcome| {
        relay.metrics().await.value("outbox_messages_total", &[("topic", topic), ("outcome", outcome)])
    };
    eventually(DEADLINE, "all are lost", async || outcome(&once, "dropped").await == 40.0).await;
    assert!(server.thaw());
    // The outage lasts until the broker has registered again; until then it leads no partition.
    // Some of them may come twice: what was in flight went out again.
    expect_complete(&env, &well, 2, 30).await;
    write_many(&env, &once, 2, 30, 20).await;
    eventually(DEADLINE, "later ones arrive", async || outcome(&once, "delivered").await == 40.0).await;
    no_copy(&env.read_topic(&once).await);
    all_decided(&env, &once).await;
    assert_eq!(outcome(&well, "dropped").await, 0.0);
}
