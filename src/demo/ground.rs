//! Where the demo runs: its Postgres, its Kafka, and what it makes there and takes away again.
//!
//! It decides which servers are used and can say so in words. On servers that were there before, it makes one database
//! and one topic under names of its own and touches nothing else.

use std::path::Path;

use anyhow::Context;
use uuid::Uuid;

use super::interrupt::Interrupt;
use super::shop::CUSTOMERS;
use super::view::say;
use crate::cli::DemoOptions;
use crate::config::PostgresConfig;
use crate::kafka::{Consumer, KafkaError, KafkaSettings, MockKafka, OwnTopic, Topics};
use crate::servers::{KafkaOptions, PostgresOptions, PrivateKafka, PrivatePostgres, ServerError};
use crate::store::demo::DemoDatabase;

/// Enough for the customers to share, few enough for a newcomer to look at.
const PARTITIONS: i32 = 6;
/// The relays do not name their headers otherwise here.
const HEADER_EVENT_ID: &str = "event-id";

/// What was made so far. [`Ground::clear`] takes it away; the private servers end with this value.
#[derive(Debug, Default)]
pub struct Ground {
    database: Option<DemoDatabase>,
    topic: Option<OwnTopic>,
    postgres: Option<PrivatePostgres>,
    kafka: Option<PrivateKafka>,
    mock: Option<MockKafka>,
}

/// What the players need to know.
#[derive(Debug, Clone)]
pub struct Places {
    /// The demo's database for the order service.
    pub shop_url: String,
    /// The demo's database for the relays.
    pub relay_url: String,
    /// Bootstrap brokers.
    pub brokers: String,
    /// The demo's topic.
    pub topic: String,
    /// Which Postgres this is, for people.
    pub postgres: String,
    /// Which Kafka this is, for people.
    pub kafka: String,
}

impl Ground {
    /// Starts or finds the servers, both at the same time, then makes database and topic. Whatever was made before a
    /// failure is there to be cleared.
    pub async fn prepare(&mut self, options: &DemoOptions, interrupt: &Interrupt) -> anyhow::Result<Places> {
        // The URL is checked before anything is started.
        let given = options.database_url.as_deref().map(PostgresConfig::from_url).transpose()?;
        let suffix = Uuid::new_v4().simple().to_string()[..10].to_owned();
        let topic = format!("outbox-demo-orders-{suffix}");
        say(&plan(options));
        // A start that is interrupted is waited for by the runtime, and what it has started ends then.
        tokio::select! {
            started = self.start_servers(options, &topic) => started?,
            () = interrupt.stopped() => {
                say("interrupted; leaving when the servers that are starting can be stopped");
                anyhow::bail!("interrupted before the first order")
            }
        }

        let hosts = match (&given, &self.postgres) {
            (Some(given), _) => given.host_urls(),
            // TLS is not to be had there, whatever PGSSLMODE asks for.
            (None, Some(private)) => vec![format!("{}?sslmode=disable", private.url("postgres")).into()],
            (None, None) => unreachable!("without a URL a private Postgres was started"),
        };
        let database = DemoDatabase::create(hosts.iter().map(|host| host.expose()), &suffix).await;
        let database = self.database.insert(database.context("make a database for the demo")?);
        database.fill(CUSTOMERS).await?;
        let brokers = match (&options.kafka_brokers, &self.kafka, &self.mock) {
            (Some(given), _, _) => given.clone(),
            (None, Some(private), _) => private.brokers(),
            (None, None, Some(mock)) => mock.brokers().to_owned(),
            (None, None, None) => unreachable!("without brokers a Kafka was started"),
        };
        if self.mock.is_none() {
            let made = make_topic(&brokers, &topic).await;
            self.topic = Some(made.with_context(|| format!("use the Kafka at {brokers}"))?);
        }
        if given.is_some() {
            say(&format!("made database {} and topic {topic}; both go at the end", database.name()));
        } else {
            database.make_logins().await?;
        }
        let version = database.server_version().to_owned();
        let login = |role: &str| match &self.postgres {
            Some(private) => format!("{}?sslmode=disable", private.url_as(role, database.name())),
            None => database.url(),
        };
        Ok(Places {
            shop_url: login("demo_shop"),
            relay_url: login("demo_relay"),
            postgres: match self.postgres {
                Some(_) => format!("a private PostgreSQL {version}, fsync on"),
                None => format!("PostgreSQL {version} at DATABASE_URL, database {}", database.name()),
            },
            kafka: match self.mock {
                Some(_) => format!("{}, in this process; no real Kafka was used", kafka(options)),
                None => kafka(options),
            },
            brokers,
            topic,
        })
    }

