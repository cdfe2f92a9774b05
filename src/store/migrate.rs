//! The schema and its versions: what is applied, what is not, and how it gets there.
//!
//! Owns the list of migrations (their text is in `migrations/`) and the table `outbox.migration`. All pending ones run in
//! one transaction under one lock, so that two that start at once do the work once, and a failure leaves nothing behind.
//! Roles and rights (`migrations/roles.sql`) run every time. Prints nothing: it returns what a command shows.

use std::fmt::Write;

use sqlx::postgres::PgConnectOptions;
/// What the functions here work on; a caller outside of `store` has no other name for it.
pub use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection, Row};

/// One step of the schema. Its text is never changed once it was released: it is known by its checksum.
#[derive(Debug)]
pub struct Migration {
    /// Its number; they are applied in this order.
    pub version: i32,
    /// What it makes.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// All migrations of this binary, ascending and without a gap.
pub static MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "message", sql: include_str!("../../migrations/0001_message.sql") },
    Migration { version: 2, name: "ledger", sql: include_str!("../../migrations/0002_ledger.sql") },
    Migration { version: 3, name: "deferred", sql: include_str!("../../migrations/0003_deferred.sql") },
    Migration { version: 4, name: "views", sql: include_str!("../../migrations/0004_views.sql") },
];

/// Roles and rights, run after the migrations, every time.
const ROLES: &str = include_str!("../../migrations/roles.sql");

/// `int8multirange` came with this one.
const OLDEST_SERVER: i32 = 140_000;

impl Migration {
    /// The oldest binary that may run once this migration is applied: a line in the migration's head says so.
    pub fn oldest_binary(&self) -> &'static str {
        let line = self.sql.lines().find_map(|line| line.strip_prefix("-- oldest binary: "));
        line.expect("a test reads this line of every migration").trim()
    }
}

/// Why the schema was not changed or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A URL that cannot be read. The text does not repeat it: it holds the password.
    #[error("postgres.url cannot be read")]
    Url(#[source] sqlx::Error),
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

/// Where one migration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// The oldest binary that may run once it is applied.
    pub oldest_binary: String,
    /// When it was applied; `None` if it was not.
    pub applied_at: Option<String>,
    /// This binary carries it. If not, a newer binary has applied it.
    pub known: bool,
    /// It was applied with another text than this binary carries.
    pub edited: bool,
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

/// Whether this binary may relay with the schema that it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaFitness {
    /// No schema yet.
    Missing,
    /// `outbox-relay migrate` of this binary has not run.
    TooOld {
        /// The newest applied migration.
        has: i32,
        /// The newest migration of this binary.
        needs: i32,
    },
    /// A newer binary has migrated, past what this one understands.
    TooNew {
        /// The oldest version that may run.
        oldest_binary: String,
    },
    /// It may.
    Fits,
}

struct Applied {
    version: i32,
    name: String,
    checksum: String,
    oldest_binary: String,
    applied_at: String,
}

/// Connects for migrating, to the writable one of the hosts (one URL each). No statement timeout is set: a migration
/// takes as long as its locks and its table need.
pub async fn connect<'a>(urls: impl IntoIterator<Item = &'a str>) -> Result<PgConnection, MigrateError> {
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
            Err(error) => last = MigrateError::Connect(error),
        }
    }
    Err(last)
}

/// Every migration that is applied or could be, in order.
pub async fn status(connection: &mut PgConnection) -> Result<Vec<MigrationStatus>, MigrateError> {
    let applied = applied(connection).await?;
    let mut list = Vec::new();
    for row in &applied {
        let known = MIGRATIONS.iter().find(|migration| migration.version == row.version);
        let edited = match known {
            Some(migration) => checksum(connection, migration).await? != row.checksum,
            None => false,
        };
        list.push(MigrationStatus {
            version: row.version,
            name: row.name.clone(),
            oldest_binary: row.oldest_binary.clone(),
            applied_at: Some(row.applied_at.clone()),
            known: known.is_some(),
            edited,
        });
    }
    for migration in MIGRATIONS.iter().filter(|known| !applied.iter().any(|row| row.version == known.version))
    {
        list.push(MigrationStatus {
            version: migration.version,
            name: migration.name.to_owned(),
            oldest_binary: migration.oldest_binary().to_owned(),
            applied_at: None,
            known: true,
            edited: false,
        });
    }
    list.sort_by_key(|migration| migration.version);
    Ok(list)
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
    let pending = pending(&mut transaction).await?;
    let refused = |name: String| move |source| MigrateError::Refused { name, source };
    sqlx::raw_sql(include_str!("sql/migration_table.sql"))
        .execute(&mut *transaction)
        .await
        .map_err(refused("bookkeeping".to_owned()))?;
    for migration in &pending {
        let name = format!("{} ({})", migration.version, migration.name);
        sqlx::raw_sql(migration.sql).execute(&mut *transaction).await.map_err(refused(name))?;
        let checksum = checksum(&mut transaction, migration).await?;
        sqlx::query(include_str!("sql/migration_record.sql"))
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum)
            .bind(migration.oldest_binary())
            .execute(&mut *transaction)
            .await
            .map_err(failed("record migration"))?;
    }
    // An older binary does not know the objects of a newer one and must not touch their rights.
    if !newer_binary_was_here(&mut transaction).await? {
        sqlx::raw_sql(ROLES).execute(&mut *transaction).await.map_err(refused("roles".to_owned()))?;
    }
    let administrator_sql = administrator_sql(&mut transaction).await?;
    transaction.commit().await.map_err(failed("commit migrations"))?;
    Ok(MigrateReport { applied: pending, administrator_sql })
}

