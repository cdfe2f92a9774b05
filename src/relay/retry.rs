//! Retry: fetches deferred rows that are due and gives them to the sender.
//!
//! Owns only the pace. One batch is on its way at a time; the next is fetched when its settlement has been written,
//! so a row is never fetched twice.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::{DeferredRows, Due, Term, TermEnd};
use crate::metrics::Operation;
use crate::store::deferred::{self, DueLimits};

/// How often due rows are looked for while any row is deferred and none leaves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often due rows are looked for while none is known: more may be scheduled than were counted.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// Due keys (and rows without key) of one batch.
const HEADS: i64 = 500;

/// Rows of one key that go one after another in one batch. Many, so that a key that has become free catches up with
/// its service; `relay.page_bytes` bounds the batch.
const FOLLOWERS: i64 = 1000;

/// Fetches due rows until draining, or until the term is over.
pub(super) async fn retry(
    term: Term,
    due: mpsc::Sender<Due>,
    mut deferred_rows: watch::Receiver<DeferredRows>,
) -> Result<(), TermEnd> {
    let limits = DueLimits {
        heads: HEADS,
        followers: FOLLOWERS,
        max_row_bytes: i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX),
        bytes: term.config.page_bytes as i64,
    };
    let mut session = None;
    let mut pause = LOOK_EVERY;
    let mut left = 0;
    loop {
        // An outbox without deferred rows, as far as is known, is hardly ever asked.
        let waited = async {
            let known = deferred_rows.wait_for(|rows| !rows.is_empty());
            if let Ok(known) = tokio::time::timeout(LOOK_ANYWAY, known).await {
                known.map(|_| ()).ok()?;
            }
            if left == 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Some(())
        };
        tokio::select! {
            () = term.drain.cancelled() => return Ok(()),
            waited = waited => if waited.is_none() { return Ok(()) },
        }
        let fetched = async {
            if session.is_none() {
                session = Some(term.server.connect("retry").await?);
            }
            deferred::due(session.as_mut().expect("it was opened above"), &limits).await
        };
        let rows = match fetched.await {
            Ok(rows) => rows,
            Err(error) => {
                session = None;
                term.metrics.database_error(Operation::Deferred);
                super::settle::refuse_or_wait(error, "retry", &mut pause, &term).await?;
                continue;
            }
        };
        pause = LOOK_EVERY;
        left = 0;
        if rows.is_empty() {
            continue;
        }
        let (settled, is_settled) = oneshot::channel();
        if due.send(Due { rows, settled }).await.is_err() {
            return Ok(());
        }
        // An error means that the batch was given up with the term.
        left = is_settled.await.unwrap_or(0);
    }
}
