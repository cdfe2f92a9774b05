//! Logging: to stderr, as text for people or JSON for collectors, filtered by level and target.
//! Libraries are kept short: what they repeat during an outage is in the metrics, and the relay says it once itself. Nor do its own
//! warnings flood: of each kind so many a minute are written, all are counted ([`counts`]). [`events`] lists every kind.

pub mod events;

use std::collections::{HashMap, VecDeque};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use serde::Serialize;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
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
/// Warnings or errors of one kind in a minute: more of them tell nothing that their counter does not.
const LINES: u32 = 60;
const PERIOD: Duration = Duration::from_secs(60);

/// Starts logging for the process. Fails if something else has already done so.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    subscriber(config, colour, io::stderr).try_init().context("start logging")
}

fn subscriber<W>(config: &LogConfig, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let format = tracing_subscriber::fmt::layer().with_writer(writer);
    let format = match config.format {
        LogFormat::Text => format.with_ansi(colour).boxed(),
        LogFormat::Json => format.json().flatten_event(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry()
        // A filter for all layers: what it drops costs nothing, and Measure counts only what would be written.
        .with(targets(&config.level))
        .with(format)
        .with(Changes)
        // Last, so that it is asked first: what it leaves out no other layer sees.
        .with(Measure::default())
}

/// The levels asked for, with libraries at warnings where they are not named.
fn targets(asked: &Targets) -> Targets {
    let overall = asked.default_level().unwrap_or(LevelFilter::OFF);
    let named = |target: &str| asked.iter().any(|(prefix, _)| prefix == target);
    let quiet = QUIET.into_iter().filter(|target| !named(target));
    asked.clone().with_targets(quiet.map(|target| (target, overall.min(LevelFilter::WARN))))
}

/// Counts warnings and errors, and lets through so many of each kind in a period.
#[derive(Default)]
struct Measure {
    librdkafka: Mutex<Window>,
    /// By the place in the code.
    own: Mutex<HashMap<Identifier, Window>>,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
}

impl Window {
    fn admits(&mut self, now: Instant, lines: u32, period: Duration) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= period) {
            *self = Window { began: Some(now), lines: 0 };
        }
        self.lines += 1;
        self.lines <= lines
    }
}

impl<S: Subscriber> Layer<S> for Measure {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let (metadata, now) = (event.metadata(), Instant::now());
        let is_loud = *metadata.level() <= Level::WARN;
        if is_loud {
            count(event);
        }
        match metadata.target() {
            LIBRDKAFKA => hold(&self.librdkafka).admits(now, CHATTER_LINES, CHATTER_PERIOD),
            _ if is_loud => {
                let mut own = hold(&self.own);
                own.entry(metadata.callsite()).or_default().admits(now, LINES, PERIOD)
            }
            _ => true,
        }
    }
}

/// One for each of [`events::counted`].
static COUNTS: LazyLock<Vec<AtomicU64>> =
    LazyLock::new(|| events::counted().map(|_| AtomicU64::new(0)).collect());

fn count(event: &Event<'_>) {
    let mut text = Text::default();
    event.record(&mut text);
    if let Some(place) = events::place(event.metadata().level(), &text.message) {
        COUNTS[place].fetch_add(1, Ordering::Relaxed);
    }
}

/// Warnings and errors since the start of the process, in the order of [`events::counted`].
pub fn counts() -> Vec<u64> {
    COUNTS.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines that are kept for the status page.
const CHANGES: usize = 30;

/// A line of the log, as the status page shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// When, RFC 3339.
    pub at: String,
    /// `ERROR`, `WARN` or `INFO`.
    pub level: &'static str,
    /// What happened, and its fields.
    pub text: String,
}

/// The relay's last lines, the newest first: whatever changes its state is logged, and nothing is for a single message.
pub fn changes() -> Vec<Change> {
    kept().iter().rev().cloned().collect()
}

fn kept() -> MutexGuard<'static, VecDeque<Change>> {
    static KEPT: Mutex<VecDeque<Change>> = Mutex::new(VecDeque::new());
    hold(&KEPT)
}

/// Keeps the relay's own lines of information and above.
struct Changes;

impl<S: Subscriber> Layer<S> for Changes {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let (metadata, own) = (event.metadata(), env!("CARGO_CRATE_NAME"));
        if *metadata.level() > Level::INFO || metadata.target().split("::").next() != Some(own) {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut kept = kept();
        if kept.len() == CHANGES {
            kept.pop_front();
        }
        kept.push_back(Change { at, level: metadata.level().as_str(), text: text.message + &text.fields });
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a string takes it");
    }
}

/// An error and its causes as one line. Some libraries repeat a cause in their own sentence; here it is said once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::Level;

    use super::*;

    /// The lines that `events` writes under a format and level.
    fn lines(format: LogFormat, level: &str, events: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let config = LogConfig { format, level: level.parse().expect("a level") };
        let writer = Arc::clone(&written);
        tracing::subscriber::with_default(
            subscriber(&config, false, move || Shared(Arc::clone(&writer))),
            events,
        );
        let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_json_has_its_fields_at_the_top() {
        let found = lines(LogFormat::Json, "info", || {
            tracing::debug!("hidden");
            tracing::info!(epoch = 7, "lease won");
        });
        assert_eq!(found.len(), 1, "{found:?}");
        let line: serde_json::Value = serde_json::from_str(&found[0]).expect("JSON");
        assert_eq!(
            (&line["message"], &line["epoch"], &line["level"]),
            (&"lease won".into(), &7.into(), &"INFO".into())
        );
    }

    #[test]
    fn only_librdkafka_is_cut_short() {
        let found = lines(LogFormat::Text, "info", || {
            for line in 0..50 {
                tracing::error!(target: "librdkafka", line, "broker is down");
                tracing::info!(line, "state changed");
            }
        });
        let count = |part: &str| found.iter().filter(|line| line.contains(part)).count();
        assert_eq!((count("broker is down"), count("state changed")), (CHATTER_LINES as usize, 50));
    }

    #[test]
    fn a_kind_of_warning_cannot_flood_and_all_are_counted() {
        let of =
            |level, name| events::counted().position(|counted| counted == (level, name)).expect("counted");
        let places =
            [of(Level::WARN, "deposed"), of(Level::ERROR, "topic_sick"), of(Level::WARN, events::OTHER)];
        let before = counts();
        let found = lines(LogFormat::Text, "info", || {
            for line in 0..500 {
                tracing::warn!(epoch = line, "deposed leader settled nothing, another relay holds the lease");
                tracing::info!(line, "state changed");
            }
            tracing::error!(topic = "orders", "topic cannot be published to, its rows wait for it");
            tracing::warn!(target: "sqlx", "something else");
        });
        let count = |part: &str| found.iter().filter(|line| line.contains(part)).count();
        assert_eq!((count("deposed"), count("state changed"), count("orders")), (LINES as usize, 500, 1));
        let after = counts();
        let counted = places.map(|place| after[place] - before[place]);
        // Other tests of this process may warn of something else meanwhile.
        assert_eq!(counted[..2], [500, 1]);
        assert!(counted[2] >= 1);
    }

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
        let admits = |window: &mut Window, now| window.admits(now, CHATTER_LINES, CHATTER_PERIOD);
        let admitted = |window: &mut Window, now| (0..100).filter(|_| admits(window, now)).count();
        assert_eq!(admitted(&mut window, start), CHATTER_LINES as usize);
        assert_eq!(admitted(&mut window, start + CHATTER_PERIOD / 2), 0);
        assert_eq!(admitted(&mut window, start + CHATTER_PERIOD), CHATTER_LINES as usize);
    }
}
