//! Gathers what the status page shows of the database, on a connection of its own that is open only while somebody looks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Board, Found};
use crate::store::inspect;
use crate::store::{Server, Session, StoreError};
use crate::telemetry::chain;

/// How often is asked while somebody looks.
const EVERY: Duration = Duration::from_secs(2);
/// Counting deferred rows may take long: the next round comes after so many times as long.
const REST: u32 = 20;
/// Causes of dead letters, and leases, on the page.
const SHOWN: usize = 10;

/// Gathers for ever, while somebody looks. Nothing that fails ends it. `ttl` is `lease.ttl`.
pub async fn gather(
    server: watch::Receiver<Server>,
    board: Arc<Board>,
    ttl: Duration,
) -> Result<(), Infallible> {
    let mut session: Option<Session> = None;
    loop {
        crate::crash_point::work("board");
        if !board.is_looked_at() {
            if let Some(session) = session.take() {
                session.close().await;
            }
            board.asked.notified().await;
        }
        let began = Instant::now();
        let found = async {
            if session.is_none() {
                let server = server.borrow().clone();
                session = Some(server.connect("board").await?);
            }
            find(session.as_mut().expect("it was opened above"), ttl).await
        };
        let found = found.await;
        if found.is_err() {
            session = None;
        }
        board.tell(found.map_err(|error| chain(&error)));
        tokio::time::sleep(EVERY.max(REST * began.elapsed())).await;
    }
}

async fn find(session: &mut Session, ttl: Duration) -> Result<Found, StoreError> {
    let status = inspect::status(session, ttl).await?;
    let mut groups = inspect::letter_groups(session).await?;
    groups.truncate(SHOWN);
    Ok(Found { status, groups, terms: inspect::lease(session).await?.history })
}
