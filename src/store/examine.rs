//! What `check` asks of Postgres: whether it can be reached and used, and if not, why not.
//!
//! Owns the statements behind it and the sorting of refused connections; whether an answer is good or bad is `ops::check`.
//! Unlike [`super::Server::connect`] it goes on with a server that a relay would refuse: somebody wants to know what is wrong.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};
use sqlx::Row;

use super::inspect::{document, documents};
use super::migration::{SchemaFitness, schema_fitness};
use super::rights::{self, Right};
use super::{Server, Session, StoreError};

/// Why there is no connection, with the words of whoever refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoConnection {
    /// Nobody knows the host's name.
    UnknownHost(String),
    /// Nobody listens there.
    Refused(String),
    /// TLS was wanted by one side and not had.
    Tls(String),
    /// User or password.
    Login(String),
    /// There is no such database.
    Database(String),
    /// A pooler that refuses what only a server takes.
    Pooler(String),
    /// Anything else, such as a server that starts up or has no connection left.
    Other(String),
}

/// A host of `postgres.url`, as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Name and port, or the path of a socket.
    pub name: String,
    /// The login.
    pub user: String,
    /// Whether what is sent stays on this machine.
    pub is_here: bool,
}

/// An open transaction.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "the names are those of pg_stat_activity")]
pub struct OpenTransaction {
    pub pid: i32,
    pub who: Option<String>,
    pub application: Option<String>,
    pub state: Option<String>,
    /// Its age; unknown where the login may not see it.
    pub seconds: Option<f64>,
}

/// A transaction that was prepared and never ended.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "the names are those of pg_prepared_xacts")]
pub struct PreparedTransaction {
    pub gid: String,
    pub seconds: f64,
}

/// What kind of server answers.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerFacts {
    /// As a number: 150004.
    pub version: i32,
    /// As people write it.
    pub version_name: String,
    /// Who we are there.
    pub user: String,
    /// And where.
    pub database: String,
    /// The connection is encrypted; through a pooler, the pooler's.
    pub encrypted: bool,
    /// It follows another server.
    pub replica: bool,
    /// Nothing can be written in this session.
    pub read_only: bool,
    /// What the connection asked for at its start has arrived.
    pub settings_kept: bool,
    /// Autovacuum is on.
    pub autovacuum: bool,
    /// Tables of ours for which it is off.
    pub not_vacuumed: Vec<String>,
    /// The login may see what others do.
    pub sees_all: bool,
    /// The oldest open transaction.
    pub oldest: Option<OpenTransaction>,
    /// The oldest prepared one of this database.
    pub prepared: Option<PreparedTransaction>,
}

/// Whether there is a schema and what the login is in it.
#[derive(Debug, Clone, Deserialize)]
pub struct SchemaFacts {
    /// It was made by `migrate`.
    pub bookkeeping: bool,
    /// Somebody else's schema has the name.
    pub foreign_schema: bool,
    /// The role outbox_relay exists.
    pub role: bool,
    /// The login has its rights.
    pub member: bool,
}

/// Rights that are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacking {
    /// On tables, sequences and the schema.
    pub rights: Vec<Right>,
    /// Functions that may not be called.
    pub functions: Vec<String>,
}

/// The lease, and what it says about where this outbox belongs.
#[derive(Debug, Clone, Deserialize)]
pub struct LeaseFacts {
    /// Name of whoever leads.
    pub holder: Option<String>,
    /// Somebody leads.
    pub held: bool,
    /// Grows with every takeover.
    pub epoch: i64,
    /// Since the leader said that it is alive, by the server's clock.
    pub beat_seconds: f64,
    /// It was ever led.
    pub led: bool,
    /// Standbys that are connected, as far as can be told.
    pub standbys: i64,
    /// It was led on another server.
    pub other_server: bool,
    /// It was led in another database of this server.
    pub other_database: bool,
    /// The Kafka cluster that its records went to.
    pub kafka_cluster_id: Option<String>,
    /// `cache` of the id sequence.
    pub sequence_cache: i64,
    /// The server has the token of the last takeover.
    pub remembers: bool,
}

/// A topic of which rows wait, or came lately.
#[derive(Debug, Clone, Deserialize)]
pub struct TopicFacts {
    /// Its name.
    pub topic: String,
    /// Rows wait.
    pub pending: bool,
    /// Why it has a lane.
    pub cause: Option<String>,
    /// Bytes of key, payload and headers of the largest row that waits.
    pub largest: u64,
    /// A row that waits has no key.
    pub without_key: bool,
}

/// Where a published row lies that left its partition to the key.
#[derive(Debug, Clone, Deserialize)]
pub struct Place {
    /// Its topic.
    pub topic: String,
    /// Its key, in hexadecimal.
    pub key: String,
    /// Its partition.
    pub partition: i32,
}

/// The hosts of the URL, in their order.
pub fn hosts(server: &Server) -> Vec<Host> {
    server
        .hosts()
        .iter()
        .map(|options| {
            let socket = options.get_socket().map(|path| path.display().to_string());
            let host = options.get_host().to_owned();
            let is_here = socket.is_some() || is_here(&host);
            let name = socket.unwrap_or_else(|| format!("{host}:{}", options.get_port()));
            Host { name, user: options.get_username().to_owned(), is_here }
        })
        .collect()
}

