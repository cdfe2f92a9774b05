//! A model of the relay's core against simulated Postgres and simulated Kafka: one seed, one schedule.
//!
//! Nobody waits here and no clock is read: a scheduler picks who does the next step, and every fault comes between any two of them.
//! `OUTBOX_RELAY_TEST_SEED=<n>` runs one schedule and prints its trace (`OUTBOX_RELAY_MODEL_BUG=<name>` with that bug seeded);
//! `OUTBOX_RELAY_MODEL_SEEDS=<n>` runs that many.
//! The pure rules are called (`position`, `ordering`, `verdict`, `message`, `partition`, `backoff`, and `leader`'s claim and watch), the loops
//! around them are modelled. Not modelled: expired rows, at-most-once, rates, requests, cleaning, standbys.

mod bugs;
mod check;
mod dice;
mod kafka;
mod postgres;
mod relay;
mod schedule;
mod trace;
mod truth;
mod writers;

use std::io::Write;
use std::time::Instant;

use self::bugs::Bug;
use self::schedule::{Report, run};

/// Seeds that a seeded bug may take to be found.
const BITES_WITHIN: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs one schedule with its trace.
fn replay(seed: u64, bug: Option<Bug>) {
    let report = run(seed, bug, true);
    say(&format!("seed {seed}: events, records, duplicates, dead, crashes, takeovers {:?}", report.counts));
    let shown = &report.problems[..report.problems.len().min(20)];
    assert!(report.problems.is_empty(), "seed {seed}:\n{}", shown.join("\n"));
}

#[test]
fn every_schedule_keeps_the_promises() {
    let named = std::env::var("OUTBOX_RELAY_MODEL_BUG").ok();
    let bug = named.map(|name| {
        let known = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
        known.unwrap_or_else(|| panic!("there is no bug {name} among {:?}", Bug::ALL))
    });
    if let Some(seed) = number("OUTBOX_RELAY_TEST_SEED") {
        return replay(seed, bug);
    }
    let seeds = number("OUTBOX_RELAY_MODEL_SEEDS").unwrap_or(300);
    let (begun, mut sums, mut failed) = (Instant::now(), [0; 6], Vec::new());
    for seed in 0..seeds {
        let Report { problems, counts, .. } = run(seed, bug, false);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        if !problems.is_empty() {
            let (shown, all) = (&problems[..problems.len().min(3)], problems.len());
            failed.push(format!("OUTBOX_RELAY_TEST_SEED={seed}: {} ({all} in all)", shown.join("; ")));
        }
    }
    let [events, records, duplicates, dead, crashes, takeovers] = sums;
    say(&format!(
        "{seeds} schedules in {:.1} s: {events} events, {records} records, {duplicates} duplicates, {dead} dead letters, \
         {crashes} crashes of the server, {takeovers} takeovers",
        begun.elapsed().as_secs_f64()
    ));
    let shown: Vec<&str> = failed.iter().take(10).map(String::as_str).collect();
    assert!(failed.is_empty(), "{} of {seeds} schedules failed:\n{}", failed.len(), shown.join("\n"));
}

#[test]
fn every_seeded_bug_is_found() {
    if number("OUTBOX_RELAY_TEST_SEED").is_some() {
        return;
    }
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let found = (0..BITES_WITHIN).find_map(|seed| {
            let problem = run(seed, Some(bug), false).problems.into_iter().next()?;
            Some((seed, problem))
        });
        match found {
            Some((seed, problem)) => say(&format!("{bug:?} is found by seed {seed}: {problem}")),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found within {BITES_WITHIN} seeds: {missed:?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 2, 3] {
        let (one, two) = (run(seed, None, false), run(seed, None, false));
        assert_eq!((one.hash, one.counts, one.problems), (two.hash, two.counts, two.problems), "seed {seed}");
    }
}
