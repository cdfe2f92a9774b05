//! The lease in Postgres: watching it, taking it, raising the beat, giving it back.
//!
//! Owns the statements; what they mean in time (ttl, trust) is `leader.rs`.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{Session, StoreError};
use crate::position::Position;

/// What a candidate sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who leads; `None` when the last holder resigned.
    pub holder: Option<Uuid>,
    /// Its name for people: host and process.
    pub holder_name: Option<String>,
    /// Grows with every takeover.
    pub epoch: i64,
    /// Moves while the holder is alive.
    pub beat: i64,
    /// The server and database that this outbox was last led on.
    pub system_identifier: Option<i64>,
    /// See `system_identifier`.
    pub database_oid: Option<i64>,
    /// The Kafka cluster that its records went to.
    pub kafka_cluster_id: Option<String>,
    /// Of the server at the last takeover.
    pub timeline: Option<i32>,
}

/// Where we are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of the database cluster; a physical copy shares it.
    pub system_identifier: i64,
    /// Of the database; a template copy in the same cluster differs in it.
    pub database_oid: i64,
    /// Another timeline than at takeover is a failover.
    pub timeline: i32,
    /// `cache` of the id sequence; above 1, ids are drawn ahead of their transactions.
    pub sequence_cache: i64,
    /// Highest id drawn so far.
    pub last_id: i64,
}

/// Where reading goes on.
#[derive(Debug, Clone)]
pub struct Resume {
    /// The position of the newest settlement.
    pub position: Position,
    /// Every row with `id <= high` has a txid below this one.
    pub as_of: String,
}

