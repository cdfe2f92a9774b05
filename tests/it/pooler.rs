//! Through PgBouncer in transaction mode nothing is different for those who write and read: order, takeovers, crashes.
//!
//! Three server connections for all relays of a test together, each of which has seven: they have to share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use outbox_relay::position::Position;
use outbox_relay::servers::{PoolerOptions, PrivatePooler};
use outbox_relay::store::poll::{From, PageLimits, Reader};
use outbox_relay::store::{Server, Session, StoreError, lease};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row, raw_sql};
use uuid::Uuid;

use crate::support::history::{Load, RECOVERY, ROWS_PER_SECOND, expect_history, traced};
use crate::support::lines::{Line, assert_complete, versions, write, write_many};
use crate::support::{DEADLINE, Env, LogLine, Quiet, Relay, RelayBuilder, blocking, eventually, wait_for};

const WINDOW_ROWS: usize = 200;

async fn pooled() -> Env {
    Env::builder().pooler().start().await
}

async fn relay(env: &Env) -> RelayBuilder {
    let relay = traced(env.relay().await).set("lease.ttl", "1s");
    relay.set("relay.window_rows", WINDOW_ROWS).set("relay.page_rows", 50)
}

async fn leads(relay: &Relay, times: usize) -> i64 {
    eventually(RECOVERY, "the relay leads", async || relay.logged("leading") >= times).await;
    let log = relay.log();
    let line = log.iter().rfind(|line| line.message() == Some("leading")).expect("it was counted");
    line.field("epoch").and_then(Value::as_i64).expect("a leader names its epoch")
}

