//! What a look for due rows costs: the same whatever came, went or is scheduled.

use outbox_relay::store::Server;
use outbox_relay::store::connect::SETTINGS;
use outbox_relay::store::deferred::{self, DueLimits};
use sqlx::raw_sql;

use super::{Cost, explain};
use crate::support::{Quiet, scaled};

#[tokio::test]
async fn looking_for_due_rows_stays_cheap_after_many_came_and_went_under_a_held_snapshot() {
    let rows = scaled(40_000, 1_000_000);
    let quiet = Quiet::new().await;
    let mut holder = quiet.connect("postgres").await;
    raw_sql("begin isolation level repeatable read; select count(*) from outbox.deferred")
        .execute(&mut holder)
        .await
        .expect("a snapshot is held");
    quiet
        .execute(&format!(
            "insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at, deferred_at) \
             select n, gen_random_uuid(), 't', convert_to('k' || n, 'UTF8'), now(), 'retry', clock_timestamp(), now() \
               from generate_series(1, {rows}) n; \
             delete from outbox.deferred"
        ))
        .await;
    quiet.execute("vacuum outbox.deferred").await;
    let server = Server::new([quiet.url_as("relay_login").as_str()]).expect("the URL is well formed");
    let mut session = server.connect("retry").await.expect("the server answers");
    let limits =
        DueLimits { heads: 500, followers: 1000, max_row_bytes: 1 << 20, bytes: 8 << 20, rows: 25_000 };
    let page = deferred::due(&mut session, &limits, 0).await.expect("the server answers");
    assert_eq!(page.rows.len(), 0);
    // One that came later, and one behind it.
    quiet
        .execute(
            "insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at, deferred_at) values \
             (1, gen_random_uuid(), 't', 'k', now(), 'retry', clock_timestamp(), now()), \
             (2, gen_random_uuid(), 't', 'k', now(), 'behind', null, now())",
        )
        .await;
    let found = deferred::due(&mut session, &limits, page.dealt_with_us).await.expect("the server answers");
    assert_eq!(found.rows.len(), 2);
    for (since, allowed) in [(found.clock_us, 30), (page.dealt_with_us, 60)] {
        cost_of_due(&quiet, since).await.at_most(allowed);
    }
}

/// What a look for due rows costs, when nothing that was due before `since` is left.
async fn cost_of_due(quiet: &Quiet, since: i64) -> Cost {
    let mut explaining = quiet.connect("postgres").await;
    let settings: String =
        SETTINGS[..4].iter().map(|(name, value)| format!("set {name} = {value};")).collect();
    let due = include_str!("../../../src/store/sql/due.sql");
    let prepare =
        format!("{settings} prepare due (bigint, bigint, integer, bigint, bigint, bigint) as {due}");
    raw_sql(&prepare).execute(&mut explaining).await.expect("the statement prepares");
    let call = format!("due(500, 1000, 1048576, 8388608, {since}, 25000)");
    // The first execution plans, and reads the catalog.
    explain(&mut explaining, &call).await;
    explain(&mut explaining, &call).await
}

#[tokio::test]
async fn looking_for_due_rows_costs_the_same_while_many_are_scheduled() {
    let rows = scaled(40_000, 1_000_000);
    let quiet = Quiet::new().await;
    quiet
        .execute(&format!(
            "insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at, deferred_at) \
             select n, gen_random_uuid(), 't', convert_to('k' || n % 1000, 'UTF8'), now(), 'scheduled', \
                    clock_timestamp() + interval '1 hour', now() from generate_series(1, {rows}) n"
        ))
        .await;
    cost_of_due(&quiet, 0).await.at_most(30);
    // One that is due, of a key with many scheduled rows, and one that waits behind it.
    quiet
        .execute(
            "insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at, deferred_at) values \
             (0, gen_random_uuid(), 't', 'k7', now(), 'retry', clock_timestamp(), now()), \
             (9999999, gen_random_uuid(), 't', 'k7', now(), 'behind', null, now())",
        )
        .await;
    cost_of_due(&quiet, 0).await.at_most(60);
}
