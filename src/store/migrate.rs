//! Brings the schema up to date, or takes it down. The list of migrations is in [`super::migration`].
//!
//! All pending ones run in one transaction under one lock, so that two that start at once do the work once, and a failure
//! leaves nothing behind. Roles and rights (`migrations/roles.sql`) run every time. Prints nothing: it returns what a
//! command shows.

use std::fmt::Write;

use sqlx::postgres::PgConnectOptions;
/// What the functions here work on; a caller outside of `store` has no other name for it.
pub use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Executor, Row};

use super::migration::{MIGRATIONS, Migration, ROLES, applied, checksum, newer_binary_was_here};

/// `int8multirange` came with this one.
const OLDEST_SERVER: i32 = 140_000;

/// Why the schema was not changed or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A URL that cannot be read. The text does not repeat it: it holds the password.
    #[error("postgres.url cannot be read")]
    Url(#[source] sqlx::Error),
    /// PgBouncer says that it does not know a parameter of the connection.
    #[error(
        "there is a pooler in between, and migrate needs a direct connection: give the URL of Postgres itself"
    )]
    Pooler(#[source] sqlx::Error),
    /// None of the hosts can be reached, or all of them are replicas.
    #[error("connect to postgres")]
    Connect(#[source] sqlx::Error),
    /// No host is writable.
    #[error("every host of postgres.url is a replica; migrate needs the primary")]
    Replica,
    /// The server lacks what the schema is built from.
    #[error("this server is Postgres {0}; the schema needs 14 or newer")]
    ServerTooOld(i32),
    /// Text without a known encoding cannot be promised to reach Kafka as UTF-8.
    #[error(
        "this database has the encoding SQL_ASCII, which accepts text that is not UTF-8, and one such row would stop \
         the relay; use a database with encoding UTF8"
    )]
    Encoding,
    /// `outbox` is taken.
    #[error("schema outbox exists and was not made by outbox-relay; rename it, the name is fixed")]
    ForeignSchema,
    /// There is nothing to take down, rebase or ask about.
    #[error("there is no schema outbox in this database; run outbox-relay migrate")]
    Missing,
    /// The text of an applied migration is not the one that was applied.
    #[error(
        "migration {version} ({name}) was applied with another text than this binary carries; released migrations are \
         never edited: use the binary of the release that applied it, or a newer one"
    )]
    Edited {
        /// Its number.
        version: i32,
        /// Its name in this binary.
        name: &'static str,
    },
    /// An older migration than the newest applied one is not applied.
    #[error(
        "migration {version} ({name}) is missing although later ones are applied; outbox.migration was changed by hand"
    )]
    Gap {
        /// Its number.
        version: i32,
        /// Its name.
        name: &'static str,
    },
    /// The server refused a migration; nothing was changed.
    #[error("apply migration {name}; nothing was changed")]
    Refused {
        /// Number and name, or `roles`.
        name: String,
        /// The server's words.
        #[source]
        source: sqlx::Error,
    },
    /// Any other answer of the server.
    #[error("{what}")]
    Database {
        /// Verb and object.
        what: &'static str,
        /// The server's words.
        #[source]
        source: sqlx::Error,
    },
}

/// Adds what was being done to an error of the server.
pub(super) fn failed(what: &'static str) -> impl FnOnce(sqlx::Error) -> MigrateError {
    move |source| MigrateError::Database { what, source }
}

/// What `migrate` would do.
#[derive(Debug)]
pub struct Plan {
    /// The migrations that are not applied.
    pub pending: Vec<&'static Migration>,
    /// The same as one script for psql, roles and rights included.
    pub script: String,
}

/// What `migrate` did.
#[derive(Debug)]
pub struct MigrateReport {
    /// The migrations that it applied; empty when the schema was up to date.
    pub applied: Vec<&'static Migration>,
    /// Set when the caller may not make roles or hand objects over: the statements for an administrator. After them,
    /// another `migrate` completes the rights.
    pub administrator_sql: Option<String>,
}

/// What is lost with the schema, besides the history of what was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    /// Rows that the relay has not read.
    pub unread: i64,
    /// Rows that it has put off.
    pub deferred: i64,
    /// Open dead letters.
    pub dead_letters: i64,
}

