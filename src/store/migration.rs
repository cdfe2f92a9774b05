//! The migrations: their list, which of them a database has, and whether this binary may relay with those.
//!
//! Their text is in `migrations/`. Only reads; [`super::migrate`] changes.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor, Row};

use super::migrate::{MigrateError, failed};

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
    Migration { version: 5, name: "failures", sql: include_str!("../../migrations/0005_failures.sql") },
    Migration { version: 6, name: "requests", sql: include_str!("../../migrations/0006_requests.sql") },
    Migration { version: 7, name: "clean", sql: include_str!("../../migrations/0007_clean.sql") },
    Migration { version: 8, name: "repairs", sql: include_str!("../../migrations/0008_repairs.sql") },
    Migration { version: 9, name: "operators", sql: include_str!("../../migrations/0009_operators.sql") },
    Migration { version: 10, name: "replay", sql: include_str!("../../migrations/0010_replay.sql") },
    Migration { version: 11, name: "brake", sql: include_str!("../../migrations/0011_brake.sql") },
    Migration {
        version: 12,
        name: "maintenance",
        sql: include_str!("../../migrations/0012_maintenance.sql"),
    },
    Migration { version: 13, name: "heartbeat", sql: include_str!("../../migrations/0013_heartbeat.sql") },
    Migration {
        version: 14,
        name: "late_backlog",
        sql: include_str!("../../migrations/0014_late_backlog.sql"),
    },
];

/// Roles and rights, run after the migrations, every time.
pub(super) const ROLES: &str = include_str!("../../migrations/roles.sql");

impl Migration {
    /// The oldest binary that may run once this migration is applied: a line in the migration's head says so.
    pub fn oldest_binary(&self) -> &'static str {
        let line = self.sql.lines().find_map(|line| line.strip_prefix("-- oldest binary: "));
        line.expect("a test reads this line of every migration").trim()
    }
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

pub(super) struct Applied {
    pub(super) version: i32,
    name: String,
    pub(super) checksum: String,
    oldest_binary: String,
    applied_at: String,
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

/// Whether this binary may relay with the schema that it finds.
pub async fn schema_fitness(connection: &mut PgConnection) -> Result<SchemaFitness, sqlx::Error> {
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

pub(super) async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, MigrateError> {
    read_applied(connection).await.map_err(failed("read applied migrations"))
}

/// The row of `schema_state.sql`: what stands in this database, and on what kind of server.
pub(super) async fn read_state(connection: &mut PgConnection) -> Result<PgRow, sqlx::Error> {
    // Without values it need not be prepared, which a pooler would not take.
    connection.fetch_one(sqlx::raw_sql(include_str!("sql/schema_state.sql"))).await
}

async fn read_applied(connection: &mut PgConnection) -> Result<Vec<Applied>, sqlx::Error> {
    if !read_state(&mut *connection).await?.try_get("bookkeeping")? {
        return Ok(Vec::new());
    }
    let rows = connection.fetch_all(sqlx::raw_sql(include_str!("sql/migrations_applied.sql"))).await?;
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

pub(super) async fn newer_binary_was_here(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.version);
    Ok(applied(connection).await?.last().is_some_and(|row| row.version > newest))
}

pub(super) async fn checksum(
    connection: &mut PgConnection,
    migration: &Migration,
) -> Result<String, MigrateError> {
    sqlx::query_scalar(include_str!("sql/migration_checksum.sql"))
        .bind(migration.sql)
        .fetch_one(connection)
        .await
        .map_err(failed("compute checksum"))
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
