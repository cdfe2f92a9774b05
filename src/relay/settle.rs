//! Settle: decided batches into the ledger, in order, several at once.
//!
//! Owns the settlement's number (seq) and the last settled position. A settlement that got no answer is sent again
//! byte for byte until it has one: it may have been written. Anything new takes the next number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Decided, Entering, Settled, Settling, Term, TermEnd, Written};
use crate::crash_point;
use crate::health::Loop;
use crate::metrics::Operation;
use crate::position::Position;
use crate::store::settle::{Outcome, Settlement};
use crate::store::{Session, StoreError};
use crate::telemetry::chain;

/// A decided batch waits for company at most this long: one settlement per message would be a trickle's whole cost.
const COMPANY: Duration = Duration::from_millis(50);

/// Marks that are not durable are at most this old, so that a crash of Postgres repeats little.
const DURABLE_EVERY: Duration = Duration::from_millis(500);

/// Somebody with SQL, or the retention of dead letters.
const LEFT_OUT: &str = "rows were changed or deleted by somebody else, the settlement went on without them";

/// Writes settlements until the sender has no more, or the term is over.
pub(super) async fn settle(
    term: Term,
    mut position: Position,
    mut decided: mpsc::Receiver<Decided>,
    settled: mpsc::Sender<Settled>,
    settling: Arc<Settling>,
) -> Result<(), TermEnd> {
    let running = term.health.running(Loop::Settle);
    let mut session = None;
    let mut seq = 0;
    let mut durable_at = Instant::now();
    let mut wrote_at = Instant::now();
    while let Some(batches) = company(&mut decided, wrote_at + COMPANY, term.config.page_rows, &running).await
    {
        crash_point::work("settle");
        let mut outcome = Outcome::default();
        let mut freed = Settled::default();
        let mut waiting = Vec::new();
        let mut entering = Vec::new();
        let mut moved = false;
        for batch in batches {
            outcome.published.extend(batch.outcome.published);
            outcome.expired.extend(batch.outcome.expired);
            outcome.dropped.extend(batch.outcome.dropped);
            outcome.rare.extend(batch.outcome.rare);
            outcome.deferred.extend(batch.outcome.deferred);
            let left = batch.left;
            freed.gone += left;
            outcome.departed.extend(batch.outcome.departed);
            if let Some(next) = batch.position {
                position = next;
                moved = true;
            }
            freed.rows += batch.rows;
            freed.bytes += batch.bytes;
            freed.departed.extend(batch.departed);
            freed.once.extend((!batch.once.is_empty()).then_some(batch.once));
            entering.extend(batch.entering);
            waiting.extend(batch.settled.map(|waiter| (waiter, left)));
        }
        let durable = term.config.durable_marks || durable_at.elapsed() >= DURABLE_EVERY;
        let settlement =
            Settlement::new(term.epoch, seq + 1, term.token, durable, position.clone(), moved, outcome);
        crash_point::reach(crash_point::AFTER_CONFIRM);
        settling.begin();
        let lacking: Arc<[i64]> = write(&term, &mut session, &settlement).await?.into();
        settling.end();
        if !lacking.is_empty() {
            let (rows, first_id) = (lacking.len(), lacking[0]);
            tracing::warn!(rows, first_id, "{LEFT_OUT}");
            // They were counted as waiting, and are not: no key may wait for them.
            for row in entering.into_iter().filter(|row: &Entering| lacking.contains(&row.id)) {
                freed.gone += 1;
                freed.departed.extend((!row.scheduled).then_some((row.topic, row.key)));
            }
        }
        seq = settlement.last_seq();
        crash_point::reach(crash_point::AFTER_SETTLEMENT);
        wrote_at = Instant::now();
        if settlement.is_durable() {
            durable_at = wrote_at;
        }
        // Nobody waits any more when the sender or the retry loop has ended.
        let _ = settled.send(freed).await;
        for (waiter, left) in waiting {
            let _ = waiter.send(Written { left, lacking: Arc::clone(&lacking) });
        }
    }
    if let Some(session) = session {
        session.close().await;
    }
    Ok(())
}

/// The next batches: the first as soon as it comes, and with it what comes until `until`, or a page's worth.
async fn company(
    decided: &mut mpsc::Receiver<Decided>,
    until: Instant,
    enough: usize,
    running: &crate::health::Running,
) -> Option<Vec<Decided>> {
    let first = loop {
        running.tick();
        tokio::select! {
            first = decided.recv() => break first?,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    };
    let mut rows = first.rows;
    // Somebody waits for the settlement of due rows.
    let mut urgent = first.settled.is_some() || !first.once.is_empty();
    let mut batches = vec![first];
    while rows < enough && !urgent {
        match tokio::time::timeout_at(until.into(), decided.recv()).await {
            Ok(Some(next)) => {
                rows += next.rows;
                urgent = next.settled.is_some() || !next.once.is_empty();
                batches.push(next);
            }
            Ok(None) | Err(_) => break,
        }
    }
    Some(batches)
}

/// Returns the ids that it went on without.
async fn write(
    term: &Term,
    session: &mut Option<Session>,
    settlement: &Settlement,
) -> Result<Vec<i64>, TermEnd> {
    let mut pause = Duration::from_millis(100);
    loop {
        term.health.tick(Loop::Settle);
        let started = Instant::now();
        let written = async {
            if session.is_none() {
                *session = Some(term.server.connect("settle").await?);
            }
            let session = session.as_mut().expect("it was opened above");
            if crash_point::due(crash_point::INSIDE_SETTLEMENT) {
                // Long enough for the statement to be on its way, too short for its answer to matter.
                let _ = tokio::time::timeout(Duration::from_millis(2), settlement.write(session)).await;
                crash_point::crash();
            }
            settlement.write(session).await
        };
        let error = match written.await {
            Ok(lacking) => {
                term.metrics.database_seconds(Operation::Settle, started.elapsed().as_secs_f64());
                return Ok(lacking);
            }
            Err(error) => error,
        };
        // What the server still does with the old statement is its business: it settles once or not at all.
        *session = None;
        term.metrics.database_error(Operation::Settle);
        if matches!(error, StoreError::LeaseLost) {
            tracing::warn!(
                epoch = term.epoch,
                "deposed leader settled nothing, another relay holds the lease"
            );
        }
        refuse_or_wait(error, "settle", &mut pause, term).await?;
    }
}

/// Ends the term if the error says so; otherwise says it, waits `pause` and doubles it.
pub(super) async fn refuse_or_wait(
    error: StoreError,
    doing: &'static str,
    pause: &mut Duration,
    term: &Term,
) -> Result<(), TermEnd> {
    if error.ends_the_term() {
        return Err(error.into());
    }
    if !term.trust.holds() {
        return Err(TermEnd::TrustRanOut);
    }
    let reason = chain(&error);
    match error {
        // The server's own refusal of a statement: it will not go away by itself.
        StoreError::Failed { .. } => tracing::error!(doing, error = reason, "postgres refused, trying again"),
        _ => tracing::warn!(doing, error = reason, "postgres failed, trying again"),
    }
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(Duration::from_secs(2));
    Ok(())
}