/// Connects for migrating, to the writable one of the hosts (one URL each). No statement timeout is set: a migration
/// takes as long as its locks and its table need.
pub async fn connect(urls: &[&str]) -> Result<PgConnection, MigrateError> {
    let mut last = MigrateError::Replica;
    for url in urls {
        let options: PgConnectOptions = url.parse().map_err(MigrateError::Url)?;
        let options = options.disable_statement_logging().application_name("outbox-relay/migrate");
        match PgConnection::connect_with(&options).await {
            Ok(mut connection) => {
                let replica =
                    sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&mut connection).await;
                if !replica.map_err(failed("read server state"))? {
                    return Ok(connection);
                }
            }
            Err(sqlx::Error::Database(error)) if error.message().contains("startup parameter") => {
                last = MigrateError::Pooler(sqlx::Error::Database(error));
            }
            Err(error) => last = MigrateError::Connect(error),
        }
    }
    Err(last)
}

/// What [`migrate`] would do. Changes nothing.
pub async fn plan(connection: &mut PgConnection) -> Result<Plan, MigrateError> {
    let pending = pending(connection).await?;
    let mut script = String::from("begin isolation level read committed;\n");
    let _ = writeln!(script, "{};", include_str!("sql/migration_lock.sql").trim_end());
    script.push_str(include_str!("sql/migration_table.sql"));
    for migration in &pending {
        let (version, name, oldest) = (migration.version, migration.name, migration.oldest_binary());
        let checksum = checksum(connection, migration).await?;
        let _ = write!(
            script,
            "\n{}\ninsert into outbox.migration (version, name, checksum, oldest_binary)\n\
             values ({version}, '{name}', '{checksum}', '{oldest}');\n",
            migration.sql
        );
    }
    if !newer_binary_was_here(connection).await? {
        let _ = write!(script, "\n{ROLES}");
    }
    script.push_str("commit;\n");
    Ok(Plan { pending, script })
}

/// Applies what is pending, then roles and rights, in one transaction.
pub async fn migrate(connection: &mut PgConnection) -> Result<MigrateReport, MigrateError> {
    let mut transaction = begin(connection).await?;
    let outcome = apply(&mut transaction).await;
    finish(transaction, outcome, true).await
}

async fn apply(connection: &mut PgConnection) -> Result<MigrateReport, MigrateError> {
    let pending = pending(connection).await?;
    let refused = |name: String| move |source| MigrateError::Refused { name, source };
    connection
        .execute(sqlx::raw_sql(include_str!("sql/migration_table.sql")))
        .await
        .map_err(refused("bookkeeping".to_owned()))?;
    for migration in &pending {
        let name = format!("{} ({})", migration.version, migration.name);
        connection.execute(sqlx::raw_sql(migration.sql)).await.map_err(refused(name))?;
        let checksum = checksum(connection, migration).await?;
        sqlx::query(include_str!("sql/migration_record.sql"))
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum)
            .bind(migration.oldest_binary())
            .execute(&mut *connection)
            .await
            .map_err(failed("record migration"))?;
    }
    // An older binary does not know the objects of a newer one and must not touch their rights.
    if !newer_binary_was_here(connection).await? {
        connection.execute(sqlx::raw_sql(ROLES)).await.map_err(refused("roles".to_owned()))?;
    }
    let administrator_sql = administrator_sql(connection).await?;
    Ok(MigrateReport { applied: pending, administrator_sql })
}

/// What [`down`] would lose.
pub async fn losses(connection: &mut PgConnection) -> Result<Losses, MigrateError> {
    let applied = applied(connection).await?;
    let Some(newest) = applied.last() else { return Err(MigrateError::Missing) };
    if newest.version < 3 {
        return Ok(Losses { unread: 0, deferred: 0, dead_letters: 0 });
    }
    read_losses(connection, newest.version >= 5).await.map_err(failed("count unpublished rows"))
}

async fn read_losses(connection: &mut PgConnection, lanes: bool) -> Result<Losses, sqlx::Error> {
    let sql =
        if lanes { include_str!("sql/losses.sql") } else { include_str!("sql/losses_before_lanes.sql") };
    let row = sqlx::query(sql).fetch_one(connection).await?;
    Ok(Losses {
        unread: row.try_get("unread")?,
        deferred: row.try_get("deferred")?,
        dead_letters: row.try_get("dead_letters")?,
    })
}

