//! Compares what was published around trouble with the topics, without being asked: after a takeover with unknown results, after a
//! promotion of Postgres, after a producer's fatal error.
//!
//! Owns when, and which window. What it finds is written down and counted ([`crate::reconcile`] judges); it repairs nothing, because
//! somebody should look first, and it never ends a term: a login that may not read the topics only goes without.

use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use super::{Term, TermEnd};
use crate::crash_point;
use crate::kafka::{Auditor, Topics};
use crate::metrics::Operation;
use crate::reconcile::{Reconcile, Report, Window};
use crate::store::reconcile::{self as store, Note, Recent};
use crate::store::{Session, StoreError};
use crate::task;
use crate::telemetry::chain;

/// How far back what was settled is compared. A promotion may have lost the end of the ledger, the others a window at most.
const BACK: Duration = Duration::from_secs(60);
const BACK_OVER_A_PROMOTION: Duration = Duration::from_secs(600);

/// Ids of one window, the newest ones. Ten seconds of a fast relay: more could be read, but not without anybody noticing.
const IDS: i64 = 100_000;

/// Rows of one stretch: a few MB beside the window.
const STRETCH: i64 = 10_000;

/// Between two looks at what has happened, and how often a window is tried.
const LOOK: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

/// How long the rows of a window may take to be settled until it is compared as it is.
const PATIENCE: Duration = Duration::from_secs(300);

/// What has happened, as `outbox.reconciliation.cause` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The last holder fell silent: nobody knows what it had in flight.
    Takeover,
    /// Postgres goes on elsewhere, perhaps without its last commits.
    Promotion,
    /// A producer ended with records in flight.
    Producer,
}

impl Trouble {
    fn as_str(self) -> &'static str {
        match self {
            Trouble::Takeover => "takeover",
            Trouble::Promotion => "promotion",
            Trouble::Producer => "producer",
        }
    }

    fn back(self) -> Duration {
        if self == Trouble::Promotion { BACK_OVER_A_PROMOTION } else { BACK }
    }
}

/// A window that is to be compared.
struct Affected {
    trouble: Trouble,
    window: Window,
    since: Instant,
    tries: u32,
}

/// Looks out for trouble until draining.
pub(super) async fn reconcile(term: Term, topics: Topics) -> Result<(), TermEnd> {
    let mut happened = term.trouble;
    let mut affected: Option<Affected> = None;
    let mut replaced = term.metrics.producer_replaced.get();
    let every = LOOK.min(term.retention.every);
    loop {
        crash_point::work("reconcile");
        let now_replaced = term.metrics.producer_replaced.get();
        if now_replaced > replaced {
            happened.get_or_insert(Trouble::Producer);
        }
        replaced = now_replaced;
        if happened.is_some() || affected.is_some() {
            // On a task of its own: reading topics blocks, and the others of this term must not notice.
            let round = round(term.clone(), topics.clone(), happened, affected.take());
            let round = AbortOnDropHandle::new(tokio::spawn(task::named("reconcile", round)));
            let ended = tokio::select! {
                () = term.drain.cancelled() => return Ok(()),
                ended = round => ended,
            };
            match ended {
                Ok(Ok(left)) => (happened, affected) = (None, left),
                // Nothing is known of the window yet; the next round asks again.
                Ok(Err(error)) => {
                    term.metrics.database_error(Operation::Reconcile);
                    tracing::debug!(error = chain(&error), "what has happened could not be looked at");
                }
                Err(error) => tracing::debug!(error = %error, "the comparison with kafka was given up"),
            }
        }
        tokio::select! {
            () = term.drain.cancelled() => return Ok(()),
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Finds the window of what has happened, and compares it once its rows are settled. Returns what is still to be compared.
async fn round(
    term: Term,
    topics: Topics,
    happened: Option<Trouble>,
    affected: Option<Affected>,
) -> Result<Option<Affected>, StoreError> {
    let mut session = term.server.connect("reconcile").await?;
    let affected = match (happened, affected) {
        (Some(trouble), known) => window_of(&mut session, trouble, known).await?,
        (None, known) => known,
    };
    let Some(mut affected) = affected else { return Ok(None) };
    let high = store::recent(&mut session, Duration::ZERO).await?.high;
    if high < affected.window.until && affected.since.elapsed() < PATIENCE {
        return Ok(Some(affected));
    }
    match compare(&term, topics, &mut session, &affected).await {
        Ok(()) => Ok(None),
        Err(error) => {
            affected.tries += 1;
            let Window { from, until } = affected.window;
            if affected.tries < TRIES {
                return Ok(Some(affected));
            }
            tracing::warn!(
                from_id = from,
                until_id = until,
                cause = affected.trouble.as_str(),
                error = chain(error.as_ref()),
                "records could not be compared with their receipts; outbox-relay reconcile does it with a login that may read the topics"
            );
            Ok(None)
        }
    }
}

/// What was published shortly before, and all that is there now; a window that is known already grows.
async fn window_of(
    session: &mut Session,
    trouble: Trouble,
    known: Option<Affected>,
) -> Result<Option<Affected>, StoreError> {
    let Recent { first_id, last_id, .. } = store::recent(session, trouble.back()).await?;
    let known_from = known.as_ref().map(|known| known.window.from);
    let from = first_id.into_iter().chain(known_from).min();
    let Some(from) = from.filter(|from| *from <= last_id) else { return Ok(known) };
    let window = Window { from: from.max(last_id - IDS + 1), until: last_id };
    Ok(Some(Affected { trouble, window, since: Instant::now(), tries: 0 }))
}

async fn compare(
    term: &Term,
    topics: Topics,
    session: &mut Session,
    affected: &Affected,
) -> anyhow::Result<()> {
    let names = &term.stamp.names;
    let bounds = store::bounds(session).await?;
    let mut reconcile = Reconcile {
        auditor: Auditor::start(&term.kafka, &names.event_id, &names.seq)?,
        topics,
        payloads: bounds.payloads,
        stretch: STRETCH,
        session: &mut *session,
    };
    let report = reconcile.run(affected.window, |_| {}).await?;
    let cause = affected.trouble.as_str();
    say(term, cause, &report);
    let Report { from_id, until_id, duplicates, .. } = report;
    let missing = report.missing + report.unaccounted;
    let note = Note {
        cause,
        begun_at: &bounds.now,
        from_id,
        until_id,
        missing,
        duplicates,
        report: serde_json::to_string(&report)?,
    };
    store::note(session, &note).await?;
    Ok(())
}

fn say(term: &Term, cause: &'static str, report: &Report) {
    let Report { from_id, until_id, verified, duplicates, missing, .. } = report;
    if *missing == 0 {
        tracing::info!(
            cause,
            from_id,
            until_id,
            verified,
            duplicates,
            "receipts compared with kafka, nothing is missing"
        );
        return;
    }
    term.metrics.loss_incidents.inc();
    let first_id = report.missing_ids.first();
    tracing::error!(
        cause,
        from_id,
        until_id,
        missing,
        first_id,
        "records are missing in kafka; outbox-relay reconcile --from-id {from_id} --until-id {until_id} --repair publishes them"
    );
}
