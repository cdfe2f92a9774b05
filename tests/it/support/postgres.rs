//! A private Postgres, its login roles and a migrated database to copy; shared by all tests or one test's own.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use outbox_relay::servers::{PoolerOptions, PostgresOptions, PrivatePooler, PrivatePostgres};
use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use super::blocking;

/// The migrated database that a test's database is a copy of: a copy takes a tenth of a migration.
const TEMPLATE: &str = "migrated";

/// A server and what the tests need to know about it.
#[derive(Debug)]
pub struct Postgres {
    pub server: Arc<PrivatePostgres>,
    template: OnceCell<()>,
    databases: AtomicU32,
    pooler: OnceCell<Arc<PrivatePooler>>,
}

impl Postgres {
    /// The server that all tests of this process share. It ends with the process.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Postgres>> = OnceCell::const_new();
        Arc::clone(SHARED.get_or_init(|| Self::start(PostgresOptions::default())).await)
    }

    /// A server for one test, to be stopped and killed as it likes.
    pub async fn start(options: PostgresOptions) -> Arc<Self> {
        let server = Arc::new(blocking(|| PrivatePostgres::start(options)).await);
        Arc::new(Self {
            server,
            template: OnceCell::new(),
            databases: AtomicU32::new(0),
            pooler: OnceCell::new(),
        })
    }

    /// The PgBouncer before this server, started by now: in transaction mode, three connections for a login and database.
    pub async fn pooler(&self) -> Arc<PrivatePooler> {
        let options =
            PoolerOptions::new(self.server.port(), &["postgres", "relay_login", "app_login", "admin_login"]);
        let start = async || Arc::new(blocking(|| PrivatePooler::start(options)).await);
        Arc::clone(self.pooler.get_or_init(start).await)
    }

    /// Creates a database with the relay's schema in it, and returns its name.
    pub async fn migrated_database(&self, test: &str) -> String {
        self.template.get_or_init(|| self.make_template()).await;
        self.create(test, &format!("template {TEMPLATE}")).await
    }

    /// Creates a database without anything in it, and returns its name.
    pub async fn empty_database(&self, test: &str) -> String {
        self.create(test, "").await
    }

    /// Runs statements on the server, in a database, as the superuser.
    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        let done = sqlx::raw_sql(sql).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.expect("a connection that worked can be closed");
    }

    async fn connect(&self, database: &str) -> PgConnection {
        let connection = PgConnection::connect(&self.server.url(database)).await;
        connection.unwrap_or_else(|error| panic!("connect to {database}: {error}"))
    }

    async fn create(&self, test: &str, how: &str) -> String {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        // The test's name is for people who look into the server's log; a name ends at 63 bytes.
        let test = test.rsplit("::").next().unwrap_or_default();
        let name: String = format!("t{number}_{test}").chars().take(60).collect();
        self.execute("postgres", &format!("create database \"{name}\" {how}")).await;
        name
    }

    async fn make_template(&self) {
        self.execute("postgres", &format!("create database {TEMPLATE}")).await;
        migrate(&self.server.url(TEMPLATE)).await;
        // The roles come from the migration; the logins are real and as restricted as in production.
        let logins = "create role relay_login login in role outbox_relay; \
                      create role admin_login login in role outbox_admin; \
                      create role reader_login login in role outbox_reader; \
                      create role app_login login in role outbox_producer";
        self.execute(TEMPLATE, logins).await;
    }
}

/// Runs `outbox-relay migrate` on a database and panics with what it says when it fails.
pub async fn migrate(url: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.arg("migrate").env("DATABASE_URL", url).current_dir(std::env::temp_dir());
    let output = blocking(move || command.output()).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "outbox-relay migrate: {}\n{said}", output.status);
}
