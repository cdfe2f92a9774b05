//! Loads the settings: the bounds of each key and the rules about several of them. A rule names its keys and its reason.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::read::{Reader, parse_count, parse_duration, parse_size};
use super::topics::topic_name;
use super::{
    Config, ConfigError, ConsumersConfig, DEFAULT_FILE, HeartbeatConfig, HttpConfig, KafkaConfig,
    LeaseConfig, LogConfig,
};
use super::{
    PostgresConfig, RelayConfig, RetentionConfig, RetryConfig, TraceConfig, layers, postgres_url, properties,
    topics,
};
use crate::backoff::Backoff;
use crate::policy::{Policies, Policy};

/// Reads and checks everything; on failure all problems.
pub(super) fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    needs_kafka: bool,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let default = Path::new(DEFAULT_FILE);
    let path = path.or_else(|| default.exists().then_some(default));
    let name = path.map(|path| path.display().to_string()).unwrap_or_default();
    let text = match path.map(std::fs::read_to_string) {
        Some(Err(error)) => {
            problems.push(format!("{name}: cannot be read: {error}"));
            return Err(ConfigError { problems });
        }
        Some(Ok(text)) => Some(text),
        None => None,
    };
    let file = text.as_deref().map(|text| (name.as_str(), text));
    let Some(values) = layers::merge(file, environment, &mut problems) else {
        return Err(ConfigError { problems });
    };
    let mut reader = Reader::new(values, &mut problems);
    let mut config = Config {
        postgres: postgres(&mut reader),
        kafka: kafka(&mut reader, needs_kafka),
        consumers: ConsumersConfig {
            dedupe_window: reader.duration("consumers.dedupe_window", SECOND..=3650 * 24 * HOUR),
        },
        relay: relay(&mut reader),
        lease: LeaseConfig { ttl: reader.duration("lease.ttl", SECOND..=2 * MINUTE) },
        retry: RetryConfig {
            base: reader.duration("retry.base", MILLISECOND..=HOUR),
            max: reader.duration("retry.max", MILLISECOND..=24 * HOUR),
            attempts: reader.count("retry.attempts", 1..=1_000_000) as u32,
            age: reader.duration("retry.age", SECOND..=365 * 24 * HOUR),
            dead_per_minute: reader.count("retry.dead_per_minute", 0..=100_000_000) as u32,
            deferred_max: reader.count("retry.deferred_max", 1..=100_000_000),
        },
        retention: retention(&mut reader),
        heartbeat: HeartbeatConfig {
            topic: reader.unless("heartbeat.topic", &["off", ""], topic_name),
            every: reader.duration("heartbeat.every", 100 * MILLISECOND..=HOUR),
        },
        http: HttpConfig {
            listen: reader.parsed("http.listen", "is not address:port, such as 0.0.0.0:9464"),
        },
        trace: TraceConfig {
            endpoint: reader.unless("trace.endpoint", &["off", ""], collector),
            sample: reader.text("trace.sample", share),
            mode: reader.parsed("trace.mode", "must be links or child"),
        },
        log: LogConfig {
            format: reader.parsed("log.format", "must be text or json"),
            level: reader.text("log.level", log_level),
        },
        policies: Policies::default(),
        file: path.map(Path::to_path_buf),
        shown: Vec::new(),
    };
    config.policies = Policies::new(default_policy(&config.retry), topics::read(&mut reader));
    pairs(&config, &mut reader);
    config.shown = std::mem::take(&mut reader.shown);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const KIB: usize = 1 << 10;
const GIB: usize = 1 << 30;

