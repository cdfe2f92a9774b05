//! Retry: fetches deferred rows that are due and gives them to the sender, in turns with rows that enter from elsewhere.
//!
//! Owns the pace, and up to when everything that was due has been dealt with. One batch is on its way at a time; the
//! next is fetched when its settlement has been written, so a row is never fetched twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Beside, DeferredRows, Entrance, Settling, Term, TermEnd};
use crate::metrics::Operation;
use crate::store::deferred::{self, DueLimits};

/// How often due rows are looked for while any row is deferred and none leaves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often due rows are looked for while none is known: more may be scheduled than were counted.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// How often the whole index is looked at: somebody may have set the database's clock back, or a time by hand.
const LOOK_AT_ALL: Duration = Duration::from_secs(300);

/// For clocks that tick in steps.
const MARGIN_US: i64 = 10_000;

/// Due rows of one batch.
const HEADS: i64 = 500;

/// Rows of one key that go one after another in one batch. Many, so that a key that has become free catches up with
/// its service; `relay.page_bytes` bounds the batch.
const FOLLOWERS: i64 = 1000;

/// Fetches due rows until draining, or until the term is over.
pub(super) async fn retry(
    term: Term,
    beside: mpsc::Sender<Beside>,
    mut entrances: mpsc::Receiver<Entrance>,
    mut deferred_rows: watch::Receiver<DeferredRows>,
    settling: Arc<Settling>,
) -> Result<(), TermEnd> {
    let limits = DueLimits {
        heads: HEADS,
        followers: FOLLOWERS,
        max_row_bytes: i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX),
        bytes: term.config.page_bytes as i64,
        rows: (term.config.window_rows / 2).max(1) as i64,
    };
    let mut session = None;
    let mut pause = LOOK_EVERY;
    let mut left = 0;
    let mut since_us = 0;
    let mut looked_at_all = Instant::now();
    loop {
        crate::crash_point::work("retry");
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
        let entrance = tokio::select! {
            biased;
            () = term.drain.cancelled() => return Ok(()),
            Some(entrance) = entrances.recv() => Some(entrance),
            waited = waited => if waited.is_none() { return Ok(()) } else { None },
        };
        let (settled, is_settled) = oneshot::channel();
        if let Some(mut entrance) = entrance {
            if entrance.withdrawn.is_cancelled() {
                continue;
            }
            let asked = std::mem::replace(&mut entrance.settled, settled);
            if beside.send(Beside::Entrance(entrance)).await.is_err() {
                return Ok(());
            }
            // An error means that it was given up with the term; then `asked` is dropped as well.
            if let Ok(entered) = is_settled.await {
                let _ = asked.send(entered);
                // They are due. Without a look at once, page after page would enter and none would leave.
                left = 1;
            }
            continue;
        }
        if looked_at_all.elapsed() >= LOOK_AT_ALL {
            looked_at_all = Instant::now();
            since_us = 0;
        }
        let settling_since = settling.since();
        let fetched = async {
            if session.is_none() {
                session = Some(term.server.connect("retry").await?);
            }
            deferred::due(session.as_mut().expect("it was opened above"), &limits, since_us).await
        };
        let page = match fetched.await {
            Ok(page) => page,
            Err(error) => {
                session = None;
                term.metrics.database_error(Operation::Deferred);
                super::settle::refuse_or_wait(error, "retry", &mut pause, &term).await?;
                continue;
            }
        };
        pause = LOOK_EVERY;
        left = 0;
        // A settlement that was on its way may have written a time that lies before our look, and was not visible to it.
        let unseen_us = settling_since.elapsed().as_micros() as i64 + MARGIN_US;
        let dealt_with_us = page.dealt_with_us.min(page.clock_us - unseen_us).max(since_us);
        if page.rows.is_empty() {
            since_us = dealt_with_us;
            continue;
        }
        if beside.send(Beside::Due { rows: page.rows, settled }).await.is_err() {
            return Ok(());
        }
        // An error means that the batch was given up with the term.
        left = is_settled.await.map_or(0, |written| written.left);
        since_us = dealt_with_us;
    }
}
