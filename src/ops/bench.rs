//! `outbox-relay bench`: how many messages a second go through here, how fast, and what limits them.
//!
//! Owns the order of things: look, ask, make a topic, write at rising rates, wait for everything, take it all away, report.
//! `ground` makes and takes away, `load` writes and listens, `limit` judges what a step that was too much was limited by.
//! Whatever happens after the first row was written, the rows and the topic are taken away, or it is said how to do that.

mod ground;
mod limit;
mod load;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::ground::Ground;
use self::limit::Watch;
use self::load::Load;
use self::report::{Report, Step};
use super::talk::{agreed, say};
use super::{http, print};
use crate::cli::bench::BenchOptions;
use crate::config::Config;
use crate::daemon;
use crate::store::Session;
use crate::store::bench::{self as store, Shape};
use crate::store::inspect::{self, Overview};

/// Before the first step that counts: connections, plans and caches.
const WARM_UP: Duration = Duration::from_secs(1);
/// A rate counts as sustained if what is on its way at the end of a step is no more than was written in this time.
const LAG: Duration = Duration::from_millis(500);
/// And if so much of it was written: writers that are late do not write at that rate.
const WRITTEN: f64 = 0.95;

/// Measures, and takes everything away.
pub async fn run(session: &mut Session, config: &Config, options: BenchOptions) -> anyhow::Result<ExitCode> {
    if options.from_rate > options.to_rate {
        bail!("--from-rate {} is above --to-rate {}", options.from_rate, options.to_rate);
    }
    let rights = store::rights(session).await?;
    if !rights.write || !rights.delete {
        bail!(
            "this login may not insert into outbox.message and delete from it; bench writes messages of its own and deletes them \
             again: run it as a member of outbox_owner, or as a superuser"
        );
    }
    let overview = inspect::overview(session).await?;
    let is_led = is_led(&overview, config);
    let waiting = overview.ready + overview.laned + overview.retrying + overview.behind;
    if !is_led && waiting > 0 {
        bail!(
            "no relay leads and {waiting} messages wait: a relay that bench starts would publish them. Start yours \
             (outbox-relay run), or find out why it does not lead (outbox-relay check)"
        );
    }
    let topic = ground::topic_name();
    let relay = if is_led { "the relay that leads publishes them" } else { "a relay is started for it" };
    let would = format!(
        "create topic {topic}, write at most {} marked messages of {} bytes at up to {} a second, and delete them and the topic; \
         {relay}, and other messages wait behind them while that is more than it can do",
        options.max_rows, options.bytes, options.to_rate
    );
    if options.dry_run {
        say(&format!("would {would}; nothing was changed"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !options.yes {
        say(&format!("this will {would}"))?;
        if !agreed("Go on?")? {
            bail!("nothing was changed; say --yes to do it without being asked");
        }
    }
    let stop = on_signal()?;
    let mut ground = Ground::default();
    let measured = measure(session, config, &options, is_led, topic, &mut ground, &stop).await;
    let taken = ground.clear(session).await;
    let mut report = measured.inspect_err(|_| {
        // What went wrong while it was taken away comes after what went wrong before.
        if let Err(error) = &taken {
            let _ = say(&format!("{error:#}"));
        }
    })?;
    report.deleted = taken?;
    print::found(options.show.output, &report, || report.as_text())?;
    if report.interrupted {
        say("interrupted: what was measured until then is above, and everything was taken away")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn is_led(overview: &Overview, config: &Config) -> bool {
    overview.holder.is_some() && !overview.is_silent(config.lease.ttl)
}

/// Everything between nothing and the report.
async fn measure(
    session: &mut Session,
    config: &Config,
    options: &BenchOptions,
    is_led: bool,
    topic: String,
    ground: &mut Ground,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let settings = daemon::kafka_settings(config);
    ground.make_topic(session, &settings, topic.clone(), options.partitions).await?;
    let address = if is_led {
        options.http.clone().unwrap_or_else(|| http::local(config.http.listen))
    } else {
        say("no relay leads: starting one, which ends with this command")?;
        ground.start_relay(session, config).await?
    };
    let shape = Shape {
        topic: topic.clone(),
        rows: i32::try_from(options.per_transaction).context("--per-transaction")?,
        bytes: i32::try_from(options.bytes).context("--bytes")?,
        keys: options.keys.into(),
    };
    let mut load = Load::start(config, &settings, shape, options.writers as usize).await?;
    let watch = Watch::new(address, !is_led);
    let mut report = Report::new(topic, !is_led, options);
    let ended = steps(session, options, &mut load, &watch, &mut report, stop).await;
    // Whatever it was: what was written has to be through before it is deleted.
    ground.wrote = load.has_tried();
    let through = load.finish(session).await;
    ground.is_through = load.is_settled;
    ended?;
    report.rows = load.written();
    report.duplicates = load.duplicates();
    through?;
    Ok(report)
}

async fn steps(
    session: &mut Session,
    options: &BenchOptions,
    load: &mut Load,
    watch: &Watch,
    report: &mut Report,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    say(&format!("warming up, then steps of {} s", options.step.as_secs_f64()))?;
    let budget = |load: &Load| options.max_rows.saturating_sub(load.written());
    load.write(options.from_rate, WARM_UP.min(options.step), budget(load), stop).await?;
    load.drained(session, stop).await?;
    let mut rate = options.from_rate;
    // The highest rate that was sustained, and the lowest that was not.
    let (mut good, mut bad) = (0, None);
    let mut refined = false;
    while !stop.is_cancelled() {
        if budget(load) < rate {
            say(&format!("--max-rows {} is reached", options.max_rows))?;
            report.limit = Some("max_rows");
            break;
        }
        let step = one_step(session, options, load, watch, rate, budget(load), stop).await?;
        say(&step.as_line())?;
        if stop.is_cancelled() {
            break;
        }
        let (sustained, limit) = (step.sustained, step.limit);
        report.steps.push(step);
        load.drained(session, stop).await?;
        if sustained {
            good = good.max(rate);
        } else {
            report.limit = limit;
            bad = Some(rate);
        }
        rate = match bad {
            None if rate >= options.to_rate => break,
            None => (rate * 2).min(options.to_rate),
            // Once between the last that went and the first that did not.
            Some(first) if sustained || good == 0 || first != rate || refined => break,
            Some(first) => {
                refined = true;
                (good + first) / 2
            }
        };
    }
    report.sustained_rate = good;
    report.interrupted = stop.is_cancelled();
    Ok(())
}

async fn one_step(
    session: &mut Session,
    options: &BenchOptions,
    load: &mut Load,
    watch: &Watch,
    rate: u64,
    budget: u64,
    stop: &CancellationToken,
) -> anyhow::Result<Step> {
    let watching = watch.begin();
    let wrote = load.write(rate, options.step, budget, stop).await?;
    let seen = watching.end().await;
    let on_the_way = wrote.on_the_way;
    let in_time =
        (rate as f64 * LAG.as_secs_f64()).max(2.0 * f64::from(options.per_transaction * options.writers));
    let is_written = wrote.written_rate() >= WRITTEN * rate as f64;
    let sustained = is_written && on_the_way as f64 <= in_time;
    let limit = match (sustained, is_written) {
        (true, _) => None,
        (false, false) if on_the_way as f64 <= in_time => Some("writers"),
        // The relay has done its part, and the records are not here.
        (false, _) if !load.is_left(session).await? => Some("consumer"),
        (false, _) => Some(seen.limit()),
    };
    Ok(Step::new(rate, &wrote, &seen, sustained, limit))
}

/// Cancelled by Ctrl-C and its kin.
fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}
