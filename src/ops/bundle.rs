//! `outbox-relay debug bundle`: all that helps to help, in one archive.
//!
//! Every part is asked for by itself, and one that cannot be had stops none of the others: what is broken is why somebody asks.
//! Nothing private goes in: no statement here reads a payload, keys are taken out, the configuration comes redacted, and any
//! secret of the configuration that turns up elsewhere is blotted out.

mod archive;
mod private;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use self::archive::Part;
use super::talk::say;
use super::{connect_unchecked, http};
use crate::cli::bundle::BundleOptions;
use crate::config::Config;
use crate::daemon;
use crate::kafka::{TopicState, Topics, client_version};
use crate::store::{Session, StoreError, facts, inspect};

/// Attempts, requests and keys at most.
const ROWS: i64 = 200;
/// Topics of which Kafka is asked at most.
const TOPICS: usize = 50;
/// Kafka's answers altogether.
const KAFKA_PATIENCE: Duration = Duration::from_secs(20);

/// Writes it.
pub async fn run(config: &Config, options: BundleOptions) -> anyhow::Result<ExitCode> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let name = || PathBuf::from(format!("outbox-relay-bundle-{}.tar.gz", now.replace(':', "")));
    let file = options.file.clone().unwrap_or_else(name);
    let mut bundle = Bundle { config, parts: Vec::new() };
    bundle.text("config.toml", Ok::<_, String>(config.show()));
    let topics = bundle.database().await;
    bundle.kafka(topics).await;
    bundle.relay(&options).await;
    let missing: Vec<String> = bundle
        .parts
        .iter()
        .filter_map(|part| Some(format!("{}: {}", part.name, part.content.as_ref().err()?)))
        .collect();
    let parts = bundle.parts.len() - missing.len();
    let about = json!({"at": now, "version": env!("CARGO_PKG_VERSION"), "librdkafka": client_version(), "missing": missing});
    bundle.json("bundle.json", Ok::<_, String>(about));
    archive::write(&file, &bundle.parts)?;
    missing.iter().try_for_each(|line| say(&format!("missing: {line}")))?;
    say(&format!("{} has {parts} parts, without payloads, keys and secrets", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

struct Bundle<'a> {
    config: &'a Config,
    parts: Vec<Part>,
}

impl Bundle<'_> {
    fn text<E: Display>(&mut self, name: &'static str, found: Result<String, E>) {
        let found = found.map_err(|error| format!("{error:#}"));
        let clean = |text: String| private::without_secrets(&text, self.config);
        self.parts.push(Part { name, content: found.map(clean).map_err(clean) });
    }

    fn json<T: Serialize, E: Display>(&mut self, name: &'static str, found: Result<T, E>) {
        let text = found.map_err(|error| format!("{error:#}")).and_then(|found| {
            let value = serde_json::to_value(&found).map_err(|error| error.to_string())?;
            serde_json::to_string_pretty(&private::without_keys(value)).map_err(|error| error.to_string())
        });
        self.text(name, text);
    }

    /// What Postgres knows; returns the topics of which something waits.
    async fn database(&mut self) -> Vec<String> {
        let mut database = match connect_unchecked(self.config).await {
            Ok(session) => Database { session: Some(session), trouble: String::new() },
            Err(error) => Database { session: None, trouble: format!("{error:#}") },
        };
        let ttl = self.config.lease.ttl;
        self.json("server.json", database.ask(async |session| facts::server(session).await).await);
        self.json("schema.json", database.ask(async |session| facts::schema(session).await).await);
        let overview = database.ask(async |session| inspect::overview(session).await).await;
        let overview =
            overview.map(|overview| json!({"silent": overview.is_silent(ttl), "overview": overview}));
        self.json("status.json", overview);
        let topics = database.ask(async |session| inspect::topics(session).await).await;
        let names = topics.iter().flatten().map(|topic| topic.topic.clone()).collect();
        self.json("topics.json", topics);
        self.json("in-effect.json", database.ask(async |session| inspect::in_effect(session).await).await);
        self.json(
            "dlq-groups.json",
            database.ask(async |session| inspect::letter_groups(session).await).await,
        );
        self.json(
            "keys.json",
            database.ask(async |session| inspect::blocked_keys(session, None, ROWS).await).await,
        );
        let states = super::carry_out::STATES.map(str::to_owned);
        let requests =
            async |session: &mut Session| inspect::requests(session, &states, i64::MAX, ROWS).await;
        self.json("requests.json", database.ask(requests).await);
        self.json("lease.json", database.ask(async |session| inspect::lease(session).await).await);
        self.json("attempts.json", database.ask(async |session| facts::attempts(session, ROWS).await).await);
        if let Some(session) = database.session {
            session.close().await;
        }
        names
    }

    /// What Kafka says of itself and of these topics.
    async fn kafka(&mut self, names: Vec<String>) {
        if self.config.kafka.brokers.is_empty() {
            self.json("kafka.json", Err::<Value, _>("no brokers are configured (KAFKA_BROKERS)"));
            return;
        }
        let settings = daemon::kafka_settings(self.config);
        let asked = async {
            let topics = Topics::start(&settings)?;
            let cluster = topics.cluster_id().await?;
            let mut known = serde_json::Map::new();
            for name in names.into_iter().take(TOPICS) {
                let state = match topics.describe(Arc::from(name.as_str())).await? {
                    TopicState::Ready(found) => {
                        json!({"partitions": found.partitions, "max_message_bytes": found.max_message_bytes,
                                                       "compacted": found.compacted})
                    }
                    TopicState::Sick(refusal) => json!({"trouble": refusal.text}),
                };
                known.insert(name, state);
            }
            anyhow::Ok(json!({"cluster_id": cluster, "topics": known}))
        };
        let answer = tokio::time::timeout(KAFKA_PATIENCE, asked).await;
        let late = |_| anyhow::anyhow!("no answer within {} s", KAFKA_PATIENCE.as_secs());
        self.json("kafka.json", answer.map_err(late).and_then(|answer| answer));
    }

    /// What the relay on this host tells over HTTP.
    async fn relay(&mut self, options: &BundleOptions) {
        let address = options.http.clone().unwrap_or_else(|| http::local(self.config.http.listen));
        for (name, path) in [
            ("metrics.txt", "/metrics"),
            ("livez.txt", "/livez"),
            ("readyz.txt", "/readyz"),
            ("api-status.json", "/api/status"),
        ] {
            self.text(name, http::get(&address, path).await);
        }
    }
}

/// A connection, until it is of no use any more.
struct Database {
    session: Option<Session>,
    trouble: String,
}

impl Database {
    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut Session) -> Result<T, StoreError>,
    ) -> Result<T, String> {
        let Some(session) = &mut self.session else { return Err(self.trouble.clone()) };
        let answer = question(session).await;
        if let Err(error @ (StoreError::Unavailable(_) | StoreError::Silent { .. })) = &answer {
            self.trouble = error.to_string();
            self.session = None;
        }
        answer.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }
}
