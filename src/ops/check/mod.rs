//! `outbox-relay check`: everything that a relay needs, one line each, and what to do where it is missing.
//!
//! Owns the order of looking and the time that it may take. It changes nothing and leaves nothing behind. Postgres and Kafka
//! are looked at side by side, then what needs them.

mod config;
mod kafka;
mod lease;
mod postgres;
mod report;
mod topics;
mod work;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::report::{Group, Report, State};
use super::print;
use super::talk::say;
use crate::cli::check::CheckOptions;
use crate::config::Config;
use crate::store::StoreError;
use crate::telemetry::chain;

/// How long `config validate` tries.
const REACH: Duration = Duration::from_secs(10);

/// Between two looks of `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks, and shows what was found.
pub async fn run(file: Option<&Path>, options: CheckOptions) -> anyhow::Result<ExitCode> {
    let (group, config) = config::look(file);
    let Some(config) = config else {
        let cause = group.cause().unwrap_or_default();
        let rest = [postgres::CHECKS, kafka::CHECKS, lease::CHECKS, work::CHECKS, topics::CHECKS];
        let rest = ["postgres", "kafka", "lease", "work", "topics"].into_iter().zip(rest);
        let groups =
            std::iter::once(group).chain(rest.map(|(name, checks)| passed_over(name, checks, &cause)));
        show(options, &Report::of(groups.collect()))?;
        return Ok(ExitCode::from(2));
    };
    let end = Instant::now() + options.wait.unwrap_or_default().max(options.timeout);
    let mut said = None;
    let report = loop {
        let time = options.timeout.min(end.saturating_duration_since(Instant::now()));
        let report = Box::pin(look(group.clone(), &config, &Deadline::within(time))).await;
        let waits = options.wait.is_some() && Instant::now() + PAUSE < end;
        let Some(failure) = report.first_failure().filter(|_| waits) else { break report };
        if said.as_ref() != Some(&failure) {
            say(&format!("not yet: {failure}"))?;
            said = Some(failure);
        }
        tokio::time::sleep(PAUSE).await;
    };
    show(options, &report)?;
    let fails = report.verdict == State::Fail || (options.strict && report.verdict == State::Warn);
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Sees whether Postgres and Kafka can be reached and used, and nothing else: what `config validate` wants to know.
pub async fn reach(config: &Config) -> anyhow::Result<ExitCode> {
    let deadline = Deadline::within(REACH);
    let ((postgres, session), (kafka, _)) =
        tokio::join!(postgres::look(config, &deadline), kafka::look(config, &deadline));
    if let Some(session) = session {
        session.close().await;
    }
    let report = Report::of(vec![postgres, kafka]);
    print::data(&report.as_text(print::takes_colours()))?;
    Ok(if report.verdict == State::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(options: CheckOptions, report: &Report) -> anyhow::Result<()> {
    print::found(options.show.output, report, || report.as_text(print::takes_colours()))
}

async fn look(configuration: Group, config: &Config, deadline: &Deadline) -> Report {
    // What Postgres alone can tell does not wait for brokers that do not answer.
    let database = async {
        let (group, mut session) = postgres::look(config, deadline).await;
        let mut read = None;
        if let Some(session) = &mut session {
            read = Some((lease::read(session, deadline).await, work::look(config, session, deadline).await));
        }
        (group, session.zip(read))
    };
    let ((postgres, read), (kafka, reached)) = tokio::join!(database, kafka::look(config, deadline));
    let needs = |group: &Group| group.cause().unwrap_or_else(|| format!("needs {}", group.group));
    let Some((mut session, (lease, work))) = read else {
        let why = needs(&postgres);
        let rest = [("lease", lease::CHECKS), ("work", work::CHECKS), ("topics", topics::CHECKS)];
        let rest = rest.map(|(name, checks)| passed_over(name, checks, &why));
        end(reached).await;
        return Report::of([configuration, postgres, kafka].into_iter().chain(rest).collect());
    };
    let no_cluster = needs(&kafka);
    let cluster = reached.as_ref().map(|kafka| kafka.cluster_id.as_str()).ok_or(no_cluster.as_str());
    let lease = lease::judge(config, lease, cluster);
    let topics = match &reached {
        None => passed_over("topics", topics::CHECKS, &no_cluster),
        Some(kafka) => topics::look(config, &mut session, kafka, deadline).await,
    };
    session.close().await;
    end(reached).await;
    Report::of(vec![configuration, postgres, kafka, lease, work, topics])
}

async fn end(reached: Option<kafka::Reached>) {
    if let Some(kafka) = reached {
        kafka.examiner.end().await;
    }
}

fn passed_over(name: &'static str, checks: &'static [&'static str], why: &str) -> Group {
    let mut group = Group::new(name, checks);
    group.because(why);
    group.finish()
}

/// An error of Postgres as one line.
fn said(error: &StoreError) -> String {
    chain(error)
}

/// Until when a look has to be over.
struct Deadline {
    end: Instant,
    /// How long it was at the beginning, for people.
    time: Duration,
}

impl Deadline {
    fn within(time: Duration) -> Deadline {
        Deadline { end: Instant::now() + time, time }
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// The answer, or `None` when it does not come in time.
    async fn within_time<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.end.into(), answer).await.ok()
    }

    fn shown(&self) -> humantime::FormattedDuration {
        // What is left of a wait is no round number.
        humantime::format_duration(Duration::from_millis(100 * self.time.as_millis().div_ceil(100) as u64))
    }
}
