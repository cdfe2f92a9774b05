//! Compares what was published around trouble with the topics, without being asked: after a takeover with unknown results, after a
//! promotion of Postgres, after a producer's fatal error.
//!
//! Owns when, and which window. The comparison itself is the operators' command, in a process of its own: its reader's threads and
//! buffers would stay with the leader for good (from 35 to 220 MB after forty comparisons of 80,000 rows [measured], glibc keeps what
//! a new thread has once used), and reading must not hold up the others here. What it finds is written down and counted; nothing is
//! repaired, because somebody should look first. It never ends a term: a login that may not read the topics only goes without.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::{Term, TermEnd};
use crate::crash_point;
use crate::metrics::Operation;
use crate::reconcile::{Report, Window};
use crate::store::reconcile::{self as store, Recent};
use crate::store::{Session, StoreError};
use crate::telemetry::chain;

/// This very program, also while another version is being put in its place.
const OURSELVES: &str = "/proc/self/exe";

/// How far back what was settled is compared. A promotion may have lost the end of the ledger, the others a window at most.
const BACK: Duration = Duration::from_secs(60);
const BACK_OVER_A_PROMOTION: Duration = Duration::from_secs(600);

/// Ids of one window, the newest ones. Ten seconds of a fast relay: more could be read, but not without anybody noticing.
const IDS: i64 = 100_000;

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
#[derive(Clone)]
struct Affected {
    trouble: Trouble,
    window: Window,
    since: Instant,
    tries: u32,
}

/// Looks out for trouble until draining.
pub(super) async fn reconcile(term: Term) -> Result<(), TermEnd> {
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
            let ended = tokio::select! {
                () = term.drain.cancelled() => return Ok(()),
                ended = round(&term, happened, affected.clone()) => ended,
            };
            match ended {
                Ok(left) => (happened, affected) = (None, left),
                // Nothing is known of the window yet; the next round asks again.
                Err(error) => {
                    term.metrics.database_error(Operation::Reconcile);
                    tracing::debug!(error = chain(&error), "what has happened could not be looked at");
                }
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
    term: &Term,
    happened: Option<Trouble>,
    affected: Option<Affected>,
) -> Result<Option<Affected>, StoreError> {
    let mut session = term.server.connect("reconcile").await?;
    let affected = match (happened, affected) {
        (Some(trouble), known) => window_of(term, &mut session, trouble, known).await?,
        (None, known) => known,
    };
    let Some(mut affected) = affected else { return Ok(None) };
    let high = store::recent(&mut session, Duration::ZERO, term.epoch).await?.high;
    if high < affected.window.until && affected.since.elapsed() < PATIENCE {
        return Ok(Some(affected));
    }
    session.close().await;
    match compare(term, &affected).await {
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

/// What was published shortly before, and what may have been in flight; a window that is known already grows.
async fn window_of(
    term: &Term,
    session: &mut Session,
    trouble: Trouble,
    known: Option<Affected>,
) -> Result<Option<Affected>, StoreError> {
    let Recent { first_id, started, high, last_id } =
        store::recent(session, trouble.back(), term.epoch).await?;
    let came_to = if trouble == Trouble::Producer { high } else { started };
    // No more than a window can have been handed over behind it.
    let until = last_id.min(came_to.saturating_add(term.config.window_rows as i64));
    let first = if trouble == Trouble::Producer { Some(first_id.unwrap_or(started + 1)) } else { first_id };
    let from = first.unwrap_or(came_to + 1).max(until - IDS + 1);
    let (from, until, since) = match &known {
        None => (from, until, Instant::now()),
        Some(known) => (from.min(known.window.from), until.max(known.window.until), known.since),
    };
    if from > until {
        return Ok(known);
    }
    let window = Window { from: from.max(until - IDS + 1), until };
    Ok(Some(Affected { trouble, window, since, tries: 0 }))
}

/// Runs the command over the window, and says what it found. It notes that itself.
async fn compare(term: &Term, affected: &Affected) -> anyhow::Result<()> {
    let Window { from, until } = affected.window;
    let cause = affected.trouble.as_str();
    let mut command = Command::new(OURSELVES);
    command.arg("reconcile").args(["--from-id", &from.to_string(), "--until-id", &until.to_string()]);
    command.args(["--cause", cause, "--output", "json"]);
    if let Some(file) = &term.config_file {
        command.arg("--config").arg(file);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.context("start outbox-relay reconcile")?;
    let Ok(report) = serde_json::from_slice::<Report>(&output.stdout) else {
        let talk = String::from_utf8_lossy(&output.stderr);
        let last = talk.lines().last().unwrap_or_default().trim_start_matches("outbox-relay: ");
        bail!("outbox-relay reconcile ended with {}: {last}", output.status);
    };
    say(term, cause, &report);
    Ok(())
}

fn say(term: &Term, cause: &'static str, report: &Report) {
    let Report { from_id, until_id, verified, duplicates, missing, unaccounted, altered, .. } = report;
    if report.is_sound() {
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
    let first_id =
        [&report.missing_ids, &report.unaccounted_ids, &report.altered_ids].into_iter().flatten().next();
    tracing::error!(
        cause,
        from_id,
        until_id,
        missing,
        unaccounted,
        altered,
        first_id,
        "records are missing in kafka; outbox-relay reconcile with these ids and --repair publishes them"
    );
}