/// Reads the lease and the beat.
pub async fn read_lease(session: &mut Session) -> Result<Lease, StoreError> {
    const WHAT: &str = "read the lease";
    let row = session.maybe(WHAT, session.call(include_str!("sql/lease.sql"))).await?.ok_or_else(|| {
        StoreError::Unusable("outbox.lease or outbox.beat is empty: run outbox-relay migrate --rebase".into())
    })?;
    let read = |row: &PgRow| -> Result<Lease, sqlx::Error> {
        Ok(Lease {
            holder: row.try_get("holder")?,
            holder_name: row.try_get("holder_name")?,
            epoch: row.try_get("epoch")?,
            beat: row.try_get("beat")?,
            system_identifier: row.try_get("system_identifier")?,
            database_oid: row.try_get("database_oid")?,
            kafka_cluster_id: row.try_get("kafka_cluster_id")?,
            timeline: row.try_get("timeline")?,
        })
    };
    read(&row).map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Reads who the server is.
pub async fn read_identity(session: &mut Session) -> Result<Identity, StoreError> {
    const WHAT: &str = "read the server's identity";
    let row = session.one(WHAT, session.call(include_str!("sql/identity.sql"))).await?;
    let read = |row: &PgRow| -> Result<Identity, sqlx::Error> {
        Ok(Identity {
            system_identifier: row.try_get("system_identifier")?,
            database_oid: row.try_get("database_oid")?,
            timeline: row.try_get("timeline")?,
            sequence_cache: row.try_get("sequence_cache")?,
            last_id: row.try_get("last_id")?,
        })
    };
    read(&row).map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// Takes the lease as `seen` stood, for `holder`, with a fresh incarnation `token`. `None`: somebody was quicker.
pub async fn take_over(
    session: &mut Session,
    seen: &Lease,
    holder: Uuid,
    holder_name: &str,
    token: Uuid,
    identity: &Identity,
    kafka_cluster_id: &str,
) -> Result<Option<i64>, StoreError> {
    const WHAT: &str = "take the lease over";
    let query = session
        .call(include_str!("sql/take_over.sql"))
        .bind(holder)
        .bind(holder_name)
        .bind(seen.epoch)
        .bind(seen.beat)
        .bind(token)
        .bind(identity.system_identifier)
        .bind(identity.database_oid)
        .bind(identity.timeline)
        .bind(kafka_cluster_id);
    session.value(WHAT, query).await
}

/// Raises the beat. Fails with [`StoreError::LeaseLost`] when the epoch is no longer ours.
pub async fn raise_beat(session: &mut Session, holder: Uuid, epoch: i64) -> Result<(), StoreError> {
    const WHAT: &str = "raise the beat";
    let query = session.call(include_str!("sql/raise_beat.sql")).bind(holder).bind(epoch);
    match session.value(WHAT, query).await? {
        true => Ok(()),
        false => StoreError::deposed(),
    }
}

/// Gives the lease back. Returns whether it was still ours.
pub async fn resign(session: &mut Session, holder: Uuid, epoch: i64) -> Result<bool, StoreError> {
    const WHAT: &str = "resign";
    let query = session.call(include_str!("sql/resign.sql")).bind(holder).bind(epoch);
    session.value(WHAT, query).await
}

/// Reads where the newest settlement left off.
pub async fn read_position(session: &mut Session) -> Result<Resume, StoreError> {
    const WHAT: &str = "read the position";
    let row =
        session.maybe(WHAT, session.call(include_str!("sql/position.sql"))).await?.ok_or_else(|| {
            StoreError::Unusable("outbox.ledger is empty: the position is lost, restore the ledger".into())
        })?;
    resume(&row).map_err(|e| StoreError::from_sqlx(WHAT, e))
}

/// A topic that is read on its own.
#[derive(Debug, Clone)]
pub struct OpenLane {
    /// Its topic.
    pub topic: String,
    /// Why, as the relay that opened it spelt it.
    pub cause: String,
    /// Where reading goes on.
    pub resume: Resume,
    /// Rows that waited in all lanes together when its position was written, as far as was known.
    pub waiting: i64,
}

/// Reads the lanes that are open.
pub async fn read_open_lanes(session: &mut Session) -> Result<Vec<OpenLane>, StoreError> {
    const WHAT: &str = "read the lanes";
    let rows = session.all(WHAT, session.call(include_str!("sql/open_lanes.sql"))).await?;
    let read = |row: &PgRow| -> Result<OpenLane, sqlx::Error> {
        Ok(OpenLane {
            topic: row.try_get("topic")?,
            cause: row.try_get("cause")?,
            resume: resume(row)?,
            waiting: row.try_get::<Option<i64>, _>("waiting")?.unwrap_or(0),
        })
    };
    let lanes: Result<Vec<OpenLane>, sqlx::Error> = rows.iter().map(read).collect();
    lanes.map_err(|e| StoreError::from_sqlx(WHAT, e))
}

fn resume(row: &PgRow) -> Result<Resume, sqlx::Error> {
    let late: Option<String> = row.try_get("late_snapshot")?;
    let after: Option<i64> = row.try_get("late_after")?;
    Ok(Resume {
        position: Position {
            snapshot: row.try_get("snapshot")?,
            high: row.try_get("high")?,
            late: late.zip(after).map(|(snapshot, after)| crate::position::Late { snapshot, after }),
        },
        as_of: row.try_get("as_of")?,
    })
}

/// Reads the at-most-once rows that the lease before `epoch` left on their way: topic and id. They are lost.
pub async fn read_lost(
    session: &mut Session,
    epoch: i64,
    within: std::time::Duration,
) -> Result<Vec<(String, i64)>, StoreError> {
    const WHAT: &str = "read what was on its way once";
    let query = session.call(include_str!("sql/once_lost.sql")).bind(epoch).bind(within.as_secs_f64());
    let rows = session.all(WHAT, query).await?;
    let read = |row: &PgRow| -> Result<(String, i64), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
    let lost: Result<Vec<(String, i64)>, sqlx::Error> = rows.iter().map(read).collect();
    lost.map_err(|e| StoreError::from_sqlx(WHAT, e))
}