/// What [`down`] would lose.
pub async fn losses(connection: &mut PgConnection) -> Result<Losses, MigrateError> {
    let applied = applied(connection).await?;
    let Some(newest) = applied.last() else { return Err(MigrateError::Missing) };
    if newest.version < 3 {
        return Ok(Losses { unread: 0, deferred: 0, dead_letters: 0 });
    }
    let mut read = async || {
        let row = sqlx::query(include_str!("sql/losses.sql")).fetch_one(&mut *connection).await?;
        Ok(Losses {
            unread: row.try_get("unread")?,
            deferred: row.try_get("deferred")?,
            dead_letters: row.try_get("dead_letters")?,
        })
    };
    read().await.map_err(failed("count unpublished rows"))
}

/// Drops the schema with everything in it and returns what was lost. The roles stay.
pub async fn down(connection: &mut PgConnection) -> Result<Losses, MigrateError> {
    let mut transaction = begin(connection).await?;
    let losses = losses(&mut transaction).await?;
    sqlx::query(include_str!("sql/drop_schema.sql"))
        .execute(&mut *transaction)
        .await
        .map_err(failed("drop schema outbox"))?;
    transaction.commit().await.map_err(failed("drop schema outbox"))?;
    Ok(losses)
}

/// Whether this binary may relay with the schema that it finds.
pub async fn schema_fitness(connection: &mut PgConnection) -> Result<SchemaFitness, sqlx::Error> {
    let state = sqlx::query(include_str!("sql/schema_state.sql")).fetch_one(&mut *connection).await?;
    if !state.try_get::<bool, _>("bookkeeping")? {
        return Ok(SchemaFitness::Missing);
    }
    Ok(judge(&read_applied(connection).await?, env!("CARGO_PKG_VERSION")))
}

fn judge(applied: &[Applied], binary: &str) -> SchemaFitness {
    let needs = MIGRATIONS.last().expect("there are migrations").version;
    let demanded = applied.iter().map(|row| row.oldest_binary.as_str()).max_by_key(|oldest| release(oldest));
    match (applied.last(), demanded) {
        (Some(_), Some(oldest)) if release(oldest) > release(binary) => {
            SchemaFitness::TooNew { oldest_binary: oldest.to_owned() }
        }
        (Some(newest), _) if newest.version >= needs => SchemaFitness::Fits,
        (Some(newest), _) => SchemaFitness::TooOld { has: newest.version, needs },
        (None, _) => SchemaFitness::Missing,
    }
}

/// A version to compare by. Pre-release and build marks do not count.
fn release(version: &str) -> Vec<u64> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    numbers.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

/// Begins a transaction that holds the lock of all that change the schema.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<sqlx::Transaction<'_, sqlx::Postgres>, MigrateError> {
    let mut transaction =
        connection.begin_with("begin isolation level read committed").await.map_err(failed("begin"))?;
    // Notices ("schema exists, skipping") are no news; a name must not resolve to an object of the application.
    sqlx::raw_sql("set local client_min_messages = warning; set local search_path = pg_catalog, pg_temp")
        .execute(&mut *transaction)
        .await
        .map_err(failed("begin"))?;
    sqlx::query(include_str!("sql/migration_lock.sql"))
        .execute(&mut *transaction)
        .await
        .map_err(failed("wait for another migrate"))?;
    Ok(transaction)
}

