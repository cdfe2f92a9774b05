//! What the functions that empty slots refuse, asked one by one, without a relay.

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::Env;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_commits_between_the_look_and_the_lock_survives() {
    let env = Env::new().await;
    let token = Uuid::new_v4();
    env.execute(&format!("insert into outbox.incarnation (token) values ('{token}')")).await;
    env.execute("insert into outbox.message (slot, topic) overriding system value select 5, 't' from generate_series(1, 10)").await;
    let snapshot: String = env.one("select pg_current_snapshot()::text").await;
    let empty = async |epoch: i64, snapshot: &str| -> String {
        let sql = "select outbox.empty_slot($1, $2, 'message', 5, $3::text::pg_snapshot, clock_timestamp())";
        let query = sqlx::query_scalar(sql).bind(epoch).bind(token).bind(snapshot);
        query.fetch_one(env.admin()).await.expect("the function answers")
    };
    assert_eq!(empty(7, &snapshot).await, "lease_lost", "who was deposed empties nothing");
    env.execute("insert into outbox.message (slot, topic) values (5, 'late')").await;
    assert_eq!(empty(0, &snapshot).await, "changed");
    // One whose transaction had begun before the look.
    let mut early = env.admin().begin().await.expect("begin");
    sqlx::query("select pg_current_xact_id()").execute(&mut *early).await.expect("a transaction number");
    let snapshot: String = env.one("select pg_current_snapshot()::text").await;
    sqlx::query("insert into outbox.message (slot, topic) values (5, 'early')")
        .execute(&mut *early)
        .await
        .expect("insert");
    assert_eq!(empty(0, &snapshot).await, "busy", "an open writer is not waited for");
    early.commit().await.expect("commit");
    assert_eq!(empty(0, &snapshot).await, "changed");
    assert_eq!(env.one::<i64>("select count(*) from outbox.message").await, 12);

    // Under repeatable read it could not see what it truncates.
    let mut strict = env.admin().begin().await.expect("begin");
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *strict).await.expect("set");
    let sql = "select outbox.empty_slot(0, $1, 'message', 5, pg_current_snapshot(), clock_timestamp())";
    let error = sqlx::query(sql).bind(token).execute(&mut *strict).await.expect_err("it refuses").to_string();
    assert!(error.contains("needs read committed"), "{error}");
    strict.rollback().await.expect("rollback");
    let snapshot: String = env.one("select pg_current_snapshot()::text").await;
    assert_eq!(empty(0, &snapshot).await, "emptied");
    let mut relay = PgConnection::connect(&env.relay_url()).await.expect("connect");
    sqlx::query("truncate outbox.message_5")
        .execute(&mut relay)
        .await
        .expect_err("the relay has no such right of its own");
}

/// What the leader of no lease and this token gets when it asks to empty a slot of what is older than now.
async fn empty(env: &Env, epoch: i64, ring: &str, slot: i32, snapshot: &str) -> String {
    let sql = "select outbox.empty_slot($1, (select token from outbox.incarnation), $2, $3, $4::text::pg_snapshot, clock_timestamp())";
    let query = sqlx::query_scalar(sql).bind(epoch).bind(ring).bind(slot).bind(snapshot);
    query.fetch_one(env.admin()).await.expect("the function answers")
}

async fn now(env: &Env) -> String {
    env.one("select pg_current_snapshot()::text").await
}

/// A server that knows a token, and whose newest position is out of the way, in slot 7 of the ledger.
async fn with_a_token() -> Env {
    let env = Env::new().await;
    env.execute(&format!("insert into outbox.incarnation (token) values ('{}')", Uuid::new_v4())).await;
    env.execute("update outbox.ledger set slot = 7, seq = 100, at = at - interval '1 day'").await;
    env
}

