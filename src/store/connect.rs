//! Connections to Postgres: one per loop, held for as long as it works.
//!
//! Owns how a connection is opened and checked, and the deadline on every statement. There is no pool: a pool pings
//! on every acquire and release, hides refused connections behind its own time-out, and no loop shares a connection.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Decode, Postgres, Row, Type};

use super::StoreError;
use super::call::Call;
use super::migration::{SchemaFitness, schema_fitness};

/// How long one host may take to accept a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a statement may take before the connection is given up. sqlx offers no TCP keepalive, and a server that
/// vanished without a word would block a read for ever.
pub const STATEMENT_DEADLINE: Duration = Duration::from_secs(30);

/// Settings of every connection of the relay. The plans depend on them, so nothing else may prepare its statements.
pub const SETTINGS: [(&str, &str); 12] = [
    // A generic plan is planned once and never again; sequential scans would creep into a plan that was
    // made while a ring slot was empty; JIT compiled the poll at every execution (550 ms for 0.14 ms).
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("max_parallel_workers_per_gather", "0"),
    // A full page of late rows is sorted; with 4 MB (the default) it goes through a temporary file of 3 MB [measured].
    ("work_mem", "16MB"),
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
    pooler: bool,
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
        Ok(Server { hosts, pooler: false })
    }

    /// The hosts are poolers in transaction mode: `postgres.pooler`.
    pub fn behind_pooler(self, pooler: bool) -> Server {
        Server { pooler, ..self }
    }

    /// Opens a connection to the writable host. `purpose` shows in `pg_stat_activity` as `outbox-relay/<purpose>`.
    pub async fn connect(&self, purpose: &'static str) -> Result<Session, StoreError> {
        let mut last = StoreError::Unusable("postgres.url names no host".to_owned());
        for host in &self.hosts {
            let options = self.options(host, purpose);
            match open(&options, self.pooler).await {
                Ok(session) => return Ok(session),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn hosts(&self) -> &[PgConnectOptions] {
        &self.hosts
    }

    /// Opens a connection to the host of this number, whoever answers there. Waits for as long as that takes.
    pub(super) async fn dial(&self, host: usize, purpose: &'static str) -> Result<Session, sqlx::Error> {
        let options = self.options(&self.hosts[host], purpose);
        Ok(Session { connection: PgConnection::connect_with(&options).await?, pooler: self.pooler })
    }

    fn options(&self, host: &PgConnectOptions, purpose: &'static str) -> PgConnectOptions {
        let options = host.clone().application_name(&format!("outbox-relay/{purpose}"));
        match self.pooler {
            // PgBouncer refuses parameters that it does not know how to keep apart.
            true => options.extra_float_digits(None).statement_cache_capacity(0),
            false => options.options(SETTINGS),
        }
    }
}

async fn open(options: &PgConnectOptions, pooler: bool) -> Result<Session, StoreError> {
    const WHAT: &str = "read server state";
    let connection = match tokio::time::timeout(CONNECT_DEADLINE, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|e| StoreError::from_sqlx("connect", e))?,
        Err(_) => return Err(StoreError::Silent { what: "connect", seconds: CONNECT_DEADLINE.as_secs() }),
    };
    let mut session = Session { connection, pooler };
    let server = session.one(WHAT, session.call(include_str!("sql/server.sql"))).await?;
    let flag = |name| server.try_get::<bool, _>(name).map_err(|e| StoreError::from_sqlx(WHAT, e));
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
            "the connection's start-up settings (plan_cache_mode, enable_seqscan, jit, …) did not arrive, so there is \
             a pooler in between; set postgres.pooler = true, or connect directly"
                .to_owned(),
        ));
    }
    Ok(session)
}

/// One connection, used by one loop. After an error that is not the server's answer it must be dropped.
#[derive(Debug)]
pub struct Session {
    connection: PgConnection,
    pooler: bool,
}

impl Session {
    /// A statement of `sql/`, in the form that this connection takes. Its values are bound to it.
    pub(super) fn call<'q>(&self, sql: &'static str) -> Call<'q> {
        if self.pooler { Call::written(sql) } else { Call::prepared(sql) }
    }

    /// For callers that sort the server's errors themselves.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Its first row; that there is none is an error. `what` is a verb and its object, for errors.
    pub(super) async fn one(&mut self, what: &'static str, call: Call<'_>) -> Result<PgRow, StoreError> {
        within(what, call.one(&mut self.connection)).await
    }

    /// The first column of its first row.
    pub(super) async fn value<T>(&mut self, what: &'static str, call: Call<'_>) -> Result<T, StoreError>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        self.one(what, call).await?.try_get(0).map_err(|error| StoreError::from_sqlx(what, error))
    }

    /// Its first row, if there is one.
    pub(super) async fn maybe(
        &mut self,
        what: &'static str,
        call: Call<'_>,
    ) -> Result<Option<PgRow>, StoreError> {
        within(what, call.maybe(&mut self.connection)).await
    }

    /// All its rows.
    pub(super) async fn all(&mut self, what: &'static str, call: Call<'_>) -> Result<Vec<PgRow>, StoreError> {
        within(what, call.all(&mut self.connection)).await
    }

    /// Shows `take` its rows, one after the other, to be read with `row.rs`.
    pub(super) async fn each(
        &mut self,
        what: &'static str,
        call: Call<'_>,
        take: impl FnMut(&PgRow) -> Result<(), sqlx::Error>,
    ) -> Result<(), StoreError> {
        within(what, call.each(&mut self.connection, take)).await
    }

    /// Fails, saying what to run, unless the schema fits this binary.
    pub async fn check_schema(&mut self) -> Result<(), StoreError> {
        let fitness = within("read the schema's version", schema_fitness(&mut self.connection)).await?;
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

/// Waits for an answer, until the deadline.
async fn within<T>(
    what: &'static str,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_DEADLINE, answer).await {
        Ok(answer) => answer.map_err(|error| StoreError::from_sqlx(what, error)),
        Err(_) => Err(StoreError::Silent { what, seconds: STATEMENT_DEADLINE.as_secs() }),
    }
}