/// The migrations to apply, after a look at whether they may be.
async fn pending(connection: &mut PgConnection) -> Result<Vec<&'static Migration>, MigrateError> {
    let state = sqlx::query(include_str!("sql/schema_state.sql")).fetch_one(&mut *connection).await;
    let state = state.map_err(failed("read server state"))?;
    let get = failed("read server state");
    let (version, encoding, foreign): (i32, String, bool) =
        (|| Ok((state.try_get("version")?, state.try_get("encoding")?, state.try_get("foreign_schema")?)))()
            .map_err(get)?;
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

async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, MigrateError> {
    let mut read = async || {
        let state = sqlx::query(include_str!("sql/schema_state.sql")).fetch_one(&mut *connection).await?;
        if state.try_get("bookkeeping")? { read_applied(connection).await } else { Ok(Vec::new()) }
    };
    read().await.map_err(failed("read applied migrations"))
}

async fn read_applied(connection: &mut PgConnection) -> Result<Vec<Applied>, sqlx::Error> {
    let rows = sqlx::query(include_str!("sql/migrations_applied.sql")).fetch_all(connection).await?;
    let applied = rows.iter().map(|row| {
        Ok(Applied {
            version: row.try_get("version")?,
            name: row.try_get("name")?,
            checksum: row.try_get("checksum")?,
            oldest_binary: row.try_get("oldest_binary")?,
            applied_at: row.try_get("applied_at")?,
        })
    });
    applied.collect()
}

async fn newer_binary_was_here(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.version);
    Ok(applied(connection).await?.last().is_some_and(|row| row.version > newest))
}

async fn checksum(connection: &mut PgConnection, migration: &Migration) -> Result<String, MigrateError> {
    sqlx::query_scalar(include_str!("sql/migration_checksum.sql"))
        .bind(migration.sql)
        .fetch_one(connection)
        .await
        .map_err(failed("compute checksum"))
}

/// The statements that are missing because the caller may not run them, if any.
async fn administrator_sql(connection: &mut PgConnection) -> Result<Option<String>, MigrateError> {
    let mut read = async || {
        let state = sqlx::query(include_str!("sql/roles_state.sql")).fetch_one(&mut *connection).await?;
        let missing: Vec<String> = state.try_get("missing")?;
        Ok((state.try_get::<String, _>("migrator")?, missing, state.try_get::<bool, _>("owned")?))
    };
    let (migrator, missing, owned) = read().await.map_err(failed("read roles"))?;
    let mut sql = String::new();
    for role in missing {
        let _ = writeln!(sql, "create role {role} nologin;");
    }
    if !owned {
        let _ = writeln!(sql, "grant outbox_owner to \"{}\";", migrator.replace('"', "\"\""));
    }
    Ok((!sql.is_empty()).then_some(sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_and_say_who_may_run_on_them() {
        for (place, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version, i32::try_from(place).unwrap() + 1);
            assert_eq!(release(migration.oldest_binary()).len(), 3, "{}", migration.name);
            assert!(release(migration.oldest_binary()) <= release(env!("CARGO_PKG_VERSION")));
            assert!(
                migration.sql.is_ascii(),
                "{}: the checksum must not depend on encodings",
                migration.name
            );
            assert!(!migration.sql.contains('\r'), "{}: nor on line ends", migration.name);
        }
    }

    #[track_caller]
    fn check(applied: &[(i32, &str)], binary: &str, expected: SchemaFitness) {
        let applied: Vec<Applied> = applied
            .iter()
            .map(|&(version, oldest)| Applied {
                version,
                name: String::new(),
                checksum: String::new(),
                oldest_binary: oldest.to_owned(),
                applied_at: String::new(),
            })
            .collect();
        assert_eq!(judge(&applied, binary), expected);
    }

    #[test]
    fn a_schema_fits_until_it_demands_a_newer_binary() {
        let needs = MIGRATIONS.last().unwrap().version;
        check(&[], "0.1.0", SchemaFitness::Missing);
        check(&[(1, "0.1.0")], "0.1.0", SchemaFitness::TooOld { has: 1, needs });
        check(&[(needs, "0.1.0")], "0.1.0", SchemaFitness::Fits);
        check(&[(needs, "0.1.0")], "0.2.0-rc.1", SchemaFitness::Fits);
        check(&[(needs, "0.1.0"), (needs + 1, "0.1.0")], "0.1.0", SchemaFitness::Fits);
        let too_new = SchemaFitness::TooNew { oldest_binary: "0.10.0".to_owned() };
        check(&[(needs, "0.9.0"), (needs + 1, "0.10.0"), (needs + 2, "0.2.0")], "0.9.1", too_new);
    }
}
