//! What is done and old goes, slot by slot; what is not accounted for never does.

mod guards;
mod sweep;

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, PgConnection, raw_sql};
use tokio_util::sync::CancellationToken;

use crate::support::lines::{assert_complete, write_many};
use crate::support::{DEADLINE, Env, LogLine, Record, RelayBuilder, eventually};

/// A relay that keeps published rows for a second, in slots of a second.
async fn tidy(env: &Env) -> RelayBuilder {
    let relay = env.relay().await.set("retention.published", "1s").set("retention.every", "100ms");
    relay.set("retry.base", "50ms").set("retry.max", "500ms")
}

/// Slots have become a second wide.
async fn narrow_slots(env: &Env) {
    env.eventually_true("select bool_and(width = 1) from outbox.ring").await;
}

const BYTES: &str = "select sum(pg_relation_size(inhrelid))::bigint from pg_inherits where inhparent = 'outbox.message'::regclass";

async fn until_empty(env: &Env) {
    eventually(Duration::from_secs(60), "no message is left", async || {
        env.one::<i64>("select count(*) from outbox.message").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_rows_go_when_they_are_old_and_the_disk_comes_back() {
    let env = Env::new().await;
    let topic = env.create_topic("old", 1, &[]).await;
    let relay = tidy(&env).await.start().await;
    narrow_slots(&env).await;
    for round in 0..4 {
        write_many(&env, &topic, 10, round * 100, 1000).await;
        env.expect_records(&topic, (round as usize + 1) * 1000).await;
    }
    until_empty(&env).await;
    env.eventually_true(&format!("select ({BYTES}) = 0")).await;
    // The ledger goes behind its rows, the newest position stays.
    env.eventually_true("select count(*) < 20 from outbox.ledger where published <> '{}'").await;
    assert_eq!(
        env.one::<i64>(
            "select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1"
        )
        .await,
        4000
    );
    assert!(relay.terminate().await.success());

    // A relay that starts then knows where it was.
    let relay = tidy(&env).await.start().await;
    write_many(&env, &topic, 10, 400, 10).await;
    assert_complete(&env.expect_records(&topic, 4010).await, 10, 401);
    assert_eq!(env.read_topic(&topic).await.len(), 4010, "no record twice");
    let metrics = relay.metrics().await;
    assert_eq!(metrics.value("outbox_retention_published_seconds", &[]), 1.0);
    assert!(metrics.value("outbox_table_bytes", &[("table", "ledger")]) > 0.0);
    assert_eq!(metrics.value("outbox_loss_incidents_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_width_of_a_slot_follows_from_the_retention() {
    let env = Env::new().await;
    let relay = env.relay().await.set("retention.published", "1h").set("retention.every", "100ms");
    let _relay = relay.start().await;
    env.eventually_true("select bool_and(width = 600) from outbox.ring").await;
    let defaults = "select count(*) filter (where pg_get_expr(adbin, adrelid) like '%/ (600)::numeric%') from pg_attrdef \
                     join pg_attribute a on a.attrelid = adrelid and a.attnum = adnum and a.attname = 'slot' \
                    where adrelid in ('outbox.message'::regclass, 'outbox.ledger'::regclass, 'outbox.attempt'::regclass)";
    assert_eq!(env.one::<i64>(defaults).await, 3);
    let topic = env.create_topic("width", 1, &[]).await;
    write_many(&env, &topic, 1, 0, 3).await;
    let slot =
        "select bool_and(slot = floor(extract(epoch from created_at) / 600)::bigint % 8) from outbox.message";
    assert!(env.one::<bool>(slot).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_holds_a_slot_delays_nobody_and_the_slot_goes_later() {
    let env = Env::new().await;
    let topic = env.create_topic("held", 1, &[]).await;
    let _relay = tidy(&env).await.start().await;
    narrow_slots(&env).await;
    write_many(&env, &topic, 5, 0, 100).await;
    env.expect_records(&topic, 100).await;
    let mut backup = PgConnection::connect(&env.admin_url()).await.expect("connect");
    let mut backup = backup.begin().await.expect("begin");
    let held: Vec<i16> = sqlx::query_scalar("select distinct slot from outbox.message")
        .fetch_all(&mut *backup)
        .await
        .expect("select");
    for slot in &held {
        sqlx::query(&format!("lock table outbox.message_{slot} in access share mode"))
            .execute(&mut *backup)
            .await
            .expect("lock");
    }
    // Producers who do not wait, for more than a turn of the ring.
    let mut producer = PgConnection::connect(&env.app_url()).await.expect("connect");
    sqlx::query("set lock_timeout = '500ms'").execute(&mut producer).await.expect("set");
    let insert = "insert into outbox.message (topic, key, payload) values ($1, 'k0', convert_to(to_char($2, 'fm00000000'), 'UTF8'))";
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    for version in 20..120 {
        pace.tick().await;
        sqlx::query(insert)
            .bind(&topic)
            .bind(version)
            .execute(&mut producer)
            .await
            .expect("an insert waits for nobody");
    }
    env.expect_records(&topic, 200).await;
    let still = format!("select count(*) from outbox.message where slot = {} and id <= 100", held[0]);
    assert!(env.one::<i64>(&still).await > 0, "what a backup reads stays");
    backup.rollback().await.expect("rollback");
    until_empty(&env).await;
    assert_eq!(env.read_topic(&topic).await.len(), 200, "and nothing is published again");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_works_where_repeatable_read_is_the_default() {
    let env = Env::new().await;
    env.execute(&format!(
        "alter database \"{}\" set default_transaction_isolation = 'repeatable read'",
        env.database()
    ))
    .await;
    let topic = env.create_topic("strict", 1, &[]).await;
    let _relay = tidy(&env).await.start().await;
    narrow_slots(&env).await;
    write_many(&env, &topic, 5, 0, 500).await;
    assert_complete(&env.expect_records(&topic, 500).await, 5, 100);
    until_empty(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_with_rows_of_a_lane_stays_with_all_its_rows() {
    let env = Env::new().await;
    let well = env.create_topic("well", 1, &[]).await;
    let missing = env.topic("missing");
    let relay = tidy(&env).await.expect_errors().start().await;
    narrow_slots(&env).await;
    write_many(&env, &missing, 3, 0, 30).await;
    env.eventually_true("select count(*) = 1 from outbox.open_lane").await;
    write_many(&env, &missing, 3, 10, 300).await;
    // Slots of later seconds go.
    let mut version = 0;
    eventually(Duration::from_secs(60), "others are emptied", async || {
        write_many(&env, &well, 1, version, 1).await;
        version += 1;
        relay.logged("slot of old rows is empty again") >= 5
    })
    .await;
    let stay = format!("select count(*) from outbox.message where topic = '{missing}'");
    assert!(env.one::<i64>(&stay).await >= 300, "what the lane has not read stays");
    env.create_topic("missing", 1, &[]).await;
    assert_complete(&env.expect_records(&missing, 330).await, 3, 110);
    until_empty(&env).await;
    assert_eq!(env.read_topic(&missing).await.len(), 330);
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_size_bound_swept_slots_go_before_their_time() {
    let env = Env::new().await;
    let topic = env.create_topic("large", 1, &[]).await;
    let relay =
        env.relay().await.set("retention.every", "200ms").set("retention.published_max_bytes", "2MiB");
    let _relay = relay.start().await;
    // Three slots that the clock does not fill now or next, of 1.5 MB each.
    let sql = format!(
        "insert into outbox.message (slot, topic, payload, created_at) \
         select (floor(extract(epoch from clock_timestamp()) / 14400)::bigint + 3 + n / 1000) % 8, '{topic}', convert_to(repeat(md5(n::text), 40), 'UTF8'), \
                clock_timestamp() - (3 - n / 1000) * interval '1 hour' from generate_series(0, 2999) n"
    );
    env.execute(&sql).await;
    env.expect_records(&topic, 3000).await;
    env.eventually_true("select count(*) in (0, 1000) from outbox.message").await;
    assert_eq!(
        env.one::<Option<i64>>("select min(id) from outbox.message").await.unwrap_or(2001),
        2001,
        "the oldest go first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_do_not_notice_that_slots_are_emptied() {
    let env = Env::new().await;
    let topic = env.create_topic("busy", 3, &[]).await;
    let relay = tidy(&env).await.start().await;
    narrow_slots(&env).await;
    let stop = CancellationToken::new();
    let producers: Vec<_> = (0..4)
        .map(|producer: i64| {
            let (url, topic, stop) = (env.app_url(), topic.clone(), stop.clone());
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await.expect("connect");
                sqlx::query("set lock_timeout = '500ms'").execute(&mut connection).await.expect("set");
                let sql = "insert into outbox.message (topic, key, payload) \
                           values ($1, convert_to('k' || $2, 'UTF8'), convert_to(to_char($3, 'fm00000000'), 'UTF8'))";
                let mut version = 0i64;
                while !stop.is_cancelled() {
                    let insert = sqlx::query(sql).bind(&topic).bind(producer).bind(version);
                    insert.execute(&mut connection).await.expect("an insert waits for nobody");
                    version += 1;
                }
                version
            })
        })
        .collect();
    // Two turns of the ring.
    let emptied = async || relay.logged("slot of old rows is empty again") >= 16;
    eventually(Duration::from_secs(60), "slots are emptied", emptied).await;
    stop.cancel();
    let mut written = 0;
    for producer in producers {
        written += producer.await.expect("no insert failed");
    }
    until_empty(&env).await;
    let records = env.expect_records(&topic, written as usize).await;
    assert_eq!(records.len() as i64, written, "no record is missing or there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_stay_unless_the_operator_gives_them_an_end() {
    let env = Env::new().await;
    env.execute(
        "insert into outbox.dead_letter (id, event_id, topic, created_at, reason_class, fingerprint, error, attempts, first_failed_at, \
                                         last_failed_at, dead_at) \
         select n, gen_random_uuid(), 't', clock_timestamp(), 'refused', 'f', 'e', 1, clock_timestamp(), clock_timestamp(), \
                clock_timestamp() - n * interval '1 hour' from generate_series(1, 2500) n",
    )
    .await;
    let keeps = tidy(&env).await.start().await;
    narrow_slots(&env).await;
    assert!(keeps.terminate().await.success());
    assert_eq!(env.one::<i64>("select count(*) from outbox.dead_letter").await, 2500);
    let _forgets = tidy(&env).await.set("retention.dead_letters", "10h").start().await;
    env.eventually_true("select count(*) between 8 and 10 from outbox.dead_letter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_slot_whose_ledger_is_old_is_not_published_again() {
    let env = Env::new().await;
    let topic = env.create_topic("stuck", 1, &[]).await;
    let relay = tidy(&env).await.start().await;
    narrow_slots(&env).await;
    assert!(relay.terminate().await.success());
    write_many(&env, &topic, 5, 0, 100).await;
    let held: i16 = env.one("select min(slot) from outbox.message").await;
    // This slot only: others have to go.
    let mut backup = PgConnection::connect(&env.admin_url()).await.expect("connect");
    let mut backup = backup.begin().await.expect("begin");
    raw_sql(&format!("lock table outbox.message_{held} in access share mode"))
        .execute(&mut *backup)
        .await
        .expect("lock");
    let stuck: i64 = env.one(&format!("select count(*) from outbox.message_{held} where id <= 100")).await;
    let relay = tidy(&env).await.start().await;
    env.expect_records(&topic, 100).await;
    // Settlements of later rows go; two turns of the ring, all of it long older than the retention.
    let mut version = 20;
    eventually(Duration::from_secs(60), "later settlements have gone", async || {
        write_many(&env, &topic, 1, version, 1).await;
        version += 1;
        let lines = relay.log();
        let of_ledger = |line: &&LogLine| {
            line.message() == Some("slot of old rows is empty again")
                && line.field("ring").and_then(Value::as_str) == Some("Ledger")
        };
        lines.iter().filter(of_ledger).count() >= 10
    })
    .await;
    let state = format!(
        "select count(*) from outbox.status join outbox.message_{held} using (id) where state = 'published' and id <= 100"
    );
    assert_eq!(env.one::<i64>(&state).await, stuck, "what is said of them stays as long as they do");
    backup.rollback().await.expect("rollback");
    until_empty(&env).await;
    let ids: Vec<i64> = env.read_topic(&topic).await.iter().map(Record::seq).collect();
    let again = ids.len() - ids.iter().collect::<std::collections::HashSet<_>>().len();
    assert_eq!(again, 0, "nothing is published again");
    assert_eq!(relay.metrics().await.value("outbox_loss_incidents_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_kept_longer_than_their_rows_and_go_when_they_are_old() {
    let env = Env::new().await;
    let topic = env.create_topic("receipts", 1, &[]).await;
    let relay = tidy(&env).await.set("retention.receipts", "12s").start().await;
    let widths = "select string_agg(ring || ' ' || width, ', ' order by ring) = 'attempt 2, ledger 2, message 1' from outbox.ring";
    env.eventually_true(widths).await;
    write_many(&env, &topic, 5, 0, 100).await;
    env.expect_records(&topic, 100).await;
    until_empty(&env).await;
    let receipts = "select count(*) from outbox.ledger where receipts is not null";
    assert!(env.one::<i64>(receipts).await > 0, "the rows are gone, their receipts are there");
    // The ring turns while settlements come in: no slot of it is filled again before its receipts were old enough to go.
    let mut version = 20;
    eventually(Duration::from_secs(60), "the first receipts are gone", async || {
        write_many(&env, &topic, 1, version, 1).await;
        version += 1;
        env.one::<bool>("select not exists (select from outbox.ledger where published @> 1::bigint)").await
    })
    .await;
    let oldest = "select clock_timestamp() - min(at) < interval '30 seconds' from outbox.ledger where receipts is not null";
    assert!(env.one::<bool>(oldest).await);
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_go_under_a_steady_flow_too() {
    let env = Env::new().await;
    let topic = env.create_topic("steady", 1, &[]).await;
    // Six seconds and two slots of a second: a slot that is filled to its end is old enough when it is the next one.
    let relay =
        env.relay().await.set("retention.published", "6s").set("retention.every", "100ms").start().await;
    narrow_slots(&env).await;
    let mut version = 0;
    eventually(Duration::from_secs(60), "slots of rows are emptied", async || {
        write_many(&env, &topic, 1, version, 1).await;
        version += 1;
        let lines = relay.log();
        let of_rows = |line: &&LogLine| {
            line.message() == Some("slot of old rows is empty again")
                && line.field("ring").and_then(Value::as_str) == Some("Message")
        };
        lines.iter().filter(of_rows).count() >= 10
    })
    .await;
    let oldest = "select coalesce(clock_timestamp() - min(created_at) < interval '20 seconds', true) from outbox.message";
    assert!(env.one::<bool>(oldest).await);
    assert_complete(&env.expect_records(&topic, version as usize).await, 1, version);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_get_another_width_while_producers_never_pause() {
    let env = Env::new().await;
    let topic = env.create_topic("steady", 1, &[]).await;
    let relay =
        env.relay().await.set("retention.published", "1h").set("retention.every", "100ms").start().await;
    env.eventually_true("select bool_and(width = 600) from outbox.ring").await;
    assert!(relay.terminate().await.success());
    let stop = CancellationToken::new();
    let producers: Vec<_> = (0..8)
        .map(|_| {
            let (url, stop, topic) = (env.app_url(), stop.clone(), topic.clone());
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await.expect("connect");
                sqlx::query("set lock_timeout = '500ms'").execute(&mut connection).await.expect("set");
                while !stop.is_cancelled() {
                    // Holds the table for a moment, as a business transaction does.
                    sqlx::query("begin").execute(&mut connection).await.expect("begin");
                    let insert = sqlx::query("insert into outbox.message (topic) values ($1)").bind(&topic);
                    insert.execute(&mut connection).await.expect("an insert waits for nobody");
                    sqlx::query("select pg_sleep(0.005)").execute(&mut connection).await.expect("a moment");
                    sqlx::query("commit").execute(&mut connection).await.expect("commit");
                }
            })
        })
        .collect();
    let _relay =
        env.relay().await.set("retention.published", "2h").set("retention.every", "100ms").start().await;
    env.eventually_true("select bool_and(width = 1200) from outbox.ring").await;
    stop.cancel();
    for producer in producers {
        producer.await.expect("no insert failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_gauges_of_every_relay_and_the_oldest_slot_is_the_leaders() {
    let env = Env::new().await;
    let topic = env.create_topic("gauges", 1, &[]).await;
    let relay = env.relay().await.set("retention.every", "100ms").start().await;
    write_many(&env, &topic, 1, 0, 100).await;
    let mut open = env.admin().begin().await.expect("begin");
    raw_sql("select pg_current_xact_id()").execute(&mut *open).await.expect("a transaction number");
    let began: f64 = sqlx::query_scalar("select extract(epoch from now())::double precision")
        .fetch_one(&mut *open)
        .await
        .expect("select");
    let all = async || {
        let metrics = relay.metrics().await;
        let (slot, transaction) = (
            metrics.value("outbox_oldest_slot_timestamp_seconds", &[]),
            metrics.value("outbox_oldest_transaction_timestamp_seconds", &[]),
        );
        let tables = ["message", "ledger", "attempt", "deferred", "dead_letter"];
        let known = tables.iter().all(|table| metrics.value("outbox_table_bytes", &[("table", table)]) > 0.0);
        // The relay's login may not see whose transaction it is; then there is nothing to say, and no error.
        // The statement that asks has begun after ours and must not be the answer.
        known && (slot - began).abs() < 60.0 && (transaction == 0.0 || transaction <= began)
    };
    eventually(DEADLINE, "sizes and ages are known", all).await;
    open.rollback().await.expect("rollback");
    env.execute(
        "update outbox.lease set epoch = epoch + 1, holder = gen_random_uuid(), holder_name = 'another'",
    )
    .await;
    let gone = async || {
        let metrics = relay.metrics().await;
        metrics.value("outbox_leader", &[]) == 0.0
            && metrics.value("outbox_oldest_slot_timestamp_seconds", &[]) == 0.0
            // A gap in the sizes at each takeover would look like a table that grows by all that it has.
            && metrics.value("outbox_table_bytes", &[("table", "message")]) > 0.0
    };
    eventually(
        DEADLINE,
        "a standby says how large the tables are, and nothing of what only a leader knows",
        gone,
    )
    .await;
}