async fn is_ready(relay: &Relay) {
    eventually(RECOVERY, "the relay is ready", async || {
        relay.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
}

/// A client of the pooler as a relay is one: it names no parameter that PgBouncer refuses.
async fn client(pooler: &PrivatePooler, role: &str, database: &str) -> PgConnection {
    let options: PgConnectOptions = pooler.url_as(role, database).parse().expect("a URL");
    options.extra_float_digits(None).connect().await.expect("the pooler answers")
}

/// Another client with the relay's login, which therefore shares its server connections: it leaves settings behind that
/// would harm a relay that relied on its own, and looks after each whether a relay has left any.
struct Neighbour {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<usize>,
}

impl Neighbour {
    async fn start(env: &Env) -> Self {
        const LEAVES: &str = "set plan_cache_mode to force_custom_plan; set enable_seqscan to on; set jit to on; \
            set default_transaction_isolation to 'serializable'; set synchronous_commit to off; set lock_timeout to '1ms'; \
            set statement_timeout to '150ms'; set extra_float_digits to -10; set bytea_output to escape; \
            set search_path to ''; set standard_conforming_strings to off; set cursor_tuple_fraction to 0.0001";
        let mut client = client(env.pooler(), "relay_login", env.database()).await;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut looks = 0;
            while !asked.load(Ordering::Relaxed) {
                client.execute(raw_sql(LEAVES)).await.expect("anyone may set these");
                // Relays come in between.
                tokio::time::timeout(Duration::from_millis(2), std::future::pending::<()>()).await.ok();
                let row = client
                    .fetch_one(raw_sql(
                        "select current_setting('plan_cache_mode'), count(*), pg_backend_pid() from pg_prepared_statements",
                    ))
                    .await
                    .expect("a look");
                // Who came in between is another one like us at most, never a relay's setting or statement.
                let (mode, prepared): (String, i64) = (row.get(0), row.get(1));
                assert!(mode == "force_custom_plan" || mode == "auto", "a relay has left {mode}");
                assert_eq!(prepared, 0, "a relay has left a prepared statement");
                looks += 1;
            }
            looks
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.task.await.expect("no look found anything");
        assert!(looks > 20, "{looks} looks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_flow_in_order_beside_clients_that_leave_their_settings() {
    let env = pooled().await;
    let topic = env.create_topic("flow", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let relay = relay(&env).await.start().await;
    leads(&relay, 1).await;
    let neighbour = Neighbour::start(&env).await;
    load.more(200).await;
    neighbour.end().await;
    load.stop().await;
    expect_history(&env, &topic).await.assert_repeated_at_most(0);
    env.eventually_true("select bool_and(state = 'published') from outbox.status").await;
    let unusual: i64 = env.one("select count(distinct epoch) from outbox.ledger where epoch > 0").await;
    assert_eq!(unusual, 1, "nothing has ended the lease");
    assert!(relay.terminate().await.success());
    env.eventually_true("select holder is null from outbox.lease").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_within_ttl_and_a_second_and_a_frozen_leader_holds_nothing() {
    let env = pooled().await;
    let topic = env.create_topic("frozen", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    let (mut leader, mut standby) = (relay(&env).await.start().await, relay(&env).await.start().await);
    eventually(RECOVERY, "one leads", async || leader.logged("leading") + standby.logged("leading") > 0)
        .await;
    if standby.logged("leading") > 0 {
        std::mem::swap(&mut leader, &mut standby);
    }
    is_ready(&standby).await;
    let mut taken = Vec::new();
    for round in 0..6 {
        load.more(20).await;
        let frozen = round % 3 != 2;
        let times = standby.logged("leading") + 1;
        let stopped_at = SystemTime::now();
        if frozen {
            leader.stop()
        } else {
            leader.kill().await
        }
        // Whatever it was about: the server has no transaction that waits for it.
        let waits = "select count(*) from pg_stat_activity where state like 'idle in transaction%' and usename = 'relay_login' \
                      and datname = current_database()";
        eventually(RECOVERY, "the standby leads", async || {
            assert_eq!(env.one::<i64>(waits).await, 0, "a transaction is open and nobody works in it");
            standby.logged("leading") >= times
        })
        .await;
        taken.push(SystemTime::now().duration_since(stopped_at).unwrap_or_default());
        let next = if frozen {
            leader.cont();
            leader
        } else {
            relay(&env).await.start().await
        };
        leader = standby;
        standby = next;
        eventually(RECOVERY, "the other one follows", async || {
            standby.get("/metrics").await.is_some_and(|(_, text)| text.contains("\noutbox_leader 0"))
        })
        .await;
        is_ready(&standby).await;
    }
    eprintln!("takeovers took {taken:?}");
    // One that a busy machine has disturbed does not count; a relay that waits for a lock is always too late.
    let late = taken.iter().filter(|took| **took > Duration::from_secs(2)).count();
    assert!(late <= 2, "takeovers took {taken:?}");
    load.stop().await;
    expect_history(&env, &topic).await.assert_repeated_at_most(WINDOW_ROWS);
    let deposed = "select count(*) from outbox.ledger late join outbox.ledger takeover \
                   on takeover.seq = 0 and takeover.epoch > late.epoch and late.txid > takeover.txid";
    assert_eq!(env.one::<i64>(deposed).await, 0, "settlements of a deposed leader");
}

/// SIGKILL for the backend of a client that is no relay: the server ends all connections and recovers.
async fn crash_postgres(env: &Env) {
    let backend: i32 = env.one("select pg_backend_pid()").await;
    kill_process(Pid::from_raw(backend).expect("a process id"), Signal::KILL).expect("it is ours");
    // Connections that are still to be ended answer as before; what is unlogged is empty afterwards.
    let gone = "select not exists (select from outbox.incarnation)";
    let recovered =
        async || sqlx::query_scalar::<_, bool>(gone).fetch_one(env.admin()).await.unwrap_or(false);
    eventually(RECOVERY, "the server has recovered", recovered).await;
}

/// Waits until no client of the pooler holds one of its server connections, and none has something on its way there.
async fn until_nobody_is_served(env: &Env) {
    let mut console = client(env.pooler(), "postgres", "pgbouncer").await;
    let mut quiet = 0;
    eventually(DEADLINE, "no client is served", async || {
        let pools = console.fetch_all(raw_sql("show pools")).await.expect("the console answers");
        let mut ours = pools.iter().filter(|row| row.get::<&str, _>("database") == env.database());
        let idle =
            ours.all(|row| row.get::<i32, _>("sv_active") == 0 && row.get::<i32, _>("cl_waiting") == 0);
        quiet = if idle { quiet + 1 } else { 0 };
        quiet >= 10
    })
    .await;
}

/// Connections of relays that were ended by anybody but the relay, as the pooler tells of them.
fn clients_lost(env: &Env) -> Vec<String> {
    let log = std::fs::read_to_string(env.pooler().log()).expect("the pooler's log");
    let client = format!("{}/relay_login@", env.database());
    let ended =
        |line: &&str| line.contains(" C-") && line.contains(&client) && line.contains("closing because");
    // "unexpected eof" is a client that goes while it logs in.
    let by_client = ["closing because: client", "closing because: unexpected eof"];
    let by_others = |line: &&str| !by_client.iter().any(|why| line.contains(why));
    log.lines().filter(ended).filter(by_others).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgres_is_noticed_although_the_clients_connection_survives_it() {
    let env = Env::builder().own_postgres().pooler().start().await;
    let topic = env.create_topic("crash", 3, &[]).await;
    let load = Load::start(&env, &topic).await;
    // What ends the lease is not the clock.
    let relay = relay(&env).await.set("lease.ttl", "60s").start().await;
    let mut epoch = leads(&relay, 1).await;
    for crash in 1..=3 {
        load.more(30).await;
        // The relay is between two messages when it happens, and all is over before it looks again.
        relay.stop();
        until_nobody_is_served(&env).await;
        crash_postgres(&env).await;
        let lost = clients_lost(&env);
        relay.cont();
        let stepped_down = |line: &LogLine| {
            let error = line.field("error").and_then(Value::as_str).unwrap_or_default();
            line.message() == Some("stepped down, everything of this lease is forgotten")
                && error.contains("the server has been restarted by a crash or a failover")
        };
        eventually(RECOVERY, "the crash is noticed", async || {
            relay.log().iter().filter(|line| stepped_down(line)).count() == crash
        })
        .await;
        assert_eq!(clients_lost(&env), lost, "no connection of the relay has broken before");
        let next = leads(&relay, crash + 1).await;
        assert_eq!(next, epoch + 1);
        epoch = next;
    }
    load.more(30).await;
    load.stop().await;
    // Marks of the second before each crash may be lost with it.
    expect_history(&env, &topic).await.assert_repeated_at_most(WINDOW_ROWS + ROWS_PER_SECOND);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_outlives_the_server_connection_and_finds_the_token_gone() {
    let env = Env::builder().own_postgres().pooler().start().await;
    let mut session = env.store().connect("read").await.expect("connect");
    session.check_schema().await.expect("the schema fits");
    let resume = lease::read_position(&mut session).await.expect("a position");
    let seen = lease::read_lease(&mut session).await.expect("a lease");
    let identity = lease::read_identity(&mut session).await.expect("an identity");
    let (holder, token) = (Uuid::new_v4(), Uuid::new_v4());
    let name = "it's a host\\1";
    let epoch = lease::take_over(&mut session, &seen, holder, name, token, &identity, "cluster").await;
    assert_eq!(epoch.expect("it is taken"), Some(1));
    assert_eq!(env.one::<String>("select holder_name from outbox.lease").await, name);
    let limits = PageLimits { rows: 10, bytes: 1 << 20, max_row_bytes: 1 << 20 };
    let from =
        From { position: &resume.position, as_of: &resume.as_of, skip: &[], short: false, idle: false };
    let mut reader = Reader::default();
    reader.poll(&mut session, from, &limits, token).await.expect("the token is ours");
    crash_postgres(&env).await;
    let poll = reader.poll(&mut session, from, &limits, token).await;
    assert!(matches!(poll, Err(StoreError::Forgotten)), "{poll:?}");
    assert!(lease::resign(&mut session, holder, 1).await.expect("the lease is logged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_die_and_are_sent_again_in_order() {
    let env = pooled().await;
    let topic = env.create_topic("again", 1, &[("max.message.bytes", "2000")]).await;
    let build = async || {
        let relay = env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms");
        relay.set("retry.attempts", 2).set("lease.ttl", "1s").expect_errors()
    };
    let relay = build().await.start().await;
    // Keys with everything in them that a quoting function may stumble over.
    let keys = ["it's", "back\\slash", "$1", "--", "\"}"];
    let line = |key: &&str, version: i64, bytes: usize| Line::new(&topic, *key, version).of_bytes(bytes);
    let mut lines: Vec<Line> = keys.iter().map(|key| line(key, 0, 5000)).collect();
    lines.extend(keys.iter().map(|key| line(key, 1, 100)));
    write(&env, &lines).await;
    env.eventually_true("select count(*) = 5 from outbox.dead_letter where state = 'open'").await;
    env.expect_records(&topic, 5).await;
    assert!(relay.terminate().await.success());
    env.alter_topic(&topic, &[]).await;
    // The next one knows the new limit from the beginning.
    let relay = build().await.start().await;
    // By a key, by an id, and all others.
    for filter in [r#"{"key": "it''s"}"#, r#"{"ids": [2]}"#, r#"{"dead_until": "now"}"#] {
        let id: i64 = env.one(&format!("select outbox.requeue('{filter}', 'the limit was raised')")).await;
        env.eventually_true(&format!("select state = 'done' from outbox.request where id = {id}")).await;
    }
    let records = env.expect_records(&topic, 10).await;
    for (key, found) in versions(&records) {
        assert_eq!(found, [1, 0], "{key}");
    }
    env.eventually_true("select bool_and(state = 'published') from outbox.status").await;
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_opens_survives_a_takeover_and_closes() {
    let env = pooled().await;
    let (well, missing) = (env.create_topic("well", 1, &[]).await, env.topic("missing"));
    let build = async || env.relay().await.set("retry.base", "50ms").set("lease.ttl", "1s").expect_errors();
    let first = build().await.start().await;
    write_many(&env, &missing, 10, 0, 100).await;
    env.expect_lane(&missing, "missing").await;
    write_many(&env, &missing, 10, 10, 900).await;
    write_many(&env, &well, 10, 0, 500).await;
    assert_complete(&env.expect_records(&well, 500).await, 10, 50);
    first.kill().await;
    let _second = build().await.start().await;
    env.create_topic("missing", 1, &[]).await;
    let records = env.expect_records(&missing, 1000).await;
    assert_complete(&records, 10, 100);
    env.eventually_true("select not exists (select from outbox.open_lane)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_swept_and_their_slots_emptied() {
    let env = pooled().await;
    let topic = env.create_topic("old", 1, &[]).await;
    let relay = env.relay().await.set("retention.published", "1s").set("retention.every", "100ms");
    let relay = relay.start().await;
    env.eventually_true("select bool_and(width = 1) from outbox.ring").await;
    for round in 0..4 {
        write_many(&env, &topic, 10, round * 100, 1000).await;
        env.expect_records(&topic, (round as usize + 1) * 1000).await;
    }
    eventually(Duration::from_secs(60), "no message is left", async || {
        env.one::<i64>("select count(*) from outbox.message").await == 0
    })
    .await;
    assert_complete(&env.read_topic(&topic).await, 10, 400);
    let metrics = relay.metrics().await;
    assert!(metrics.value("outbox_table_bytes", &[("table", "ledger")]) > 0.0);
    assert_eq!(metrics.value("outbox_loss_incidents_total", &[]), 0.0);
}

/// What a relay says that cannot lead.
async fn complaint(relay: &Relay) -> String {
    let line = relay.wait_for_log("cannot lead yet, trying again").await;
    line.field("error").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_does_not_know_of_the_pooler_says_which_setting_is_missing() {
    let env = pooled().await;
    let relay = env.relay().await.set("postgres.pooler", false).expect_errors().start().await;
    let said = complaint(&relay).await;
    assert!(said.contains("set postgres.pooler = true"), "{said}");

    // One that swallows the parameters instead of refusing them.
    let mut options = PoolerOptions::new(env.postgres.server.port(), &["relay_login"]);
    options.settings.push(("ignore_startup_parameters".into(), "options,extra_float_digits".into()));
    let lenient = blocking(|| PrivatePooler::start(options)).await;
    let server = Server::new([lenient.url_as("relay_login", env.database()).as_str()]).expect("a URL");
    let refused = server.connect("read").await.expect_err("the settings were swallowed").to_string();
    assert!(refused.contains("set postgres.pooler = true"), "{refused}");
    // With the setting, the lenient one and a straight connection work as well.
    server.behind_pooler(true).connect("read").await.expect("it works");
    let straight = Server::new([env.url_as("relay_login").as_str()]).expect("a URL").behind_pooler(true);
    straight.connect("read").await.expect("it works").check_schema().await.expect("the schema fits");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_asks_for_a_direct_connection() {
    let env = pooled().await;
    let migrate = async |pooler: &str, url: String| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command.args(["migrate", "--status"]).current_dir(std::env::temp_dir());
        command.env("DATABASE_URL", url).env("OUTBOX_RELAY__POSTGRES__POOLER", pooler);
        let output = blocking(move || command.output()).await;
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let through = env.pooler().url_as("postgres", env.database());
    for (pooler, url) in [("true", env.admin_url()), ("false", through)] {
        let (succeeded, said) = migrate(pooler, url).await;
        assert!(!succeeded && said.contains("needs a direct connection"), "{said}");
    }
    assert!(migrate("false", env.admin_url()).await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_ask_and_look_through_it() {
    let env = pooled().await;
    let url = env.pooler().url_as("admin_login", env.database());
    for (arguments, code, word) in [
        ("topics pause orders --yes --no-wait --why it's", 3, "asked as request 1"),
        ("requests list -o json", 0, "\"why\": \"it's\""),
        ("dlq list --id 1 --id 2 --key k --from 1h", 0, "no dead letters"),
        ("lease show", 0, "nobody"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command.args(arguments.split(' ')).current_dir(std::env::temp_dir());
        command.env("DATABASE_URL", &url).env("OUTBOX_RELAY__POSTGRES__POOLER", "true");
        let output = blocking(move || command.output()).await;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(word), "{arguments}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_away_for_a_while_is_sat_out() {
    let env = pooled_alone().await;
    let topic = env.create_topic("away", 1, &[]).await;
    let relay = relay(&env).await.set("lease.ttl", "60s").start().await;
    leads(&relay, 1).await;
    write_many(&env, &topic, 10, 0, 100).await;
    env.expect_records(&topic, 100).await;
    env.pooler().kill();
    write_many(&env, &topic, 10, 10, 100).await;
    wait_for(DEADLINE, "the relay has noticed", async || {
        let metrics = relay.metrics().await;
        (metrics.get("outbox_database_errors_total", &[]).unwrap_or(0.0) > 0.0).then_some(())
    })
    .await;
    let pooler = Arc::clone(env.pooler());
    blocking(move || pooler.start_again()).await;
    assert_complete(&env.expect_records(&topic, 200).await, 10, 20);
    assert_eq!(relay.logged("leading"), 1, "the lease was kept");
}

/// With a Postgres, and therefore a pooler, that no other test uses.
async fn pooled_alone() -> Env {
    Env::builder().own_postgres().pooler().start().await
}

/// Buffers of the whole database for so many polls, each after a transaction of one row, with the transactions and what it
/// takes to connect.
async fn buffers(quiet: &Quiet, pooler: bool, polls: u32) -> u64 {
    let (mut admin, token) = (quiet.connect("postgres").await, Uuid::new_v4());
    quiet.execute("delete from outbox.incarnation").await;
    quiet.execute(&format!("insert into outbox.incarnation (token) values ('{token}')")).await;
    let mut session = quiet.store().behind_pooler(pooler).connect("read").await.expect("connect");
    let here = "select pg_current_snapshot()::text, max(id), pg_current_xact_id()::text from outbox.message";
    let (snapshot, high, mut as_of): (String, i64, String) =
        sqlx::query_as(here).fetch_one(&mut admin).await.expect("the slots are full");
    let mut position = Position { snapshot, high, late: None };
    let limits = PageLimits { rows: 5_000, bytes: 8 << 20, max_row_bytes: 1 << 20 };
    let (mut reader, mut found) = (Reader::default(), 0);
    let mut poll = async |session: &mut Session| {
        let from = From { position: &position, as_of: &as_of, skip: &[], short: true, idle: false };
        let page = reader.poll(session, from, &limits, token).await.expect("the token is ours");
        (position, as_of) = (page.next, page.as_of);
        page.rows.len() as u32
    };
    // The first ones plan, read the catalog and tidy indexes up.
    for _ in 0..20 {
        poll(&mut session).await;
    }
    let used = async |admin: &mut PgConnection| -> i64 {
        // A backend tells of what it has done when it ends, at the latest.
        raw_sql("select pg_stat_force_next_flush()").execute(&mut *admin).await.ok();
        let blocks = "select blks_hit + blks_read from pg_stat_database where datname = current_database()";
        sqlx::query_scalar(blocks).fetch_one(admin).await.expect("a number")
    };
    session.close().await;
    let mut session = quiet.store().behind_pooler(pooler).connect("read").await.expect("connect");
    let mut writer = quiet.connect("app_login").await;
    let before = used(&mut admin).await;
    for _ in 0..polls {
        raw_sql("insert into outbox.message (topic) values ('t')")
            .execute(&mut writer)
            .await
            .expect("insert");
        found += poll(&mut session).await;
    }
    session.close().await;
    writer.close().await.expect("a connection that worked");
    assert_eq!(found, polls);
    let alone = "select count(*) = 1 from pg_stat_activity where backend_type = 'client backend'";
    eventually(DEADLINE, "all have told", async || {
        sqlx::query_scalar(alone).fetch_one(&mut admin).await.expect("a look")
    })
    .await;
    (used(&mut admin).await - before) as u64
}

#[tokio::test]
async fn a_poll_that_is_written_out_reads_no_more_than_one_that_is_prepared() {
    let quiet = Quiet::with_full_slots().await;
    let (prepared, written) = (buffers(&quiet, false, 400).await, buffers(&quiet, true, 400).await);
    eprintln!("{prepared} buffers prepared, {written} written out");
    assert!(written < prepared + prepared / 2, "{prepared} buffers prepared, {written} written out");
}
