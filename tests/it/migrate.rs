//! `outbox-relay migrate`: repeatable, safe side by side, honest about what it may not do; and the repair after a copy.

use std::process::{Command, Output};

use outbox_relay::store::migrate::{self, Losses, MigrateError, losses, plan};
use outbox_relay::store::migration::{MIGRATIONS, Migration, SchemaFitness, schema_fitness, status};
use outbox_relay::store::rebase::{Pending, RebaseError, rebase};
use sqlx::{Connection, PgConnection, PgPool};

use crate::support::{Env, blocking};

async fn connect(url: &str) -> PgConnection {
    migrate::connect(&[url]).await.expect("connect")
}

async fn ids(pool: &PgPool, sql: &str) -> Vec<i64> {
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn holds(pool: &PgPool, sql: &str) -> bool {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn outbox_relay(url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments).env("DATABASE_URL", url).current_dir(std::env::temp_dir());
    blocking(move || command.output()).await
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn two_migrations_that_start_at_once_do_the_work_once() {
    let env = Env::builder().unmigrated().start().await;
    let (mut one, mut other) = (connect(&env.admin_url()).await, connect(&env.admin_url()).await);
    assert_eq!(schema_fitness(&mut one).await.expect("fitness"), SchemaFitness::Missing);
    let (first, second) = tokio::join!(migrate::migrate(&mut one), migrate::migrate(&mut other));
    let applied = first.expect("migrate").applied.len() + second.expect("migrate").applied.len();
    assert_eq!(applied, MIGRATIONS.len());
    assert_eq!(schema_fitness(&mut one).await.expect("fitness"), SchemaFitness::Fits);
    let again = migrate::migrate(&mut one).await.expect("migrate");
    assert!(again.applied.is_empty() && again.administrator_sql.is_none());
    assert!(
        status(&mut one)
            .await
            .expect("status")
            .iter()
            .all(|row| row.applied_at.is_some() && row.known && !row.edited)
    );
}

#[tokio::test]
async fn two_databases_of_a_new_cluster_can_be_migrated_at_once() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let other = env.postgres.empty_database("other").await;
    let (mut one, mut two) =
        (connect(&env.admin_url()).await, connect(&env.postgres.server.url_as("postgres", &other)).await);
    let (first, second) = tokio::join!(migrate::migrate(&mut one), migrate::migrate(&mut two));
    assert_eq!(first.expect("migrate").administrator_sql, None);
    assert_eq!(second.expect("migrate").administrator_sql, None);
}

#[tokio::test]
async fn a_dry_run_prints_a_script_that_does_the_same_and_changes_nothing() {
    let env = Env::builder().unmigrated().start().await;
    let mut admin = connect(&env.admin_url()).await;
    let output = outbox_relay(&env.admin_url(), &["migrate", "--dry-run"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let script = String::from_utf8(output.stdout).expect("the script is text");
    assert!(!holds(env.admin(), "select to_regnamespace('outbox') is not null").await, "nothing was made");
    assert_eq!(script, plan(&mut admin).await.expect("plan").script);

    sqlx::raw_sql(&script).execute(&mut admin).await.expect("the script runs");
    assert_eq!(schema_fitness(&mut admin).await.expect("fitness"), SchemaFitness::Fits);
    assert!(migrate::migrate(&mut admin).await.expect("migrate").applied.is_empty());
    let rest = plan(&mut admin).await.expect("plan");
    assert!(rest.pending.is_empty());
    sqlx::raw_sql(&rest.script).execute(&mut admin).await.expect("and again");
}

#[tokio::test]
async fn an_edited_or_lost_migration_is_noticed() {
    let env = Env::new().await;
    let mut admin = connect(&env.admin_url()).await;
    env.execute("update outbox.migration set checksum = 'x' where version = 2").await;
    let edited = migrate::migrate(&mut admin).await;
    assert!(matches!(edited, Err(MigrateError::Edited { version: 2, .. })), "{edited:?}");
    assert!(status(&mut admin).await.expect("status")[1].edited);
    env.execute("delete from outbox.migration where version = 2").await;
    let gap = migrate::migrate(&mut admin).await;
    assert!(matches!(gap, Err(MigrateError::Gap { version: 2, .. })), "{gap:?}");
    let output = outbox_relay(&env.admin_url(), &["migrate"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("migration 2 (ledger) is missing"), "{}", said(&output));
}

#[tokio::test]
async fn a_newer_schema_is_left_alone_until_it_demands_a_newer_binary() {
    let env = Env::new().await;
    let mut admin = connect(&env.admin_url()).await;
    env.execute("insert into outbox.migration values (99, 'later', 'x', '0.1.0')").await;
    assert_eq!(schema_fitness(&mut admin).await.expect("fitness"), SchemaFitness::Fits);
    assert!(migrate::migrate(&mut admin).await.expect("migrate").applied.is_empty());
    assert!(!status(&mut admin).await.expect("status").last().expect("a row").known);
    env.execute("update outbox.migration set oldest_binary = '99.0.0' where version = 99").await;
    let too_new = SchemaFitness::TooNew { oldest_binary: "99.0.0".to_owned() };
    assert_eq!(schema_fitness(&mut admin).await.expect("fitness"), too_new);
    env.execute("delete from outbox.migration where version >= (select max(version) from outbox.migration where version < 99)").await;
    let needs: i32 = MIGRATIONS.len().try_into().expect("few");
    assert_eq!(
        schema_fitness(&mut admin).await.expect("fitness"),
        SchemaFitness::TooOld { has: needs - 1, needs }
    );
}

#[tokio::test]
async fn a_schema_of_that_name_which_is_not_ours_is_not_touched() {
    let env = Env::builder().unmigrated().start().await;
    env.execute("create schema outbox; create table outbox.mails (id int)").await;
    let refused = migrate::migrate(&mut connect(&env.admin_url()).await).await;
    assert!(matches!(refused, Err(MigrateError::ForeignSchema)), "{refused:?}");
    // An administrator may have made the schema beforehand.
    env.execute("drop table outbox.mails").await;
    migrate::migrate(&mut connect(&env.admin_url()).await).await.expect("migrate");
}

#[tokio::test]
async fn without_the_right_to_make_roles_it_says_what_an_administrator_has_to_run() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let database = env.database();
    env.execute(&format!("create role deployer login; grant create on database \"{database}\" to deployer"))
        .await;
    let deployer = env.url_as("deployer");

    let output = outbox_relay(&deployer, &["migrate"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let sql = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["create role outbox_producer nologin;", "grant outbox_owner to \"deployer\";"] {
        assert!(sql.contains(line), "{sql}");
    }
    assert!(said(&output).contains("an administrator has to run"), "{}", said(&output));
    assert_eq!(schema_fitness(&mut connect(&deployer).await).await.expect("fitness"), SchemaFitness::Fits);

    env.execute(&sql).await;
    let output = outbox_relay(&deployer, &["migrate"]).await;
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
    env.execute("create role app_login login in role outbox_producer").await;
    let mut app = PgConnection::connect(&env.app_url()).await.expect("connect");
    sqlx::query("select outbox.publish('t', 'k', 'v')")
        .execute(&mut app)
        .await
        .expect("a producer publishes");
    assert!(
        holds(
            env.admin(),
            "select bool_and(tableowner = 'outbox_owner') from pg_tables where schemaname = 'outbox'"
        )
        .await
    );
    // As a member of the owner it may go on migrating.
    migrate::migrate(&mut connect(&deployer).await).await.expect("migrate");
}

#[tokio::test]
async fn a_login_that_may_make_roles_needs_no_administrator() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let database = env.database();
    env.execute("create role maker login createrole").await;
    env.execute(&format!("grant create on database \"{database}\" to maker")).await;

    for _ in 0..2 {
        let output = outbox_relay(&env.url_as("maker"), &["migrate"]).await;
        assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
        let sql =
            "select pg_get_userbyid(nspowner) = 'outbox_owner' from pg_namespace where nspname = 'outbox'";
        assert!(holds(env.admin(), sql).await, "{}", said(&output));
    }
}

#[tokio::test]
async fn down_says_what_is_lost_and_asks() {
    let env = Env::new().await;
    env.execute("insert into outbox.message (topic) values ('a'), ('b')").await;
    let mut admin = connect(&env.admin_url()).await;
    let lost = Losses { unread: 2, deferred: 0, dead_letters: 0 };
    assert_eq!(losses(&mut admin).await.expect("losses"), lost);

    for arguments in [&["migrate", "--down"][..], &["migrate", "--down", "--dry-run"]] {
        let output = outbox_relay(&env.admin_url(), arguments).await;
        assert!(said(&output).contains("2 unread"), "{}", said(&output));
        assert_eq!(output.status.success(), arguments.len() == 3);
        assert!(holds(env.admin(), "select to_regclass('outbox.message') is not null").await);
    }
    let output = outbox_relay(&env.admin_url(), &["migrate", "--down", "--yes"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(holds(env.admin(), "select to_regnamespace('outbox') is null").await);
    assert!(matches!(losses(&mut admin).await, Err(MigrateError::Missing)));
    migrate::migrate(&mut admin).await.expect("and up again");
}

#[tokio::test]
async fn down_counts_what_waits_in_lanes_and_what_was_late() {
    let env = copied_outbox(0).await;
    // Read up to 6 but for 3, which was late, and 6, which waits in a lane that stands at 4; the lane of `b` is closed.
    env.execute(
        "update outbox.message set topic = 'a' where id in (2, 6, 8);
         insert into outbox.ledger (epoch, seq, lane, cause, snapshot, high, as_of, waiting, closed)
         select 4, own.seq, own.lane, 'missing', main.snapshot, 4, main.as_of, 1, own.closed
         from outbox.ledger as main, (values (2, 'a', false), (3, 'b', true)) as own (seq, lane, closed)
         where main.epoch = 4 and main.seq = 1;
         select setval('outbox.message_id_seq', 10)",
    )
    .await;
    let lost = losses(&mut connect(&env.admin_url()).await).await.expect("losses");
    assert_eq!(lost, Losses { unread: 6, deferred: 1, dead_letters: 0 });
    let backlog = "select string_agg(concat_ws(' ', coalesce(topic, '-'), waiting, retrying), ', ' order by topic nulls first) \
        from outbox.backlog";
    let found: String = sqlx::query_scalar(backlog).fetch_one(env.admin()).await.expect("backlog");
    assert_eq!(found, "- 4 0, a 1 0, orders 0 1");
}

#[tokio::test]
async fn down_counts_in_a_schema_from_before_the_lanes() {
    for versions in [3, 4] {
        let env = Env::builder().unmigrated().start().await;
        env.execute(include_str!("../../src/store/sql/migration_table.sql")).await;
        for Migration { version, sql, .. } in &MIGRATIONS[..versions] {
            env.execute(sql).await;
            env.execute(&format!("insert into outbox.migration values ({version}, 'x', 'x', '0.1.0')")).await;
        }
        env.execute("insert into outbox.message (topic) values ('a'), ('b'), ('c')").await;
        let lost = losses(&mut connect(&env.admin_url()).await).await.expect("losses");
        assert_eq!(lost, Losses { unread: 3, deferred: 0, dead_letters: 0 });
    }
}

#[tokio::test]
async fn requests_that_were_open_before_their_rules_changed_are_ended_and_say_why() {
    let env = Env::builder().unmigrated().start().await;
    env.execute(include_str!("../../src/store/sql/migration_table.sql")).await;
    for Migration { version, name, sql } in &MIGRATIONS[..7] {
        env.execute(sql).await;
        sqlx::query("insert into outbox.migration values ($1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'), '0.1.0')")
            .bind(version)
            .bind(name)
            .bind(sql)
            .execute(env.admin())
            .await
            .expect("insert");
    }
    env.execute(
        r#"select outbox.requeue('{"topic": null}'), outbox.pause('t'), outbox.pause('t.*'), outbox.set_policy('t.*', '{}'),
                  outbox.set_rate(null, null);
           insert into outbox.request (kind, value) values ('rate', '{"rate": 1.5}'), ('rate', '{"rate": 5}')"#,
    )
    .await;
    env.migrate().await;
    let states: Vec<String> =
        sqlx::query_scalar("select concat_ws(' ', kind, state, error) from outbox.request order by id")
            .fetch_all(env.admin())
            .await
            .expect("requests");
    let refused =
        |kind| format!("{kind} refused asked of an older release, which read it in another way; ask again");
    let asked = |kind| format!("{kind} asked");
    assert_eq!(
        states,
        [
            refused("requeue"),
            asked("pause"),
            refused("pause"),
            asked("policy"),
            asked("rate"),
            refused("rate"),
            asked("rate")
        ]
    );
    // Whoever is still asked can be reported on.
    env.execute("update outbox.request set state = 'running' where state = 'asked'").await;
}

/// Ten rows of an outbox that was read up to 6, all but row 3, whose transaction was open. Row 5 is deferred. The numbering is
/// then moved into the future by `ahead`, as a dump from an older cluster would have it, and the sequence forgotten.
async fn copied_outbox(ahead: i64) -> Env {
    let env = Env::new().await;
    env.execute("insert into outbox.message (topic, key, payload) select 'orders', 'k', 'x' from generate_series(1, 10)").await;
    env.execute(&format!(
        "update outbox.message set txid = pg_current_xact_id() where id = 3;
         insert into outbox.ledger (epoch, seq, txid, snapshot, high, as_of, published)
         select 4, 1, open.txid, format('%1$s:%2$s:%1$s', open.n + {ahead}, open.n + {ahead} + 1)::pg_snapshot, 6,
             (open.n + {ahead} + 1)::text::xid8, '{{[1,3),[4,5),[6,7)}}'
         from (select txid, txid::text::bigint as n from outbox.message where id = 3) as open;
         insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at)
         select id, event_id, topic, key, created_at, 'retry', now() from outbox.message where id = 5;
         update outbox.message set txid = (txid::text::bigint + {ahead})::text::xid8;
         update outbox.ledger set txid = (txid::text::bigint + {ahead})::text::xid8;
         update outbox.lease set epoch = 4, holder = gen_random_uuid(), holder_name = 'a', system_identifier = 1,
             database_oid = 1, timeline = 1, kafka_cluster_id = 'k';
         insert into outbox.incarnation (token) values (gen_random_uuid());
         select setval('outbox.message_id_seq', 2)"
    ))
    .await;
    env
}

/// What a relay that takes over now would read: late rows as its poll finds them, then fresh ones.
const READ: &str = "
    with position as (
        select snapshot, high, as_of from outbox.ledger where lane is null order by epoch desc, seq desc limit 1
    )
    select id from outbox.message, position
    where id > high
        or id <= high and txid < as_of
            and (txid >= pg_snapshot_xmax(snapshot) or txid in (select pg_snapshot_xip(snapshot)))
    order by id";

#[tokio::test]
async fn a_restored_dump_publishes_what_was_not_published_and_nothing_twice() {
    for ahead in [0, 1_000_000_000] {
        let env = copied_outbox(ahead).await;
        let mut admin = connect(&env.admin_url()).await;
        let undecided = rebase(&mut admin, None, false).await;
        assert!(matches!(undecided, Err(RebaseError::Undecided { unread: 5, deferred: 1 })), "{undecided:?}");

        let would = rebase(&mut admin, Some(Pending::Publish), true).await.expect("dry run");
        assert!(
            holds(env.admin(), "select epoch = 4 and kafka_cluster_id = 'k' from outbox.lease").await,
            "a dry run"
        );
        let report = rebase(&mut admin, Some(Pending::Publish), false).await.expect("rebase");
        assert_eq!((report.epoch, report.high, report.unread, report.deferred), (5, 10, 5, 1));
        assert_eq!(would.renumbered, report.renumbered);

        assert_eq!(ids(env.admin(), READ).await, [3, 7, 8, 9, 10], "ahead {ahead}");
        let future =
            "select count(*) = 0 from outbox.message where txid >= pg_snapshot_xmax(pg_current_snapshot())";
        assert!(holds(env.admin(), future).await, "no row is of the future");
        let forgotten = "select num_nulls(holder, holder_name, system_identifier, database_oid, timeline, kafka_cluster_id) = 6 \
            and epoch = 5 and not exists (select from outbox.incarnation) from outbox.lease";
        assert!(holds(env.admin(), forgotten).await);
        assert_eq!(ids(env.admin(), "select id from outbox.deferred").await, [5]);
        let next =
            ids(env.admin(), "insert into outbox.message (topic) values ('orders') returning id").await;
        assert_eq!(next, [11], "ids go on above all that were used");
        assert_eq!(ids(env.admin(), READ).await, [3, 7, 8, 9, 10, 11]);
        // A second rebase finds the same rows pending, in the new numbering.
        let again = rebase(&mut admin, Some(Pending::Publish), false).await.expect("rebase");
        assert_eq!((again.epoch, again.unread), (6, 6));
        assert_eq!(ids(env.admin(), READ).await, [3, 7, 8, 9, 10, 11]);
    }
}

/// What a lane of `topic` would read: all that is late or fresh for it, as far as main has come.
const READ_LANE: &str = "
    with main as (
        select snapshot, high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1
    )
    select message.id from outbox.open_lane as lane join outbox.message using (topic), main
    where message.id <= main.high
        and (message.id > lane.high
            or message.txid < lane.as_of
                and (message.txid >= pg_snapshot_xmax(lane.snapshot)
                    or message.txid in (select pg_snapshot_xip(lane.snapshot))))
    order by message.id";

#[tokio::test]
async fn rows_that_wait_in_a_lane_survive_a_rebase_and_are_dropped_only_by_name() {
    for ahead in [0, 1_000_000_000] {
        let env = copied_outbox(ahead).await;
        // Row 6 is the lane's: main has skipped it at 6, the lane stands at 4. Row 8 nobody has read. The lane of `b` is closed.
        env.execute(
            "update outbox.message set topic = 'a' where id in (2, 6, 8);
             update outbox.ledger set published = '{[1,3),[4,5)}' where epoch = 4;
             insert into outbox.ledger (epoch, seq, lane, cause, snapshot, high, as_of, waiting, closed)
             select 4, own.seq, own.lane, 'missing', main.snapshot, 4, main.as_of, 1, own.closed
             from outbox.ledger as main, (values (2, 'a', false), (3, 'b', true)) as own (seq, lane, closed)
             where main.epoch = 4 and main.seq = 1",
        )
        .await;
        let mut admin = connect(&env.admin_url()).await;
        let undecided = rebase(&mut admin, None, false).await;
        assert!(matches!(undecided, Err(RebaseError::Undecided { unread: 6, deferred: 1 })), "{undecided:?}");

        // Again in the new numbering, with the lane where main is.
        for epoch in [5, 6] {
            let report = rebase(&mut admin, Some(Pending::Publish), false).await.expect("rebase");
            assert_eq!((report.epoch, report.unread), (epoch, 6), "ahead {ahead}");
            assert_eq!(ids(env.admin(), READ).await, [3, 6, 7, 8, 9, 10], "main skips what its lanes read");
            assert_eq!(ids(env.admin(), READ_LANE).await, [6, 8], "ahead {ahead}");
            let lanes = "select array_agg(topic) = '{a}' and min(cause) = 'missing' from outbox.open_lane";
            assert!(holds(env.admin(), lanes).await);
        }
        rebase(&mut admin, Some(Pending::Skip), false).await.expect("rebase");
        assert!(ids(env.admin(), READ).await.is_empty() && ids(env.admin(), READ_LANE).await.is_empty());
        let dropped = "select id from outbox.status where state = 'dropped' order by id";
        assert_eq!(ids(env.admin(), dropped).await, [3, 5, 6, 7, 8, 9, 10]);
        rebase(&mut admin, None, false).await.expect("nothing is pending");
    }
}

#[tokio::test]
async fn an_older_schema_is_migrated_before_it_is_rebased() {
    let env = Env::new().await;
    env.execute("delete from outbox.migration where version > 4").await;
    let output = outbox_relay(&env.admin_url(), &["migrate", "--rebase", "--yes"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("is at migration 4 and this binary needs"), "{}", said(&output));
    assert!(said(&output).contains("run outbox-relay migrate, then rebase"), "{}", said(&output));
}

#[tokio::test]
async fn a_copy_of_production_can_skip_the_backlog_of_production() {
    let env = copied_outbox(1_000_000_000).await;
    let output = outbox_relay(&env.admin_url(), &["migrate", "--rebase"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("6 rows were not published (5 unread, 1 deferred)"), "{}", said(&output));

    let output = outbox_relay(&env.admin_url(), &["migrate", "--rebase", "--pending", "skip", "--yes"]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert!(ids(env.admin(), READ).await.is_empty());
    let dropped = "select id from outbox.status where state = 'dropped' order by id";
    assert_eq!(ids(env.admin(), dropped).await, [3, 5, 7, 8, 9, 10]);
    assert!(ids(env.admin(), "select id from outbox.deferred").await.is_empty());
    // Nothing is pending now, so nothing has to be decided.
    rebase(&mut connect(&env.admin_url()).await, None, false).await.expect("rebase");
}

#[tokio::test]
async fn a_rebase_waits_for_open_writers_and_keeps_their_rows() {
    let env = Env::new().await;
    let mut writer = env.app().begin().await.expect("begin");
    sqlx::query("select outbox.publish('t', 'k', 'v')").execute(&mut *writer).await.expect("publish");
    let url = env.admin_url();
    let rebasing =
        tokio::spawn(async move { rebase(&mut connect(&url).await, Some(Pending::Publish), false).await });
    env.eventually_true(
        "select exists (select from pg_locks where not granted and mode = 'ShareRowExclusiveLock' \
         and relation = 'outbox.message'::regclass)",
    )
    .await;
    writer.commit().await.expect("commit");
    let report = rebasing.await.expect("no panic").expect("rebase");
    assert_eq!((report.unread, report.high), (1, 1));
    assert_eq!(ids(env.admin(), READ).await, [1]);
}

#[tokio::test]
async fn a_relay_takes_over_after_a_rebase_at_the_next_epoch() {
    let env = copied_outbox(1_000_000_000).await;
    rebase(&mut connect(&env.admin_url()).await, Some(Pending::Publish), false).await.expect("rebase");
    let mut relay = PgConnection::connect(&env.relay_url()).await.expect("connect");
    let epoch: Option<i64> = sqlx::query_scalar(
        "select outbox.take_over(gen_random_uuid(), 'b', 5, (select n from outbox.beat), gen_random_uuid(), 2, 3, 1, 'l')",
    )
    .fetch_one(&mut relay)
    .await
    .expect("take over");
    assert_eq!(epoch, Some(6));
    assert_eq!(ids(env.admin(), READ).await, [3, 7, 8, 9, 10], "the position goes with the lease");
}
