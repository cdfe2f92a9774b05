//! Pages end where their limits say, and go on where they ended, also after a crash.

use outbox_relay::store::backlog;
use outbox_relay::store::poll::PageLimits;
use sqlx::{Connection, PgConnection, raw_sql};

use super::readers::{Reading, Relay};
use super::verdict::{Faults, judge};
use super::writers::committed;
use super::{ROOMY, drain};
use crate::support::Env;

async fn service(env: &Env) -> PgConnection {
    PgConnection::connect(&env.app_url()).await.expect("the server answers")
}

/// Writes rows of a key with the versions `from` to `to`, each payload padded to so many bytes.
async fn rows(connection: &mut PgConnection, key: &str, (from, to): (i64, i64), bytes: i32) {
    let insert = "insert into outbox.message (topic, key, payload)
                  select 't', convert_to($1, 'UTF8'), convert_to(lpad(n::text, $4), 'UTF8') from generate_series($2, $3) n";
    let written = sqlx::query(insert).bind(key).bind(from).bind(to).bind(bytes).execute(connection).await;
    written.expect("a service may write");
}

async fn turn(connection: &mut PgConnection, sql: &str) {
    raw_sql(sql).execute(connection).await.expect("the transaction goes on");
}

#[tokio::test]
async fn a_huge_late_set_is_paged_and_a_crash_in_the_middle_goes_on_where_it_was_settled() {
    let env = Env::new().await;
    let mut relay = Relay::start(&env.store(), PageLimits { rows: 500, ..ROOMY }).await;
    let (mut late, mut early) = (service(&env).await, service(&env).await);
    turn(&mut late, "begin").await;
    for n in 0..20 {
        rows(&mut late, "late", (n * 1_000 + 1, n * 1_000 + 1_000), 10).await;
        rows(&mut early, "early", (n * 100 + 1, n * 100 + 100), 10).await;
    }
    drain(&mut relay).await;
    relay.settle(usize::MAX).await;
    assert_eq!(relay.delivered().len(), 2_000);
    turn(&mut late, "commit").await;

    for _ in 0..15 {
        relay.page().await;
    }
    relay.settle(10).await;
    relay.start_again(relay.limits).await;
    assert_eq!(relay.delivered().len(), 2_000 + 10 * 500, "ten pages were settled, five are forgotten");
    assert!(relay.position.late.is_some(), "the new leader goes on paging");
    let mut session = env.store().connect("sample").await.expect("the server answers");
    let waits = backlog::sample(&mut session).await.expect("a sample");
    assert!(waits.ready >= 30 * 500, "{} ready while thirty pages of late rows wait", waits.ready);
    assert_eq!(waits.first_unread.map(|(topic, _)| topic), Some("t".to_owned()));
    let copied = "select count(distinct (snapshot, high, as_of, late_snapshot, late_after)::text) = 1
                         and count(late_after) = 2
                    from (select * from outbox.ledger order by epoch desc, seq desc limit 2) newest";
    let copied: bool = sqlx::query_scalar(copied).fetch_one(env.admin()).await.expect("the ledger is there");
    assert!(copied, "the takeover copied the position as it was settled");

    let mut pages = 0;
    while !relay.page().await {
        pages += 1;
    }
    assert!((30..=32).contains(&pages), "{pages} pages for the thirty that are left");
    assert_eq!(judge(&committed(&env.admin_url()).await, relay.delivered()), Faults::default());
}

#[tokio::test]
async fn late_rows_far_apart_are_found_in_pages_that_look_at_a_bounded_number_of_ids() {
    let env = Env::new().await;
    // A page looks at twenty ids for each row that it may return.
    let mut relay = Relay::start(&env.store(), PageLimits { rows: 10, ..ROOMY }).await;
    let (mut late, mut early) = (service(&env).await, service(&env).await);
    turn(&mut late, "begin").await;
    rows(&mut late, "late", (1, 15), 10).await;
    rows(&mut early, "early", (1, 2_000), 10).await;
    rows(&mut late, "late", (16, 30), 10).await;
    rows(&mut early, "early", (2_001, 2_001), 10).await;
    drain(&mut relay).await;
    turn(&mut late, "commit").await;
    let (mut pages, mut empty) = (0, 0);
    while !relay.page().await {
        pages += 1;
        empty += usize::from(relay.last_page == 0);
    }
    assert!((9..=10).contains(&empty), "{empty} pages of 200 ids without a late row");
    assert!(pages <= empty + 5, "{pages} pages");
    assert_eq!(judge(&committed(&env.admin_url()).await, relay.delivered()), Faults::default());
}

#[tokio::test]
async fn a_page_ends_with_the_row_that_crosses_its_bytes() {
    let env = Env::new().await;
    let limits = PageLimits { bytes: 1 << 20, ..ROOMY };
    let mut relay = Relay::start(&env.store(), limits).await;
    let (mut late, mut early) = (service(&env).await, service(&env).await);
    turn(&mut late, "begin").await;
    rows(&mut late, "late", (1, 25), 100_000).await;
    rows(&mut early, "early", (1, 25), 100_000).await;
    let mut pages = Vec::new();
    while !relay.page().await {
        pages.push(relay.last_page);
    }
    turn(&mut late, "commit").await;
    while !relay.page().await {
        pages.push(relay.last_page);
    }
    pages.retain(|rows| *rows > 0);
    assert_eq!(pages, [11, 11, 3, 11, 11, 3]);
    assert_eq!(judge(&committed(&env.admin_url()).await, relay.delivered()), Faults::default());
}

#[tokio::test]
async fn a_row_above_the_limit_comes_without_its_payload_and_stops_nobody() {
    let env = Env::new().await;
    let mut relay = Relay::start(&env.store(), PageLimits { bytes: 1 << 20, ..ROOMY }).await;
    let mut service = service(&env).await;
    rows(&mut service, "a", (1, 1), 1 << 20).await;
    rows(&mut service, "b", (1, 1), (1 << 20) + 1).await;
    rows(&mut service, "c", (1, 1), 5_000_000).await;
    rows(&mut service, "d", (1, 1), 10).await;
    drain(&mut relay).await;
    assert_eq!(relay.left_behind, [(1 << 20) + 1, 5_000_000]);
    let keys: Vec<&[u8]> = relay.delivered().iter().filter_map(|row| row.key.as_deref()).collect();
    assert_eq!(keys, [b"a", b"d"]);
}

#[tokio::test]
async fn a_sequence_that_hands_out_ids_ahead_stops_reading_before_a_row_is_lost() {
    let env = Env::new().await;
    let mut relay = Relay::start(&env.store(), ROOMY).await;
    let mut service = service(&env).await;
    rows(&mut service, "a", (1, 1), 10).await;
    drain(&mut relay).await;
    env.execute("alter sequence outbox.message_id_seq cache 20").await;
    rows(&mut service, "a", (2, 2), 10).await;
    let error = relay.try_page().await.expect_err("ids no longer follow the transactions");
    assert!(error.to_string().contains("a cache of 20"), "{error}");
    env.execute("alter sequence outbox.message_id_seq cache 1").await;
    rows(&mut service, "a", (3, 3), 10).await;
    drain(&mut relay).await;
    assert_eq!(judge(&committed(&env.admin_url()).await, relay.delivered()), Faults::default());
}
