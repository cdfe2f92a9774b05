//! Connections to Postgres: one per loop, held for as long as it works.
//!
//! Owns how a connection is opened and checked, and the deadline on every statement. There is no pool: a pool pings
//! on every acquire and release, hides refused connections behind its own time-out, and no loop shares a connection.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};

use super::StoreError;
use super::migration::{SchemaFitness, schema_fitness};

/// How long one host may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a statement may take before the connection is given up. sqlx offers no TCP keepalive, and a server that
/// vanished without a word would block a read for ever.
pub const STATEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Settings of every connection of the relay. The plans depend on them, so nothing else may prepare its statements.
pub const SETTINGS: [(&str, &str); 11] = [
    // A generic plan is planned once and never again; sequential scans would creep into a plan that was
    // made while a ring slot was empty; JIT compiled the poll at every execution (550 ms for 0.14 ms).
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("default_transaction_isolation", "read\\ committed"),
    // Where a commit may be lost (marks), the settlement itself switches this off.
    ("synchronous_commit", "on"),
    ("statement_timeout", "30s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// The hosts of `postgres.url`; the writable one wins.
#[derive(Debug, Clone)]
pub struct Server {
    hosts: Vec<PgConnectOptions>,
}

impl Server {
    /// Takes one URL per host. Fails on a URL that sqlx cannot read, without repeating it (it holds the password).
    pub fn new<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<Server, StoreError> {
        let hosts = urls
            .into_iter()
            .map(|url| {
                PgConnectOptions::from_str(url)
                    .map(|options| options.disable_statement_logging())
                    .map_err(|error| StoreError::Unusable(format!("postgres.url cannot be read: {error}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Server { hosts })
    }

    /// Opens a connection to the writable host. `purpose` shows in `pg_stat_activity` as `outbox-relay/<purpose>`.
    pub async fn connect(&self, purpose: &'static str) -> Result<Session, StoreError> {
        let mut last = StoreError::Unusable("postgres.url names no host".to_owned());
        for host in &self.hosts {
            let options = host.clone().application_name(&format!("outbox-relay/{purpose}")).options(SETTINGS);
            match open(&options).await {
                Ok(session) => return Ok(session),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn open(options: &PgConnectOptions) -> Result<Session, StoreError> {
    let connection = match tokio::time::timeout(CONNECT_DEADLINE, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|e| StoreError::from_sqlx("connect", e))?,
        Err(_) => return Err(StoreError::Silent { what: "connect", seconds: CONNECT_DEADLINE.as_secs() }),
    };
    let mut session = Session { connection };
    let server = session
        .within("read server state", async |c| sqlx::query(include_str!("sql/server.sql")).fetch_one(c).await)
        .await?;
    let flag =
        |name| server.try_get::<bool, _>(name).map_err(|e| StoreError::from_sqlx("read server state", e));
    if flag("replica")? {
        return Err(StoreError::Unusable(format!(
            "{} is a replica; the relay needs the primary (postgres.url may name several hosts, the writable one wins)",
            options.get_host()
        )));
    }
    if flag("read_only")? {
        return Err(StoreError::Unusable(format!(
            "{} is read-only (default_transaction_read_only is on); the relay needs to write",
            options.get_host()
        )));
    }
    if !flag("settings_kept")? {
        return Err(StoreError::Unusable(
            "the connection's start-up settings (plan_cache_mode, enable_seqscan, jit, …) did not arrive; \
             connect directly or let the pooler pass start-up options"
                .to_owned(),
        ));
    }
    Ok(session)
}

/// One connection, used by one loop. After an error that is not the server's answer it must be dropped.
#[derive(Debug)]
pub struct Session {
    connection: PgConnection,
}

impl Session {
    /// Runs one statement under the deadline. `what` is a verb and its object, for the error.
    pub(super) async fn within<T>(
        &mut self,
        what: &'static str,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(STATEMENT_DEADLINE, statement(&mut self.connection)).await {
            Ok(answer) => answer.map_err(|error| StoreError::from_sqlx(what, error)),
            Err(_) => Err(StoreError::Silent { what, seconds: STATEMENT_DEADLINE.as_secs() }),
        }
    }

    /// Fails, saying what to run, unless the schema fits this binary.
    pub async fn check_schema(&mut self) -> Result<(), StoreError> {
        let fitness = self.within("read the schema's version", schema_fitness).await?;
        Err(StoreError::Unusable(match fitness {
            SchemaFitness::Fits => return Ok(()),
            SchemaFitness::Missing => {
                "schema outbox is missing in this database: run outbox-relay migrate".to_owned()
            }
            SchemaFitness::TooOld { has, needs } => {
                format!(
                    "schema outbox has version {has}, this binary needs {needs}: run outbox-relay migrate"
                )
            }
            SchemaFitness::TooNew { oldest_binary } => format!(
                "schema outbox needs outbox-relay {oldest_binary} or newer, this is {}: update the relay",
                env!("CARGO_PKG_VERSION")
            ),
        }))
    }

    /// Says goodbye to the server; without it the server logs a lost connection.
    pub async fn close(self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.connection.close()).await;
    }
}
