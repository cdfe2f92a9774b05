//! Sabotaged databases: servers that are away, silent or another kind, logins without rights, schemas of other versions.

use std::net::TcpListener;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::{CheckRun, Ground};
use crate::support::Env;

/// Everything that needs Postgres is passed over, everything else is looked at.
#[track_caller]
fn the_rest_is_passed_over(found: &super::Found) {
    for group in ["lease", "work", "topics"] {
        assert!(found.states(group).iter().all(|state| state == "not_checked"), "{group}: {}", found.report);
    }
    assert!(found.states("kafka").iter().all(|state| state == "pass"), "{}", found.report);
}

/// A port where nobody listens.
fn closed_port() -> u16 {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    held.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_be_reached_are_told_apart() {
    let ground = Ground::new().await;
    let url = |host: &str| format!("postgres://relay_login@{host}/{}", ground.env.database());
    let at = async |host: &str| ground.check().await.env("DATABASE_URL", url(host));
    let closed = format!("127.0.0.1:{}", closed_port());

    let words = ["nobody listens at", "start Postgres there, or correct host and port in postgres.url"];
    the_rest_is_passed_over(&at(&closed).await.fails("postgres reachable", &words).await);

    let words = ["is not known", "correct the host in postgres.url"];
    at("no..such..host").await.fails("postgres reachable", &words).await;

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_at = silent.local_addr().expect("an address").to_string();
    let words = ["does not answer within 1s 500ms", "firewall or a route that swallows packets"];
    let slow = at(&silent_at).await.argument(&["--timeout", "1500ms"]);
    let found = slow.fails("postgres reachable", &words).await;
    assert!(found.took < Duration::from_secs(5), "{:?}", found.took);

    // Of several hosts the one that works wins.
    let right = ground.env.relay_url();
    let right = right.split(['@', '/']).nth(3).expect("a host");
    let found = at(&format!("{closed},{right}")).await.found().await;
    assert_eq!(found.line("postgres reachable").state, "pass", "{}", found.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_logins_are_told_apart() {
    let ground = Ground::new().await;
    let right = ground.env.relay_url();
    let at = async |url: String| ground.check().await.env("DATABASE_URL", url);

    let words = ["no TLS connection to", "make sslmode and sslrootcert in postgres.url"];
    at(format!("{right}?sslmode=require")).await.fails("postgres tls", &words).await;
    let words = ["refuses nobody_of_that_name", "in role outbox_relay"];
    at(ground.env.url_as("nobody_of_that_name")).await.fails("postgres login", &words).await;
    let words = ["correct the database in postgres.url"];
    at(format!("{right}_not")).await.fails("postgres login", &words).await;

    // One login for which the server wants a password.
    let hba = ground.env.postgres.server.data_directory().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).expect("pg_hba.conf");
    std::fs::write(&hba, format!("host all check_locked 127.0.0.1/32 scram-sha-256\n{rules}"))
        .expect("write it");
    let login =
        "create role check_locked login password 'right' in role outbox_relay; select pg_reload_conf()";
    ground.env.execute(login).await;
    let url = |password: &str| {
        ground.env.url_as("check_locked").replace("check_locked@", &format!("check_locked:{password}@"))
    };
    let wanted = async || PgConnection::connect(&url("wrong")).await.is_err();
    crate::support::eventually(crate::support::DEADLINE, "the server wants a password", wanted).await;
    let words = ["password authentication failed", "check user and password in postgres.url"];
    let found = at(url("wrong")).await.fails("postgres login", &words).await;
    assert!(!found.report.to_string().contains("wrong@"), "{}", found.report);
    assert_eq!(at(url("right")).await.found().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_not_configured_is_named() {
    let env = Env::builder().pooler().start().await;
    let ground = Ground::on(env).await;
    let check = ground.check().await;
    let words = ["there is a pooler in between", "set postgres.pooler = true"];
    check.fails("postgres pooler", &words).await;
    assert_eq!(check.set("postgres.pooler", true).found().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_written_to_is_refused() {
    let ground = Ground::new().await;
    let database = ground.env.database();
    let of_login = format!("alter role relay_login in database \"{database}\"");
    ground.env.execute(&format!("{of_login} set default_transaction_read_only = on")).await;
    let words = ["is read-only", "reset default_transaction_read_only"];
    the_rest_is_passed_over(&ground.check().await.fails("postgres primary", &words).await);

    let replica = Env::builder().own_postgres().unmigrated().start().await;
    replica.stop_postgres_fast().await;
    let signal = replica.postgres.server.data_directory().join("standby.signal");
    std::fs::write(signal, "").expect("write a file");
    replica.start_postgres_again().await;
    let words = ["is a replica", "name the primary in postgres.url"];
    let check = ground.check().await.env("DATABASE_URL", replica.admin_url());
    the_rest_is_passed_over(&check.fails("postgres primary", &words).await);
    // It is passed over where another host is the primary.
    let host = |url: &str| url.split(['@', '/']).nth(3).expect("a host").to_owned();
    let both = format!("{},{}", host(&replica.admin_url()), host(&ground.env.admin_url()));
    ground.env.execute(&format!("{of_login} reset default_transaction_read_only")).await;
    let check = check.env("DATABASE_URL", format!("postgres://relay_login@{both}/{database}"));
    assert_eq!(check.found().await.line("postgres primary").state, "pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_do_not_fit_are_told_apart() {
    let ground = Ground::new().await;
    let env = &ground.env;
    let empty = Env::builder().unmigrated().start().await;
    let at_empty = ground.check().await.env("DATABASE_URL", empty.url_as("relay_login"));
    the_rest_is_passed_over(
        &at_empty.fails("postgres schema", &["has no schema outbox", "outbox-relay migrate"]).await,
    );
    empty.execute("create schema outbox; create table outbox.theirs ()").await;
    at_empty.fails("postgres schema", &["was not made by outbox-relay", "rename it"]).await;

    let newest = "select max(version) from outbox.migration";
    let newest = env.one::<i32>(newest).await;
    env.execute(
        "insert into outbox.migration (version, name, checksum, oldest_binary) values (9999, 'future', 'x', '99.0.0')",
    )
    .await;
    let words = ["needs outbox-relay 99.0.0 or newer", "install outbox-relay 99.0.0"];
    ground.check().await.fails("postgres schema version", &words).await;
    env.execute(&format!("delete from outbox.migration where version >= {newest}")).await;
    let has = format!("is at migration {}, this binary needs {newest}", newest - 1);
    let words = [has.as_str(), "outbox-relay migrate, with the login that owns the schema"];
    the_rest_is_passed_over(&ground.check().await.fails("postgres schema version", &words).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_is_named_with_its_grant() {
    let ground = Ground::new().await;
    let env = &ground.env;
    env.execute("create role check_stranger login").await;
    let stranger = ground.check().await.env("DATABASE_URL", env.url_as("check_stranger"));
    let words = ["check_stranger is no member of outbox_relay", "grant outbox_relay to \"check_stranger\";"];
    the_rest_is_passed_over(&stranger.fails("postgres rights", &words).await);
    env.execute("grant outbox_relay to check_stranger").await;
    assert_eq!(stranger.found().await.code, Some(0));

    env.execute(
        "revoke insert on outbox.ledger from outbox_relay; revoke update (state, error) on outbox.request from outbox_relay",
    )
    .await;
    let words = [
        "outbox_relay lacks insert on outbox.ledger, ",
        "update (state) on outbox.request",
        "grant insert on outbox.ledger to outbox_relay;",
        "grant update (state, error) on outbox.request to outbox_relay;",
    ];
    let found = ground.check().await.fails("postgres rights", &words).await;
    // What it says is what helps.
    env.execute(&found.line("postgres rights").remedy).await;
    assert_eq!(ground.check().await.found().await.code, Some(0));

    env.execute("revoke execute on function outbox.settle from outbox_relay; revoke usage on schema outbox from outbox_relay").await;
    let words =
        ["usage on outbox", "execute on outbox.settle(", "grant usage on schema outbox to outbox_relay;"];
    let found = ground.check().await.fails("postgres rights", &words).await;
    env.execute(&found.line("postgres rights").remedy).await;
    assert_eq!(ground.check().await.found().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_tables_from_being_cleaned_is_a_warning() {
    let ground = Ground::new().await;
    let env = &ground.env;
    env.execute("alter table outbox.deferred set (autovacuum_enabled = off)").await;
    let words = ["off for outbox.deferred", "alter table outbox.deferred reset (autovacuum_enabled);"];
    let found = ground.check().await.warns("postgres autovacuum", &words).await;
    env.execute(&found.line("postgres autovacuum").remedy).await;

    env.execute("create role check_seer login in role outbox_relay, pg_read_all_stats").await;
    let seer = ground.check().await.env("DATABASE_URL", env.url_as("check_seer"));
    // Whose slots are so small holds them with little.
    let seer = seer.set("retention.published", "1s");
    let mut idle = PgConnection::connect(&env.admin_url()).await.expect("connect");
    sqlx::raw_sql("begin; select pg_current_xact_id()").execute(&mut idle).await.expect("begin");
    env.eventually_true(
        "select count(*) > 0 from pg_stat_activity
          where datname = current_database() and state = 'idle in transaction' and xact_start < clock_timestamp() - interval '1.5 s'",
    )
    .await;
    let words = ["has had one open for", "pg_terminate_backend("];
    seer.warns("postgres old transactions", &words).await;
    idle.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_promised_about_what_was_not_looked_at() {
    // Both are away: two causes, two lines, and no third.
    let closed = closed_port();
    let check = CheckRun::new()
        .env("DATABASE_URL", format!("postgres://relay@127.0.0.1:{closed}/shop"))
        .env("KAFKA_BROKERS", format!("127.0.0.1:{closed}"));
    let found = check.found().await;
    let failed: Vec<String> =
        found.lines().into_iter().filter(|line| line.state == "fail").map(|line| line.name).collect();
    assert_eq!(failed, ["postgres reachable", "kafka reachable"]);
    let others = found.lines().into_iter().filter(|line| line.state == "not_checked");
    assert!(others.into_iter().all(|line| line.found.starts_with("needs ")), "{}", found.report);
}