fn postgres(reader: &mut Reader) -> PostgresConfig {
    let parsed = reader.secret("postgres.url", postgres_url::parse, |url| url.shown.clone());
    let from_file = reader.secret(
        "postgres.url_file",
        |file| Ok((PathBuf::from(file), read_url_file(Path::new(file))?)),
        |(file, _)| file.display().to_string(),
    );
    let given = usize::from(parsed.is_some()) + usize::from(from_file.is_some());
    let keys = ["postgres.url", "postgres.url_file"];
    reader.rule(&keys, given < 2, "postgres.url and postgres.url_file are both set; keep one of them");
    reader.rule(
        &keys,
        given > 0,
        "postgres.url is missing: set DATABASE_URL, or url in section [postgres], to postgres://user:password@host/database",
    );
    let (url, file) = match from_file {
        Some((file, url)) => (Some(url), Some(file)),
        None => (parsed, None),
    };
    PostgresConfig {
        pooler: reader.flag("postgres.pooler"),
        hosts: url.map(|url| url.hosts).unwrap_or_default(),
        file,
    }
}

/// Reads a mounted secret; line breaks around it are ignored.
pub(super) fn read_url_file(file: &Path) -> Result<postgres_url::PostgresUrl, Vec<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| vec![format!("{} cannot be read: {error}", file.display())])?;
    postgres_url::parse(text.trim())
}

fn kafka(reader: &mut Reader, needed: bool) -> KafkaConfig {
    let brokers = reader.list("kafka.brokers", broker);
    reader.rule(
        &["kafka.brokers"],
        !needed || !brokers.is_empty(),
        "kafka.brokers is missing: set KAFKA_BROKERS, or brokers in section [kafka], to host:9092",
    );
    let stall_after = reader.duration("kafka.stall_after", SECOND..=10 * MINUTE);
    let unsafe_properties = reader.list("kafka.unsafe", |_| Ok(()));
    let header_event_id = reader.text("kafka.header_event_id", header_name);
    let header_seq = reader.text("kafka.header_seq", header_name);
    let header_epoch = reader.text("kafka.header_epoch", header_name);
    let header_epoch = (header_epoch != "off").then_some(header_epoch);
    let mut names = vec![&header_event_id, &header_seq];
    names.extend(&header_epoch);
    names.sort();
    reader.rule(
        &["kafka.header_event_id", "kafka.header_seq", "kafka.header_epoch"],
        names.windows(2).all(|pair| pair[0] != pair[1]),
        "kafka.header_event_id, header_seq and header_epoch must differ from each other",
    );
    // Last, so that `config show` can print the section [kafka.properties] behind the keys of [kafka].
    let properties = reader.properties("kafka.properties");
    reader.problems.extend(properties::problems(&properties, &unsafe_properties));
    KafkaConfig {
        brokers,
        properties,
        unsafe_properties,
        stall_after,
        header_event_id,
        header_seq,
        header_epoch,
    }
}

fn broker(text: &str) -> Result<(), String> {
    let host = text.rsplit_once("://").map_or(text, |(_, host)| host);
    let port = match host.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => Some(port),
        _ => None,
    };
    let sound =
        !host.is_empty() && !host.starts_with(':') && !host.contains(|c: char| c.is_whitespace() || c == '@');
    if sound && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Ok(());
    }
    Err("is not host:port".to_owned())
}

fn header_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err("is not a header name".to_owned());
    }
    Ok(text.to_owned())
}

fn relay(reader: &mut Reader) -> RelayConfig {
    RelayConfig {
        poll_min: reader.duration("relay.poll_min", MILLISECOND..=10 * SECOND),
        poll_max: reader.duration("relay.poll_max", MILLISECOND..=10 * SECOND),
        page_rows: reader.count("relay.page_rows", 1..=100_000),
        page_bytes: reader.bytes("relay.page_bytes", KIB..=GIB),
        window_rows: reader.count("relay.window_rows", 1..=10_000_000),
        window_bytes: reader.bytes("relay.window_bytes", KIB..=16 * GIB),
        max_row_bytes: reader.bytes("relay.max_row_bytes", KIB..=GIB),
        drain_timeout: reader.duration("relay.drain_timeout", Duration::ZERO..=HOUR),
        durable_marks: reader.flag("relay.durable_marks"),
        rate: reader.unless("relay.rate", &["off"], |text| {
            parse_count(text, &(1..=10_000_000)).map(|rate| rate as u32)
        }),
    }
}

