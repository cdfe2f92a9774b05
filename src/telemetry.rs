//! Logging: to stderr, as text for people or JSON for collectors, filtered by level and target.
//! Libraries are kept short: what they repeat during an outage is in the metrics, and the relay says it once itself.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// What librdkafka reports about its connections, and rdkafka in its name.
const LIBRDKAFKA: &str = "librdkafka";
/// Targets that stay at warnings unless `log.level` names them: sqlx logs each statement, the HTTP stack each request.
const QUIET: [&str; 7] = [LIBRDKAFKA, "rdkafka", "sqlx", "hyper", "hyper_util", "axum", "rustls"];
/// With all brokers down each producer reports each broker every second or two; so many lines tell it well enough.
const CHATTER_LINES: u32 = 10;
const CHATTER_PERIOD: Duration = Duration::from_secs(10);

/// Starts logging for the process. Fails if something else has already done so.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let stderr = std::io::stderr;
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let format = tracing_subscriber::fmt::layer().with_writer(stderr);
    let format = match config.format {
        LogFormat::Text => format.with_ansi(colour).boxed(),
        LogFormat::Json => format.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry()
        // A filter for all layers: what it drops costs nothing, and Chatter counts only what would be written.
        .with(targets(&config.level))
        .with(format)
        .with(Chatter::default())
        .try_init()
        .context("start logging")
}

/// The levels asked for, with libraries at warnings where they are not named.
fn targets(asked: &Targets) -> Targets {
    let overall = asked.default_level().unwrap_or(LevelFilter::OFF);
    let named = |target: &str| asked.iter().any(|(prefix, _)| prefix == target);
    let quiet = QUIET.into_iter().filter(|target| !named(target));
    asked.clone().with_targets(quiet.map(|target| (target, overall.min(LevelFilter::WARN))))
}

/// Lets through a few of librdkafka's lines per period and drops the rest.
#[derive(Default)]
struct Chatter {
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
}

impl Window {
    fn admits(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= CHATTER_PERIOD) {
            *self = Window { began: Some(now), lines: 0 };
        }
        self.lines += 1;
        self.lines <= CHATTER_LINES
    }
}

impl<S: Subscriber> Layer<S> for Chatter {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if event.metadata().target() != LIBRDKAFKA {
            return true;
        }
        self.window.lock().unwrap_or_else(PoisonError::into_inner).admits(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[track_caller]
    fn check(level: &str, target: &str, shown: Level, hidden: Level) {
        let targets = targets(&level.parse().expect("a level"));
        assert!(targets.would_enable(target, &shown), "{level}: {target} {shown}");
        assert!(!targets.would_enable(target, &hidden), "{level}: {target} {hidden}");
    }

    #[test]
    fn libraries_stay_at_warnings_unless_named() {
        check("info", "outbox_relay::leader", Level::INFO, Level::DEBUG);
        check("debug", "librdkafka", Level::WARN, Level::INFO);
        check("debug", "sqlx::query", Level::WARN, Level::INFO);
        check("error", "librdkafka", Level::ERROR, Level::WARN);
        check("info,librdkafka=debug", "librdkafka", Level::DEBUG, Level::TRACE);
        check("info,outbox_relay=debug", "outbox_relay::relay", Level::DEBUG, Level::TRACE);
    }

    #[test]
    fn a_flood_of_lines_is_cut_per_period() {
        let (mut window, start) = (Window::default(), Instant::now());
        let admitted = |window: &mut Window, now| (0..100).filter(|_| window.admits(now)).count();
        assert_eq!(admitted(&mut window, start), CHATTER_LINES as usize);
        assert_eq!(admitted(&mut window, start + CHATTER_PERIOD / 2), 0);
        assert_eq!(admitted(&mut window, start + CHATTER_PERIOD), CHATTER_LINES as usize);
    }
}