/// An old settlement in a slot of the ledger: its number, its lane, whether it closes the lane, the ids that it published.
async fn settlement(env: &Env, slot: i32, seq: i64, lane: Option<&str>, closed: bool, published: &str) {
    let sql = "insert into outbox.ledger (slot, epoch, seq, lane, closed, snapshot, high, as_of, published, at) \
               values ($1, 0, $2, $3, $4, pg_current_snapshot(), 0, pg_current_xact_id(), $5::text::int8multirange, \
                       clock_timestamp() - interval '1 day')";
    let query = sqlx::query(sql).bind(slot).bind(seq).bind(lane).bind(closed).bind(published);
    query.execute(env.admin()).await.expect("insert");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_deposed_or_forgotten_empties_nothing_and_changes_nothing() {
    let env = with_a_token().await;
    env.execute("insert into outbox.message (slot, topic) values (5, 't')").await;
    settlement(&env, 4, 1, None, false, "{[1,2)}").await;
    env.execute(
        "insert into outbox.attempt (slot, id, class, at) values (3, 1, 'c', now() - interval '1 day')",
    )
    .await;
    let places = [("message", 5), ("ledger", 4), ("attempt", 3)];
    for (ring, slot) in places {
        assert_eq!(empty(&env, 1, ring, slot, &now(&env).await).await, "lease_lost", "{ring}");
    }
    assert!(!env.one::<bool>("select outbox.set_slot_width(1, 'message', 7, 1)").await);
    assert!(env.one::<bool>("select bool_and(width = 14400) from outbox.ring").await);
    assert_eq!(env.one::<i64>("select outbox.forget_letters(1, 'infinity', 10)").await, 0);
    let stranger = "select outbox.empty_slot(0, gen_random_uuid(), 'message', 5, pg_current_snapshot(), clock_timestamp())";
    assert_eq!(env.one::<String>(stranger).await, "forgotten");
    for (ring, slot) in places {
        assert_eq!(empty(&env, 0, ring, slot, &now(&env).await).await, "emptied", "{ring}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_the_ledger_stays_while_somebody_goes_on_from_it_or_it_is_young_or_was_not_seen() {
    let env = with_a_token().await;
    assert_eq!(empty(&env, 0, "ledger", 7, &now(&env).await).await, "held", "the newest position");
    settlement(&env, 3, 1, Some("t"), false, "{}").await;
    assert_eq!(empty(&env, 0, "ledger", 3, &now(&env).await).await, "held", "an open lane");
    let before = now(&env).await;
    settlement(&env, 4, 2, None, false, "{}").await;
    assert_eq!(empty(&env, 0, "ledger", 4, &before).await, "changed");
    env.execute("update outbox.ledger set at = clock_timestamp() + interval '1 hour' where slot = 4").await;
    assert_eq!(
        empty(&env, 0, "ledger", 4, &now(&env).await).await,
        "held",
        "younger than the receipts have to become"
    );
    env.execute(
        "insert into outbox.attempt (slot, id, class, at) values (3, 1, 'c', now() + interval '1 hour')",
    )
    .await;
    assert_eq!(empty(&env, 0, "attempt", 3, "1:1:").await, "held", "a young attempt");
    assert_eq!(env.one::<i64>("select count(*) from outbox.ledger").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_closed_does_not_come_back_when_old_settlements_go() {
    let env = with_a_token().await;
    settlement(&env, 3, 1, Some("t"), false, "{}").await;
    settlement(&env, 5, 2, Some("t"), true, "{}").await;
    let open = "select count(*) from outbox.open_lane";
    assert_eq!(empty(&env, 0, "ledger", 5, &now(&env).await).await, "held", "it closes the lane of slot 3");
    assert_eq!(env.one::<i64>(open).await, 0);
    assert_eq!(empty(&env, 0, "ledger", 3, &now(&env).await).await, "emptied");
    assert_eq!(empty(&env, 0, "ledger", 5, &now(&env).await).await, "emptied", "nothing is left to close");
    assert_eq!(env.one::<i64>(open).await, 0);
}
