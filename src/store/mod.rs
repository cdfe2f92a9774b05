//! Postgres: the only place that names sqlx.
//!
//! One typed function per file of `sql/`. Knows nothing of Kafka. Statements with which the relay writes carry the
//! lease's epoch and the incarnation token; losing either has a name ([`StoreError`]), not a boolean.

pub mod ask;
pub mod backlog;
pub mod bench;
mod call;
pub mod clean;
pub mod connect;
pub mod dead_letter;
pub mod deferred;
pub mod demo;
pub mod examine;
pub mod facts;
pub mod follow;
pub mod heartbeat;
pub mod inspect;
pub mod lease;
mod literal;
pub mod migrate;
pub mod migration;
pub mod poll;
pub mod publish;
pub mod rebase;
pub mod reconcile;
pub mod replay;
pub mod request;
pub mod rights;
mod row;
pub mod settle;
pub mod tables;

pub use connect::{Server, Session};

use crate::crash_point;

/// Why a statement did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The server is away, starting, stopping, or does not answer: try again on a new connection.
    #[error("postgres is not reachable")]
    Unavailable(#[source] sqlx::Error),
    /// No answer within the deadline. The statement may still run; the connection must be dropped.
    #[error("postgres did not answer {what} within {seconds} s")]
    Silent {
        /// Verb and object of the statement.
        what: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The server answers but cannot be used; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// The incarnation token is gone: the server crashed or was promoted, and what we remember may not be so.
    #[error("the server has been restarted by a crash or a failover")]
    Forgotten,
    /// Another epoch holds the lease.
    #[error("another relay holds the lease")]
    LeaseLost,
    /// The ledger does not continue where we left it: the server was rolled back.
    #[error("the ledger does not continue where this relay left it")]
    OutOfTurn,
    /// Any other answer of the server.
    #[error("{what}")]
    Failed {
        /// Verb and object of the statement.
        what: &'static str,
        /// The server's words.
        #[source]
        source: sqlx::Error,
    },
}

impl StoreError {
    /// Somebody else holds the lease.
    pub(crate) fn deposed() -> Result<(), StoreError> {
        if crash_point::bug("no_fencing") { Ok(()) } else { Err(StoreError::LeaseLost) }
    }

    /// What we remember of this lease is void: the term has to end.
    pub fn ends_the_term(&self) -> bool {
        matches!(self, StoreError::Forgotten | StoreError::LeaseLost | StoreError::OutOfTurn)
    }

    /// The server cannot read a value that somebody wrote. Returns its words; the same value cannot succeed later.
    pub fn unreadable(&self) -> Option<String> {
        let StoreError::Failed { source: sqlx::Error::Database(error), .. } = self else { return None };
        error.code().is_some_and(|code| code.starts_with("22")).then(|| error.message().to_owned())
    }

    /// Sorts sqlx's error by what the caller can do. `what` is a verb and its object.
    pub(crate) fn from_sqlx(what: &'static str, source: sqlx::Error) -> StoreError {
        let error = match &source {
            sqlx::Error::Database(error) => error,
            sqlx::Error::Configuration(error) => {
                return StoreError::Unusable(format!("postgres.url cannot be used: {error}"));
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => {
                return StoreError::Unavailable(source);
            }
            _ => return StoreError::Failed { what, source },
        };
        let code = error.code().unwrap_or_default().into_owned();
        let text = error.message().to_owned();
        match code.as_str() {
            // A pooler that refuses what it cannot keep apart, or hands each message to another server connection.
            "08P01" if text.contains("startup parameter") => StoreError::Unusable(format!(
                "{text}: there is a pooler in between; set postgres.pooler = true, and give no options (in postgres.url, PGOPTIONS)"
            )),
            "26000" | "42P05" => StoreError::Unusable(format!(
                "{text}: there is a pooler in transaction mode in between; set postgres.pooler = true"
            )),
            // Server shutting down, crashed, starting up; connection limit; read-only after a failover.
            "57P01" | "57P02" | "57P03" | "53300" | "25006" => StoreError::Unavailable(source),
            "57014" => StoreError::Silent { what, seconds: connect::STATEMENT_DEADLINE.as_secs() },
            // A plan from before a migration; the next connection makes a new one.
            "0A000" if text.contains("cached plan") => StoreError::Unavailable(source),
            _ if code.starts_with("08") => StoreError::Unavailable(source),
            "28000" | "28P01" => StoreError::Unusable(format!(
                "postgres refuses the login: {text}; check user and password in postgres.url"
            )),
            "3D000" => StoreError::Unusable(format!("{text}; check the database name in postgres.url")),
            "42501" => StoreError::Unusable(format!(
                "{text}; grant this login the role that it needs: outbox_relay to relay, outbox_reader to look, outbox_admin \
                 to ask for something (outbox-relay migrate makes the roles)"
            )),
            "3F000" | "42P01" | "42883" => StoreError::Unusable(format!(
                "{text}; the outbox schema is missing or incomplete in this database: run outbox-relay migrate"
            )),
            // A replica cannot read unlogged tables and has no WAL position of its own.
            "55000" | "0A000" => {
                StoreError::Unusable(format!("{text}; this server is a replica, the relay needs the primary"))
            }
            _ => StoreError::Failed { what, source },
        }
    }
}
