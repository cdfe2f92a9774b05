//! A Postgres on which nothing else goes on, for tests that count transactions or buffers: they take turns on it.
//!
//! Transaction numbers and snapshots belong to a whole server, so on the shared one every test sees the others' too.

use std::sync::Arc;

use outbox_relay::servers::PostgresOptions;
use outbox_relay::store::Server;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::postgres::Postgres;
use super::wait::{DEADLINE, eventually};

/// Rows in each slot of [`Quiet::with_full_slots`].
pub const ROWS_PER_SLOT: i64 = 50_000;

/// A migrated database on the quiet server, and the turn on it.
pub struct Quiet {
    postgres: Arc<Postgres>,
    database: String,
    // Declared last: the next test begins when all else is gone.
    _turn: MutexGuard<'static, ()>,
}

impl Quiet {
    /// A database of the test's own.
    pub async fn new() -> Self {
        let thread = std::thread::current();
        let (postgres, turn) = server().await;
        let database = postgres.migrated_database(thread.name().unwrap_or("test")).await;
        Self::settled(postgres, database, turn).await
    }

    /// The database whose every slot holds many rows; the tests that use it add to it. Postgres knows nothing of the
    /// rows: its statistics date from when the slots were empty.
    pub async fn with_full_slots() -> Self {
        static FULL: OnceCell<String> = OnceCell::const_new();
        let (postgres, turn) = server().await;
        let fill = async || {
            let database = postgres.migrated_database("full_slots").await;
            postgres.execute(&database, "analyze").await;
            postgres.execute(&database, &filling(0..8)).await;
            database
        };
        let database = FULL.get_or_init(fill).await.clone();
        Self::settled(postgres, database, turn).await
    }

    async fn settled(postgres: Arc<Postgres>, database: String, turn: MutexGuard<'static, ()>) -> Self {
        let quiet = Self { postgres, database, _turn: turn };
        let mut admin = quiet.connect("postgres").await;
        // Connections of the test before may still be ending.
        let alone = "select count(*) = 1 from pg_stat_activity where backend_type = 'client backend'";
        let look =
            async || sqlx::query_scalar(alone).fetch_one(&mut admin).await.expect("the server answers");
        eventually(DEADLINE, "the quiet server is quiet", look).await;
        admin.close().await.expect("a connection that worked can be closed");
        quiet
    }

    /// The database for a login role: `postgres`, `relay_login`, `app_login`.
    pub fn url_as(&self, role: &str) -> String {
        self.postgres.server.url_as(role, &self.database)
    }

    /// The same database for a part of a relay inside the test.
    pub fn store(&self) -> Server {
        Server::new([self.url_as("relay_login").as_str()]).expect("the URL is well formed")
    }

    /// A connection of a login role.
    pub async fn connect(&self, role: &str) -> PgConnection {
        let connection = PgConnection::connect(&self.url_as(role)).await;
        connection.unwrap_or_else(|error| panic!("connect as {role}: {error}"))
    }

    /// Runs statements as the superuser.
    pub async fn execute(&self, sql: &str) {
        self.postgres.execute(&self.database, sql).await;
    }

    /// Puts many rows into a slot.
    pub async fn fill(&self, slot: i32) {
        self.execute(&filling(slot..slot + 1)).await;
    }
}

/// Many rows in these slots, with txids from the server's distant past, a hundred rows each.
fn filling(slots: std::ops::Range<i32>) -> String {
    format!(
        "insert into outbox.message (txid, slot, topic, payload)
         select (3 + n / 100)::text::xid8, slot, 'old', 'payload'
           from generate_series({}, {}) slot, generate_series(1, {ROWS_PER_SLOT}) n",
        slots.start,
        slots.end - 1
    )
}

/// Nothing runs by itself on this server, and only one test at a time.
async fn server() -> (Arc<Postgres>, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::const_new(());
    static SERVER: OnceCell<Arc<Postgres>> = OnceCell::const_new();
    let turn = TURN.lock().await;
    let settings = vec![("autovacuum".to_owned(), "off".to_owned())];
    let start = || Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() });
    (Arc::clone(SERVER.get_or_init(start).await), turn)
}
