//! `make drill`: do the alerts fire that should, in time, and no other page?
//!
//! Two real relays on a real Postgres and a real Kafka, scraped by a real Prometheus with the committed rules, whose alerts a real
//! Alertmanager with the committed configuration takes. One fault after the other; each has to fire its alert within its bound, and
//! whatever else would have paged somebody is counted. Ten quiet minutes come first. All durations of the rules are divided by one
//! factor (`deploy/monitoring/scaled.py`); the relay's own times are set short to match.
//!
//! Ends with a table on stdout and in `target/drill.md`, with the dashboards' queries on what was recorded, and with a preview of the
//! dashboards. Exit code 1 when something is not as it should be. Names of faults play only those; `--quiet 2m` is for the impatient.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report is what this program is for")]

mod faults;
mod ground;
mod prometheus;
mod report;
#[path = "../it/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::faults::Fault;
use crate::ground::Ground;
use crate::report::Report;

/// By which all durations of the rules are divided: an hour takes two minutes.
pub const FACTOR: u32 = 30;

fn main() -> ExitCode {
    let (mut quiet, mut names) = (Duration::from_secs(600), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quiet" => {
                let text = arguments.next().expect("--quiet needs a duration");
                quiet = humantime::parse_duration(&text).expect("a duration such as 2m");
            }
            name => names.push(name.to_owned()),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("a runtime").block_on(drill(quiet, &names))
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that `make drill` sets up, or the machine's.
pub fn python() -> PathBuf {
    let own = root().join("target/python/bin/python3");
    if own.exists() { own } else { "python3".into() }
}

async fn drill(quiet: Duration, names: &[String]) -> ExitCode {
    let mut wanted: Vec<Fault> = faults::all();
    for name in names {
        let known: Vec<&str> = wanted.iter().map(|fault| fault.name).collect();
        assert!(known.contains(&name.as_str()), "there is no fault {name}; there are {known:?}");
    }
    wanted.retain(|fault| names.is_empty() || names.iter().any(|name| name == fault.name));
    let mut ground = Ground::start().await;
    let mut report = Report::new(quiet);
    report.quiet = faults::keep_quiet(&ground, quiet).await;
    for fault in &wanted {
        eprintln!("drill: {}", fault.name);
        let played = faults::play(&mut ground, fault).await;
        eprintln!("drill: {}", played.line());
        report.played.push(played);
    }
    let preview = root().join("target/dashboards-preview.svg");
    let live = Command::new(python())
        .arg(root().join("deploy/monitoring/live.py"))
        .args([&ground.prometheus.url(), &FACTOR.to_string()])
        .arg(&preview)
        .output()
        .expect("python3 starts");
    report.dashboards = String::from_utf8_lossy(&live.stdout).into_owned();
    report.dashboards_hold = live.status.success() || !names.is_empty();
    eprint!("{}", String::from_utf8_lossy(&live.stderr));
    let text = report.text();
    println!("{text}");
    std::fs::create_dir_all(root().join("target")).expect("target can be made");
    std::fs::write(root().join("target/drill.md"), &text).expect("target can be written");
    ground.end().await;
    if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
