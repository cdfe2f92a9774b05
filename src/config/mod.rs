//! The settings: typed, checked as a whole, and one struct per part, handed only to that part.
//! Loading opens no connection and stops at no problem: [`ConfigError`] lists all of them.
//! `keys` names every setting, `layers` lays the sources over each other, `read` gives them types, `rules` says what fits.

mod keys;
mod layers;
mod postgres_url;
mod properties;
mod read;
mod rules;
mod secret;
mod topics;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use crate::policy::Policies;

pub use keys::{KEYS, Key, TOPIC_KEYS};
use read::Shown;
pub use secret::Secret;

/// The file that is read when it is there and no other is named.
pub const DEFAULT_FILE: &str = "outbox-relay.toml";

/// The whole configuration.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the types of the parts carry the documentation")]
pub struct Config {
    pub postgres: PostgresConfig,
    pub kafka: KafkaConfig,
    pub consumers: ConsumersConfig,
    pub relay: RelayConfig,
    pub lease: LeaseConfig,
    pub retry: RetryConfig,
    pub http: HttpConfig,
    pub trace: TraceConfig,
    pub log: LogConfig,
    pub retention: RetentionConfig,
    pub heartbeat: HeartbeatConfig,
    /// What is done with each topic's rows.
    pub policies: Policies,
    /// The file that it was read from, if there was one.
    pub file: Option<PathBuf>,
    shown: Vec<Shown>,
}

/// Where the outbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The hosts are poolers in transaction mode.
    pub pooler: bool,
    hosts: Vec<Secret>,
    file: Option<PathBuf>,
}

/// Where the records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Bootstrap brokers; empty only after [`Config::load_without_kafka`].
    pub brokers: Vec<String>,
    /// The user's librdkafka properties: none that carries a promise, except those in `unsafe_properties`.
    pub properties: BTreeMap<String, Secret>,
    /// `kafka.unsafe`: properties that are set and break a promise. To be named in a warning at start.
    pub unsafe_properties: Vec<String>,
    /// Without a confirm for so long it is an outage.
    pub stall_after: Duration,
    /// Header with the event id.
    pub header_event_id: String,
    /// Header with the outbox row's id.
    pub header_seq: String,
    /// Header with the sender's epoch, if wanted.
    pub header_epoch: Option<String>,
}

/// What is known of those who read the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumersConfig {
    /// How long they remember event ids.
    pub dedupe_window: Duration,
}

/// How the three loops pace and bound themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the keys of [relay], which KEYS explains")]
pub struct RelayConfig {
    pub poll_min: Duration,
    pub poll_max: Duration,
    pub page_rows: usize,
    pub page_bytes: usize,
    pub window_rows: usize,
    pub window_bytes: usize,
    pub max_row_bytes: usize,
    pub drain_timeout: Duration,
    pub durable_marks: bool,
    pub rate: Option<u32>,
}

/// How leadership changes hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long the beat may stand still.
    pub ttl: Duration,
}

/// When rejected rows are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryConfig {
    /// Longest wait before the first repetition.
    pub base: Duration,
    /// Longest wait before any.
    pub max: Duration,
    /// Attempts of a row that fail by its own fault.
    pub attempts: u32,
    /// Time since the first of them.
    pub age: Duration,
    /// Dead letters of a topic in a minute.
    pub dead_per_minute: u32,
    /// Deferred rows at most.
    pub deferred_max: usize,
}

/// How long what is done stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionConfig {
    /// Published rows.
    pub published: Duration,
    /// Bytes of `outbox.message` above which swept slots are emptied before their time.
    pub published_max_bytes: Option<u64>,
    /// The ledger with its receipts; never shorter than `published`.
    pub receipts: Duration,
    /// Dead letters; `None` keeps them.
    pub dead_letters: Option<Duration>,
    /// How often the slots are looked at.
    pub every: Duration,
}

/// The relay's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// Its topic; `None`: there is no such row.
    pub topic: Option<String>,
    /// How often one is written.
    pub every: Duration,
}

/// Where metrics and probes are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Which spans there are, and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceConfig {
    /// The collector; `None`: there are none.
    pub endpoint: Option<String>,
    /// The share of sampled traces that are followed.
    pub sample: f64,
    /// How spans hang together with the rows' contexts.
    pub mode: TraceMode,
}