    /// The database that was made.
    pub fn database(&self) -> &DemoDatabase {
        self.database.as_ref().expect("it is asked for after the ground was prepared")
    }

    /// A reader of the topic that was made.
    pub fn consumer(places: &Places) -> anyhow::Result<Consumer> {
        Ok(Consumer::start(&settings(&places.brokers), &places.topic, HEADER_EVENT_ID)?)
    }

    /// Takes database and topic away where the servers stay, and ends the servers that were started. What could not be
    /// taken away is named.
    pub async fn clear(mut self) {
        if let Some(database) = self.database.take()
            && self.postgres.is_none()
        {
            let name = database.name().to_owned();
            if let Err(error) = database.remove().await {
                let error = anyhow::Error::new(error);
                say(&format!("database {name} could not be dropped, please drop it: {error:#}"));
            }
        }
        if let Some(topic) = self.topic.take()
            && self.kafka.is_none()
        {
            let name = topic.name().to_owned();
            if let Err(error) = topic.delete().await {
                say(&format!("topic {name} could not be deleted, please delete it: {error}"));
            }
        }
        tokio::task::spawn_blocking(move || drop(self)).await.ok();
    }

    async fn start_servers(&mut self, options: &DemoOptions, topic: &str) -> anyhow::Result<()> {
        let postgres = async {
            if options.database_url.is_some() {
                return Ok(None);
            }
            // A newcomer should see the pace of a Postgres that keeps what it commits.
            let wanted = PostgresOptions { fsync: true, max_connections: 50, ..PostgresOptions::default() };
            let started = blocking(move || PrivatePostgres::start(wanted)).await;
            started.map(Some).map_err(|error| advise(error, "or name a server with --database-url"))
        };
        let kafka = async {
            let Some(jars) = real_kafka(options) else { return Ok(None) };
            let wanted = KafkaOptions::new(jars);
            let started = blocking(move || PrivateKafka::start(wanted)).await;
            let advice = "or leave out --kafka-jars for the mock cluster";
            started.map(Some).map_err(|error| advise(error, advice))
        };
        // Not try_join: a server whose start is given up half-way could not be ended before its files go.
        let (postgres, kafka) = tokio::join!(postgres, kafka);
        (self.postgres, self.kafka) = (postgres?, kafka?);
        if options.kafka_brokers.is_none() && options.kafka_jars.is_none() {
            self.mock = Some(MockKafka::start(topic, PARTITIONS)?);
        }
        Ok(())
    }
}

async fn make_topic(brokers: &str, topic: &str) -> Result<OwnTopic, KafkaError> {
    let settings = settings(brokers);
    // Brokers that cannot be reached say so to this question, and sooner.
    Topics::start(&settings)?.cluster_id().await?;
    OwnTopic::create(&settings, topic, PARTITIONS).await
}

/// The jars, if a broker is to be started from them.
fn real_kafka(options: &DemoOptions) -> Option<&Path> {
    options.kafka_jars.as_deref().filter(|_| options.kafka_brokers.is_none())
}

fn plan(options: &DemoOptions) -> String {
    let postgres = match options.database_url {
        Some(_) => "the Postgres at DATABASE_URL",
        None => "a private Postgres",
    };
    format!("getting {postgres} and {} ready", kafka(options))
}

fn kafka(options: &DemoOptions) -> String {
    match (&options.kafka_brokers, &options.kafka_jars) {
        (Some(brokers), _) => format!("the Kafka at {brokers}"),
        (None, Some(jars)) => format!("a private Apache Kafka{}", version(jars)),
        (None, None) => "librdkafka's mock cluster".to_owned(),
    }
}

/// A blank and the version in the jar's name: `kafka_2.13-4.1.1.jar`. Nothing if there is no such jar.
fn version(jars: &Path) -> String {
    let mut files = std::fs::read_dir(jars).into_iter().flatten().flatten();
    let version = files.find_map(|file| {
        let name = file.file_name().into_string().ok()?;
        Some(format!(" {}", name.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?))
    });
    version.unwrap_or_default()
}

fn settings(brokers: &str) -> KafkaSettings {
    // The sizes matter to producers only.
    KafkaSettings {
        brokers: brokers.to_owned(),
        properties: Vec::new(),
        window_rows: 0,
        max_row_bytes: 0,
        stall_after: std::time::Duration::from_secs(10),
    }
}

async fn blocking<T: Send + 'static>(
    start: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, anyhow::Error> {
    Ok(tokio::task::spawn_blocking(start).await??)
}

/// What a missing part asks of its reader, and what else would do.
fn advise(error: anyhow::Error, instead: &str) -> anyhow::Error {
    match error.downcast_ref() {
        Some(ServerError::Missing { .. }) => anyhow::anyhow!("{error} ({instead})"),
        _ => error,
    }
}