/// Drops the schema with everything in it and returns what was lost. The roles stay.
pub async fn down(connection: &mut PgConnection) -> Result<Losses, MigrateError> {
    let mut transaction = begin(connection).await?;
    let outcome = drop_schema(&mut transaction).await;
    finish(transaction, outcome, true).await
}

async fn drop_schema(connection: &mut PgConnection) -> Result<Losses, MigrateError> {
    let losses = losses(connection).await?;
    let dropped = sqlx::query(include_str!("sql/drop_schema.sql")).execute(connection).await;
    dropped.map_err(failed("drop schema outbox"))?;
    Ok(losses)
}

/// Begins a transaction that holds the lock of all that change the schema.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<sqlx::Transaction<'_, sqlx::Postgres>, MigrateError> {
    let mut transaction =
        connection.begin_with("begin isolation level read committed").await.map_err(failed("begin"))?;
    // Notices ("schema exists, skipping") are no news; a name must not resolve to an object of the application.
    transaction
        .execute(sqlx::raw_sql(
            "set local client_min_messages = warning; set local search_path = pg_catalog, pg_temp",
        ))
        .await
        .map_err(failed("begin"))?;
    sqlx::query(include_str!("sql/migration_lock.sql"))
        .execute(&mut *transaction)
        .await
        .map_err(failed("wait for another migrate"))?;
    Ok(transaction)
}

/// Ends a transaction: commits what went well if `keep` says so. A dropped transaction would keep its locks until the
/// connection is used or closed, as sqlx rolls back with the next statement only.
pub(super) async fn finish<T, E: From<MigrateError>>(
    transaction: sqlx::Transaction<'_, sqlx::Postgres>,
    outcome: Result<T, E>,
    keep: bool,
) -> Result<T, E> {
    if outcome.is_ok() && keep {
        transaction.commit().await.map_err(failed("commit"))?;
    } else {
        let ended = transaction.rollback().await.map_err(failed("roll back"));
        // The first error is the one to tell.
        if outcome.is_ok() {
            ended?;
        }
    }
    outcome
}

/// The migrations to apply, after a look at whether they may be.
async fn pending(connection: &mut PgConnection) -> Result<Vec<&'static Migration>, MigrateError> {
    let state = read_server(connection).await.map_err(failed("read server state"))?;
    let (version, encoding, foreign) = state;
    if version < OLDEST_SERVER {
        return Err(MigrateError::ServerTooOld(version / 10_000));
    }
    if encoding == "SQL_ASCII" {
        return Err(MigrateError::Encoding);
    }
    if foreign {
        return Err(MigrateError::ForeignSchema);
    }
    let applied = applied(connection).await?;
    let newest = applied.last().map_or(0, |row| row.version);
    let mut pending = Vec::new();
    for migration in MIGRATIONS {
        let (version, name) = (migration.version, migration.name);
        match applied.iter().find(|row| row.version == version) {
            Some(row) if row.checksum == checksum(connection, migration).await? => {}
            Some(_) => return Err(MigrateError::Edited { version, name }),
            None if version < newest => return Err(MigrateError::Gap { version, name }),
            None => pending.push(migration),
        }
    }
    Ok(pending)
}

/// Version and encoding of the server, and whether the schema's name is taken by something else.
async fn read_server(connection: &mut PgConnection) -> Result<(i32, String, bool), sqlx::Error> {
    let state = super::migration::read_state(connection).await?;
    Ok((state.try_get("version")?, state.try_get("encoding")?, state.try_get("foreign_schema")?))
}

/// The statements that are missing because the caller may not run them, if any.
async fn administrator_sql(connection: &mut PgConnection) -> Result<Option<String>, MigrateError> {
    let (migrator, missing, owned) = read_roles(connection).await.map_err(failed("read roles"))?;
    let mut sql = String::new();
    for role in missing {
        let _ = writeln!(sql, "create role {role} nologin;");
    }
    if !owned {
        let _ = writeln!(sql, "grant outbox_owner to \"{}\";", migrator.replace('"', "\"\""));
    }
    Ok((!sql.is_empty()).then_some(sql))
}

/// Who migrates, which roles are missing, and whether the schema belongs to outbox_owner.
async fn read_roles(connection: &mut PgConnection) -> Result<(String, Vec<String>, bool), sqlx::Error> {
    let state = sqlx::query(include_str!("sql/roles_state.sql")).fetch_one(connection).await?;
    Ok((state.try_get("migrator")?, state.try_get("missing")?, state.try_get("owned")?))
}