fn retention(reader: &mut Reader) -> RetentionConfig {
    const AGES: std::ops::RangeInclusive<Duration> = SECOND..=Duration::from_secs(3650 * 24 * 3600);
    let published = reader.duration("retention.published", AGES);
    let age = |text: &str| parse_duration(text, &AGES);
    RetentionConfig {
        published,
        published_max_bytes: reader.unless("retention.published_max_bytes", &["off"], |text| {
            parse_size(text, &(KIB..=1 << 50)).map(|bytes| bytes as u64)
        }),
        receipts: reader
            .unless("retention.receipts", &["published"], age)
            .unwrap_or(published)
            .max(published),
        dead_letters: reader.unless("retention.dead_letters", &["off"], age),
        every: reader.duration("retention.every", 10 * MILLISECOND..=HOUR),
    }
}

/// A collector's address, with the path that OTLP has for traces if there is none.
fn collector(text: &str) -> Result<String, String> {
    const ADVICE: &str = "is not the address of a collector, such as http://localhost:4318";
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(match text.starts_with("https://") {
            true => "must be http://: spans go to a collector nearby, which encrypts them on their way on"
                .to_owned(),
            false => ADVICE.to_owned(),
        });
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let sound = |c: char| c.is_ascii_graphic() && !"@?#\"\\<>".contains(c);
    if host.is_empty() || !rest.chars().all(sound) {
        return Err(ADVICE.to_owned());
    }
    let path = if matches!(path, "" | "/") { "/v1/traces" } else { path };
    Ok(format!("http://{host}{path}"))
}

/// A number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "is not a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be between 0 and 1".to_owned()) }
}

/// What `[retry]` says of every topic.
fn default_policy(retry: &RetryConfig) -> Policy {
    Policy {
        attempts: retry.attempts,
        age: retry.age,
        backoff: Backoff { base: retry.base, max: retry.max },
        dead_per_minute: retry.dead_per_minute,
        ..Policy::default()
    }
}

fn pairs(config: &Config, reader: &mut Reader) {
    let Config { relay, lease, retry, .. } = config;
    let mut at_most = |small: &'static str, large: &'static str, holds: bool, why: &str| {
        reader.rule(&[small, large], holds, format!("{small} must not be above {large}: {why}"));
    };
    at_most(
        "relay.poll_min",
        "relay.poll_max",
        relay.poll_min <= relay.poll_max,
        "pauses grow from one to the other",
    );
    at_most(
        "relay.page_rows",
        "relay.window_rows",
        relay.page_rows <= relay.window_rows,
        "a page must fit into the window",
    );
    at_most(
        "relay.page_bytes",
        "relay.window_bytes",
        relay.page_bytes <= relay.window_bytes,
        "a page must fit into the window",
    );
    at_most(
        "relay.max_row_bytes",
        "relay.page_bytes",
        relay.max_row_bytes <= relay.page_bytes,
        "a row must fit into a page",
    );
    at_most("retry.base", "retry.max", retry.base <= retry.max, "waits grow from one to the other");
    // The poll carries the check that the server still is the one it was; a third is the pace of the beat, too.
    let polls_in_time = relay.poll_max <= lease.ttl / 3;
    at_most(
        "relay.poll_max",
        "lease.ttl",
        polls_in_time,
        "it must not be above a third of it, the pace of the leader's beat",
    );
}

/// `Targets` reads a lone word that is no level as the name of a target; here that is a misspelt level.
fn log_level(text: &str) -> Result<Targets, String> {
    let is_level = |level: &str| level.parse::<LevelFilter>().is_ok() && level.parse::<u8>().is_err();
    for directive in text.split(',') {
        let level = directive.split_once('=').map_or(directive, |(_, level)| level);
        if !is_level(level.trim()) {
            return Err(
                "is not error, warn, info, debug or trace, nor target=level, with commas between".to_owned()
            );
        }
    }
    text.parse().map_err(|_| "is not a list of target=level with commas between".to_owned())
}
