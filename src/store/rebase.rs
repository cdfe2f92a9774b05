//! `migrate --rebase`: makes a copied or restored outbox belong to where it is now.
//!
//! A dump that was restored into a younger cluster carries transaction numbers of the future, and a copy of production
//! must not publish production's backlog elsewhere. One transaction forgets the old identity, lets the operator decide
//! about the rows that were not published, and starts the numbering anew. It never guesses about those rows.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::migrate::{self, MigrateError, failed};
use super::migration::{SchemaFitness, schema_fitness};

/// What becomes of rows that were not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// The next relay sends them.
    Publish,
    /// The ledger names them as dropped, and they are never sent.
    Skip,
}

/// Why nothing was rebased.
#[derive(Debug, thiserror::Error)]
pub enum RebaseError {
    /// There are rows to decide about, and nobody has.
    #[error(
        "{} rows were not published ({unread} unread, {deferred} deferred); say --pending publish to send them from \
         here, or --pending skip if the original sends them",
        unread + deferred
    )]
    Undecided {
        /// Rows that no relay has read.
        unread: i64,
        /// Rows that a relay had put off.
        deferred: i64,
    },
    /// Without a position every row would count as unpublished.
    #[error("outbox.ledger or outbox.lease is empty: the position is lost, restore these tables first")]
    PositionLost,
    /// What an older schema lacks, this binary would ask for.
    #[error(
        "schema outbox is at migration {has} and this binary needs {needs}; run outbox-relay migrate, then rebase"
    )]
    SchemaTooOld {
        /// The newest applied migration.
        has: i32,
        /// The newest migration of this binary.
        needs: i32,
    },
    /// Anything that can go wrong with the schema.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// What was, or would be, rebased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebaseReport {
    /// The epoch that fences everyone who led before.
    pub epoch: i64,
    /// Ids go on above this one.
    pub high: i64,
    /// Rows that no relay had read.
    pub unread: i64,
    /// Rows that a relay had put off.
    pub deferred: i64,
    /// Rows whose transaction number was changed.
    pub renumbered: u64,
}

/// Rebases the outbox of this database. `pending` may stay open only if nothing is pending; with `dry_run` everything is
/// done and rolled back. Waits for open writers of outbox rows, and lets new ones wait until it is done.
pub async fn rebase(
    connection: &mut PgConnection,
    pending: Option<Pending>,
    dry_run: bool,
) -> Result<RebaseReport, RebaseError> {
    match schema_fitness(connection).await.map_err(failed("read schema"))? {
        SchemaFitness::Missing => return Err(MigrateError::Missing.into()),
        SchemaFitness::TooOld { has, needs } => return Err(RebaseError::SchemaTooOld { has, needs }),
        SchemaFitness::TooNew { .. } | SchemaFitness::Fits => {}
    }
    let mut transaction = migrate::begin(connection).await?;
    let outcome = renumber(&mut transaction, pending).await;
    migrate::finish(transaction, outcome, !dry_run).await
}

async fn renumber(
    connection: &mut PgConnection,
    pending: Option<Pending>,
) -> Result<RebaseReport, RebaseError> {
    let epoch: Option<i64> = sqlx::query_scalar(include_str!("sql/rebase_lock_lease.sql"))
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("lock the lease"))?;
    let lease_epoch = epoch.ok_or(RebaseError::PositionLost)?;
    sqlx::query(include_str!("sql/rebase_lock_tables.sql"))
        .execute(&mut *connection)
        .await
        .map_err(failed("lock the outbox"))?;

    let found = read_pending(connection).await.map_err(failed("find pending rows"))?;
    let (unread, deferred, ids, ledger_epoch) = found.ok_or(RebaseError::PositionLost)?;
    // The newest of both, should a restore have brought back only one of these tables.
    let epoch = lease_epoch.max(ledger_epoch) + 1;
    if pending.is_none() && unread + deferred > 0 {
        return Err(RebaseError::Undecided { unread, deferred });
    }
    let skip = pending == Some(Pending::Skip);

    let renumbered = sqlx::query(include_str!("sql/rebase_renumber.sql"))
        .bind(&ids)
        .bind(!skip)
        .execute(&mut *connection)
        .await
        .map_err(failed("renumber outbox rows"))?
        .rows_affected();
    sqlx::query(include_str!("sql/rebase_ledger.sql"))
        .execute(&mut *connection)
        .await
        .map_err(failed("renumber the ledger"))?;
    let high: i64 = sqlx::query_scalar(include_str!("sql/rebase_sequence.sql"))
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("raise the sequence"))?;
    sqlx::query(include_str!("sql/rebase_position.sql"))
        .bind(epoch)
        .bind(high)
        .bind(&ids)
        .bind(skip)
        .execute(&mut *connection)
        .await
        .map_err(failed("write the position"))?;
    sqlx::query(include_str!("sql/rebase_lease.sql"))
        .bind(epoch)
        .execute(&mut *connection)
        .await
        .map_err(failed("clear the lease"))?;
    sqlx::query(include_str!("sql/rebase_incarnation.sql"))
        .execute(&mut *connection)
        .await
        .map_err(failed("clear the incarnation"))?;
    Ok(RebaseReport { epoch, high, unread, deferred, renumbered })
}

/// Unread and deferred rows, the unread ids as a multirange, and the ledger's newest epoch. `None` if there is no position
/// to judge by.
async fn read_pending(connection: &mut PgConnection) -> Result<Option<(i64, i64, String, i64)>, sqlx::Error> {
    let row = sqlx::query(include_str!("sql/rebase_pending.sql")).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((row.try_get("unread")?, row.try_get("deferred")?, row.try_get("ids")?, row.try_get("epoch")?)))
}
