//! `outbox-relay reconcile`: is everything that was committed really in Kafka? And if not: publish what is missing.

use std::process::ExitCode;

use anyhow::{Context, bail};

use super::carry_out::carry_out;
use super::print;
use super::progress::Progress;
use super::table::{facts, time};
use super::talk::say;
use crate::cli::operate::{Change, ReconcileOptions};
use crate::config::Config;
use crate::daemon;
use crate::kafka::{Auditor, Topics};
use crate::reconcile::{Reconcile, Report, Window};
use crate::store::ask::Ask;
use crate::store::reconcile::{self as store, Bounds, Note};
use crate::store::replay::{self, SLACK_SECONDS};
use crate::store::{Session, StoreError};

/// Something is missing, unaccounted for or altered.
const NOT_SOUND: u8 = 4;

/// Ids of one repair.
const REPAIR: usize = 10_000;

/// Compares, says what it found, notes it, and repairs if that is asked for.
pub async fn run(
    session: &mut Session,
    config: &Config,
    options: ReconcileOptions,
) -> anyhow::Result<ExitCode> {
    let bounds = store::bounds(session).await?;
    let Some(window) = window(session, &bounds, &options).await? else {
        say(
            "no row is left to compare: everything is older than retention.published, or nothing was written",
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    let settings = daemon::kafka_settings(config);
    let mut reconcile = Reconcile {
        auditor: Auditor::start(&settings, &config.kafka.header_event_id, &config.kafka.header_seq)?,
        topics: Topics::start(&settings)?,
        payloads: bounds.payloads,
        session: &mut *session,
    };
    let mut progress = Progress::begin(Some(window.until - window.from + 1));
    // Nobody may be there to be told.
    let told = |id: i64| drop(progress.is_at(id - window.from + 1));
    let compared = reconcile.run(window, told).await;
    progress.end();
    let report = compared.context("the comparison could not be finished, and nothing was noted")?;
    note(session, &bounds, options.cause.as_deref(), &report).await?;
    print::found(options.show.output, &report, || as_text(&report))?;
    if options.repair && !report.missing_ids.is_empty() {
        return repair(session, &report, &options).await;
    }
    if report.missing > 0 {
        say(
            "outbox-relay reconcile --repair publishes what is missing, with the same --from-id and --until-id",
        )?;
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(NOT_SOUND) })
}

/// Which ids are meant. `None`: no row is left. Fails on a window of which nothing is left, and says what there is.
async fn window(
    session: &mut Session,
    bounds: &Bounds,
    options: &ReconcileOptions,
) -> anyhow::Result<Option<Window>> {
    let Some((first, first_at)) = &bounds.first else { return Ok(None) };
    let by_id = options.from_id.is_some() || options.until_id.is_some();
    let from = match (options.from_id, &options.from) {
        (Some(id), _) => id,
        (None, Some(text)) => id_of(session, text, -SLACK_SECONDS).await?,
        (None, None) if options.all || by_id || options.until.is_some() => *first,
        (None, None) => id_of(session, "1h", -SLACK_SECONDS).await?,
    };
    let until = match (options.until_id, &options.until) {
        (Some(id), _) => id,
        // Rather some rows too many than one too few.
        (None, Some(text)) => id_of(session, text, SLACK_SECONDS).await? - 1,
        (None, None) => bounds.last_id,
    };
    let left = format!("what is left begins with id {first}, written at {}", time(first_at));
    if until < *first {
        bail!("nothing is left of that window, it is older than retention.published; {left}");
    }
    if from > until {
        bail!(
            "the window is empty: it begins with id {from} and ends with id {until}; the newest id is {}",
            bounds.last_id
        );
    }
    if from < *first && (options.from_id.is_some_and(|id| id > 1) || options.from.is_some()) {
        say(&format!("the window begins before the oldest row; {left}"))?;
    }
    Ok(Some(Window { from: from.max(*first), until: until.min(bounds.last_id) }))
}

async fn id_of(session: &mut Session, text: &str, slack: f64) -> anyhow::Result<i64> {
    let found = replay::first_id_since(session, &replay::time(text), slack).await;
    found.map_err(|error| match error.unreadable() {
        Some(reason) => {
            anyhow::anyhow!("{reason}; a time is written 2026-01-31T12:00:00Z, or 2h for two hours ago")
        }
        None => error.into(),
    })
}

/// Whoever may only look cannot note what they have seen, and is told so.
async fn note(
    session: &mut Session,
    bounds: &Bounds,
    cause: Option<&str>,
    report: &Report,
) -> anyhow::Result<()> {
    let noted = store::note(
        session,
        &Note {
            cause: cause.unwrap_or("asked"),
            begun_at: &bounds.now,
            from_id: report.from_id,
            until_id: report.until_id,
            missing: report.missing + report.unaccounted,
            duplicates: report.duplicates,
            report: serde_json::to_string(report)?,
        },
    )
    .await;
    match noted {
        Ok(_) => Ok(()),
        Err(StoreError::Unusable(why)) => {
            say(&format!("not noted in outbox.reconciliation, so no metric will show it: {why}"))?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn repair(
    session: &mut Session,
    report: &Report,
    options: &ReconcileOptions,
) -> anyhow::Result<ExitCode> {
    let change = Change {
        dry_run: options.dry_run,
        yes: options.yes,
        no_wait: false,
        why: Some(format!("reconcile of ids {} to {}", report.from_id, report.until_id)),
    };
    for ids in report.missing_ids.chunks(REPAIR) {
        let would =
            format!("publish {} missing messages, ids {} to {}", ids.len(), ids[0], ids[ids.len() - 1]);
        let ended = carry_out(session, Ask::repair(ids), &change, &would, Some(ids.len() as i64)).await?;
        if ended != ExitCode::SUCCESS {
            return Ok(ended);
        }
    }
    say("run the same reconcile again once they are through, to see that nothing is missing any more")?;
    let was_all =
        report.missing == report.missing_ids.len() as i64 && report.altered + report.unaccounted == 0;
    Ok(if was_all { ExitCode::SUCCESS } else { ExitCode::from(NOT_SOUND) })
}

fn as_text(report: &Report) -> String {
    let ids = |count: i64, ids: &[i64]| match ids {
        [] => count.to_string(),
        [first, ..] => format!("{count}, the first is {first}"),
    };
    let mut lines = vec![
        ("window", format!("ids {} to {}", report.from_id, report.until_id)),
        (
            "rows",
            format!("{} ({} ids without a row: rolled back, skipped or removed)", report.rows, report.gaps),
        ),
        ("published", report.published.to_string()),
        ("  verified", report.verified.to_string()),
        ("  removed by retention", report.removed.to_string()),
        ("  compacted", report.compacted.to_string()),
        ("  offset unknown", report.unverified.to_string()),
        ("  at another offset", ids(report.moved, &report.moved_ids)),
        ("  altered", ids(report.altered, &report.altered_ids)),
        ("  missing", ids(report.missing, &report.missing_ids)),
        ("unaccounted", ids(report.unaccounted, &report.unaccounted_ids)),
        ("not yet published", format!("{} waiting, {} put off", report.pending, report.deferred)),
        (
            "ended otherwise",
            format!("{} dead, {} expired, {} dropped", report.dead, report.expired, report.dropped),
        ),
        ("duplicates", report.duplicates.to_string()),
        ("replayed copies", report.replayed.to_string()),
        ("foreign records", report.foreign.to_string()),
    ];
    if let Some((topic, partition, offset)) = report.foreign_places.first() {
        lines.push(("", format!("the first is in {topic}, partition {partition}, offset {offset}")));
    }
    if let (Some(event), Some(events)) = (report.shared.first(), report.shared_event_ids) {
        lines.push((
            "shared event ids",
            format!("{events} event ids belong to several rows, the first is {event}"),
        ));
    }
    let what = if report.compared_payloads { "event ids, keys and payloads" } else { "event ids and keys" };
    lines.push(("compared", what.to_owned()));
    let verdict = match (report.is_sound(), report.missing + report.unaccounted) {
        (true, _) => "nothing is missing".to_owned(),
        (false, 0) => format!("{} RECORDS ARE ALTERED", report.altered),
        (false, lost) => format!("{lost} MESSAGES ARE MISSING"),
    };
    lines.push(("verdict", verdict));
    facts(&lines)
}