/// How a span hangs together with the context that a service wrote into its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceMode {
    /// One span for many rows, linked to their contexts.
    Links,
    /// One span for each row, a child of its context.
    Child,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: LogFormat,
    /// Levels, overall and per target.
    pub level: Targets,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogFormat {
    Text,
    Json,
}

/// Every problem of the configuration, in the order in which a reader would meet them. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence each.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(out, "the configuration has a problem:")?,
            many => write!(out, "the configuration has {many} problems:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(out, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file (`path`, or [`DEFAULT_FILE`] if it is there) and the environment over it, and checks everything.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        rules::load(path, environment, true)
    }

    /// The same for commands that only talk to Postgres: brokers may be missing, everything else is checked.
    pub fn load_without_kafka(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        rules::load(path, environment, false)
    }

    /// The effective configuration as TOML: secrets as `***`, and behind each line where it came from.
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for Shown { key, value, origin } in &self.shown {
            let (this, name) = match key.strip_prefix("kafka.properties.") {
                Some(name) => ("kafka.properties", name),
                None => key.split_once('.').unwrap_or(("", key)),
            };
            if this != section {
                let this_header = if this.starts_with("topic#") { "[topic]" } else { this };
                text.push_str(&format!("{}[{this_header}]\n", if section.is_empty() { "" } else { "\n" }));
                section = this;
            }
            text.push_str(&format!("{name} = {value}  # {origin}\n"));
        }
        text
    }

    /// Every secret in it: passwords of URLs, as written and decoded, and properties that hold one. For blotting out.
    pub fn secrets(&self) -> Vec<Secret> {
        let urls = self.postgres.hosts.iter().flat_map(|url| postgres_url::passwords(url.expose()));
        let properties = self.kafka.properties.iter().filter(|(name, _)| properties::is_secret(name));
        urls.map(Secret::from).chain(properties.map(|(_, value)| value.clone())).collect()
    }

    /// Files with the certificates by which the relay shows who it is, to Postgres and to Kafka.
    pub fn certificates(&self) -> Vec<PathBuf> {
        let kafka = self.kafka.properties.get("ssl.certificate.location");
        let kafka = kafka.map(|path| PathBuf::from(path.expose()));
        let postgres = self.postgres.hosts.first().and_then(|url| postgres_url::certificate(url.expose()));
        kafka.into_iter().chain(postgres).collect()
    }

    /// A short fingerprint of [`Config::show`] without origins, to tell replicas with different settings apart.
    pub fn digest(&self) -> String {
        // FNV-1a: stable over releases and machines, and nobody needs to be kept from forging it.
        let lines = self.shown.iter().flat_map(|shown| [shown.key.as_str(), "=", &shown.value, "\n"]);
        let hash = lines.flat_map(str::bytes).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

impl PostgresConfig {
    /// For tests and the demo, which know their URL.
    pub fn from_url(url: &str) -> Result<PostgresConfig, ConfigError> {
        match postgres_url::parse(url) {
            Ok(url) => Ok(PostgresConfig { pooler: false, hosts: url.hosts, file: None }),
            Err(problems) => Err(ConfigError { problems }),
        }
    }

    /// One URL per host, in the order given; the writable host is the one to stay on.
    pub fn host_urls(&self) -> Vec<Secret> {
        self.hosts.clone()
    }

    /// The same, from `postgres.url_file` as it is now, if that is where the URL came from. For every reconnect:
    /// a rotated password arrives without a restart. Blocks for as long as reading a small file takes.
    pub fn reread_host_urls(&self) -> Result<Vec<Secret>, ConfigError> {
        let Some(file) = &self.file else { return Ok(self.host_urls()) };
        match rules::read_url_file(file) {
            Ok(url) => Ok(url.hosts),
            Err(problems) => {
                let named = |problem| format!("postgres.url_file: {problem}");
                Err(ConfigError { problems: problems.into_iter().map(named).collect() })
            }
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("must be text or json".to_owned()),
        }
    }
}

impl FromStr for TraceMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "links" => Ok(TraceMode::Links),
            "child" => Ok(TraceMode::Child),
            _ => Err("must be links or child".to_owned()),
        }
    }
}

/// The process's environment. What is not UTF-8 is replaced, so that it is refused or fails instead of being ignored.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

#[cfg(test)]
mod tests;