/// Whether the host is this machine.
fn is_here(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host.starts_with('/') || host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Connects to a host by its number. Does not look at who answers.
pub async fn connect(server: &Server, host: usize) -> Result<Session, NoConnection> {
    server.dial(host, "check").await.map_err(why_not)
}

fn why_not(error: sqlx::Error) -> NoConnection {
    let text = crate::telemetry::chain(&error);
    match &error {
        sqlx::Error::Database(refusal) => {
            let said = refusal.message().to_owned();
            let about = |words: &[&str]| words.iter().any(|word| said.contains(word));
            match refusal.code().unwrap_or_default().as_ref() {
                _ if about(&["startup parameter"]) => NoConnection::Pooler(said),
                "28000" if about(&["no encryption", "SSL off"]) => NoConnection::Tls(said),
                "28000" | "28P01" => NoConnection::Login(said),
                "3D000" => NoConnection::Database(said),
                // PgBouncer has one code for all that it refuses.
                "08P01" if about(&["no such database"]) => NoConnection::Database(said),
                "08P01" if about(&["no such user", "authentication", "password"]) => {
                    NoConnection::Login(said)
                }
                _ => NoConnection::Other(said),
            }
        }
        sqlx::Error::Tls(_) => NoConnection::Tls(text),
        sqlx::Error::Io(io) if io.kind() == ErrorKind::ConnectionRefused => NoConnection::Refused(text),
        sqlx::Error::Io(io) if io.kind() == ErrorKind::NotFound => NoConnection::Refused(text),
        sqlx::Error::Io(io) if io.to_string().contains("lookup address") => NoConnection::UnknownHost(text),
        sqlx::Error::Io(_) if text.contains("certificate") || text.contains("handshake") => {
            NoConnection::Tls(text)
        }
        sqlx::Error::Configuration(_) if text.contains("certificate") || text.contains("root cert") => {
            NoConnection::Tls(text)
        }
        _ => NoConnection::Other(text),
    }
}

/// What kind of server this is.
pub async fn server(session: &mut Session) -> Result<ServerFacts, StoreError> {
    let call = session.call(include_str!("sql/examine_server.sql"));
    document(session, "read what the server is", call).await
}

/// Seconds since 1970 by the server's clock.
pub async fn clock(session: &mut Session) -> Result<f64, StoreError> {
    let call = session.call(include_str!("sql/examine_clock.sql"));
    session.value("read the server's clock", call).await
}

/// Whether there is a schema, whatever the login's rights.
pub async fn schema(session: &mut Session) -> Result<SchemaFacts, StoreError> {
    let call = session.call(include_str!("sql/examine_schema.sql"));
    document(session, "look for the schema", call).await
}

/// Which rights of a relay the login lacks.
pub async fn lacking(session: &mut Session) -> Result<Lacking, StoreError> {
    const WHAT: &str = "look at the login's rights";
    let rights = rights::of_the_relay();
    let column = |right: &Right| right.column.clone().unwrap_or_default();
    let name = |right: &Right| right.object.trim_start_matches("outbox.").to_owned();
    let call = session
        .call(include_str!("sql/examine_rights.sql"))
        .bind(rights.iter().map(|right| right.kind.to_owned()).collect::<Vec<String>>())
        .bind(rights.iter().map(name).collect::<Vec<String>>())
        .bind(rights.iter().map(column).collect::<Vec<String>>())
        .bind(rights.iter().map(|right| right.privilege.clone()).collect::<Vec<String>>())
        .bind(rights::functions_of_others());
    let row = session.one(WHAT, call).await?;
    let read = || -> Result<Lacking, sqlx::Error> {
        let places: Vec<i64> = row.try_get("rights")?;
        let missing = places.iter().filter_map(|&place| rights.get(place as usize).cloned());
        Ok(Lacking { rights: missing.collect(), functions: row.try_get("functions")? })
    };
    read().map_err(|error| StoreError::from_sqlx(WHAT, error))
}

/// The newest migration of the schema, and whether this binary fits.
pub async fn fitness(session: &mut Session) -> Result<SchemaFitness, StoreError> {
    let fitness = schema_fitness(session.connection()).await;
    fitness.map_err(|error| StoreError::from_sqlx("read the schema's version", error))
}

/// The lease; `None` when its row is gone.
pub async fn lease(session: &mut Session) -> Result<Option<LeaseFacts>, StoreError> {
    let call = session.call(include_str!("sql/examine_lease.sql"));
    Ok(documents(session, "read the lease", call).await?.pop())
}

/// Topics of rows that wait, and of new ones; `rows` of each source are looked at.
pub async fn topics(session: &mut Session, rows: i64) -> Result<Vec<TopicFacts>, StoreError> {
    let call = session.call(include_str!("sql/examine_topics.sql")).bind(rows);
    documents(session, "look at the rows that wait", call).await
}

/// Where the newest published rows lie.
pub async fn places(session: &mut Session, rows: i64) -> Result<Vec<Place>, StoreError> {
    let call = session.call(include_str!("sql/examine_places.sql")).bind(rows);
    documents(session, "look where records lie", call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_this_machine_need_no_encryption() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "/run/postgresql"] {
            assert!(is_here(host), "{host}");
        }
        for host in ["db1", "10.0.0.1", "fd00::1", "localhost.example.org"] {
            assert!(!is_here(host), "{host}");
        }
    }
}
