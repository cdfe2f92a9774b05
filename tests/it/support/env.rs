//! A test's surroundings: a database and a topic prefix of its own on the shared servers, or servers of its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outbox_relay::servers::{KafkaOptions, PostgresOptions, PrivatePooler};
use outbox_relay::store::Server;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::OnceCell;

use super::kafka::{Kafka, Record};
use super::postgres::{Postgres, migrate};
use super::relay::{Relay, RelayBuilder};
use super::wait::{DEADLINE, wait_for};

/// When it is set, all relays go through PgBouncer: `OUTBOX_RELAY_TEST_POOLER=1 cargo test --test it crash::`. Tests of
/// plans, and those that log in as a relay themselves, are not meant for it.
const POOLER: &str = "OUTBOX_RELAY_TEST_POOLER";

/// What a test needs to be different.
#[derive(Debug, Default)]
pub struct EnvBuilder {
    postgres: Option<PostgresOptions>,
    kafka: Option<KafkaOptions>,
    unmigrated: bool,
    pooler: bool,
}

impl EnvBuilder {
    /// Relays go through a PgBouncer in transaction mode.
    pub fn pooler(mut self) -> Self {
        self.pooler = true;
        self
    }

    /// A Postgres server that this test alone uses, and may stop.
    pub fn own_postgres(self) -> Self {
        self.postgres(PostgresOptions::default())
    }

    /// A Postgres server of the test's own, with options.
    pub fn postgres(mut self, options: PostgresOptions) -> Self {
        self.postgres = Some(options);
        self
    }

    /// A Kafka broker that this test alone uses, and may stop.
    pub fn own_kafka(self) -> Self {
        self.kafka(Kafka::options())
    }

    /// A Kafka broker of the test's own, with options (from [`Kafka::options`]).
    pub fn kafka(mut self, options: KafkaOptions) -> Self {
        self.kafka = Some(options);
        self
    }

    /// A database without schema `outbox`.
    pub fn unmigrated(mut self) -> Self {
        self.unmigrated = true;
        self
    }

    pub async fn start(self) -> Env {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").to_owned();
        let postgres = async {
            match self.postgres {
                Some(options) => Postgres::start(options).await,
                None => Postgres::shared().await,
            }
        };
        let kafka = async {
            match self.kafka {
                Some(options) => OnceCell::new_with(Some(Kafka::start(options).await)),
                // The shared one starts when the first test needs it.
                None => OnceCell::new(),
            }
        };
        let (postgres, kafka) = tokio::join!(postgres, kafka);
        let database = if self.unmigrated {
            postgres.empty_database(&test).await
        } else {
            postgres.migrated_database(&test).await
        };
        let pooled = self.pooler || std::env::var_os(POOLER).is_some();
        let pooler = if pooled { Some(postgres.pooler().await) } else { None };
        Env { postgres, pooler, kafka, database, admin: OnceLock::new(), app: OnceLock::new() }
    }
}

/// A test's surroundings.
pub struct Env {
    pub postgres: Arc<Postgres>,
    pooler: Option<Arc<PrivatePooler>>,
    kafka: OnceCell<Arc<Kafka>>,
    database: String,
    admin: OnceLock<PgPool>,
    app: OnceLock<PgPool>,
}

impl Env {
    /// A migrated database of the test's own, on the shared servers.
    pub async fn new() -> Self {
        Self::builder().start().await
    }

    pub fn builder() -> EnvBuilder {
        EnvBuilder::default()
    }

    /// As [`Self::new`], on a Postgres that this test may stop.
    pub async fn with_own_postgres() -> Self {
        Self::builder().own_postgres().start().await
    }

    /// As [`Self::new`], with a Kafka that this test may stop.
    pub async fn with_own_kafka() -> Self {
        Self::builder().own_kafka().start().await
    }

    /// The database as the superuser sees it.
    pub fn admin_url(&self) -> String {
        self.url_as("postgres")
    }

    /// The database for a relay, with a relay's rights.
    pub fn relay_url(&self) -> String {
        match &self.pooler {
            Some(pooler) => pooler.url_as("relay_login", &self.database),
            None => self.url_as("relay_login"),
        }
    }

    /// The PgBouncer that relays go through. Panics when there is none.
    pub fn pooler(&self) -> &Arc<PrivatePooler> {
        self.pooler.as_ref().expect("this test was started with a pooler")
    }

    /// The same database for a part of a relay inside the test.
    pub fn store(&self) -> Server {
        let server = Server::new([self.relay_url().as_str()]).expect("the URL is well formed");
        server.behind_pooler(self.pooler.is_some())
    }

    fn relay_at(&self, brokers: &str) -> RelayBuilder {
        let relay = RelayBuilder::new(&self.relay_url(), brokers);
        if self.pooler.is_some() { relay.set("postgres.pooler", true) } else { relay }
    }

    /// The database for a service, with a producer's rights.
    pub fn app_url(&self) -> String {
        self.url_as("app_login")
    }

    /// The database for any login role.
    pub fn url_as(&self, role: &str) -> String {
        self.postgres.server.url_as(role, &self.database)
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Connections of the superuser.
    pub fn admin(&self) -> &PgPool {
        self.admin.get_or_init(|| pool(&self.admin_url(), 5))
    }

    /// Connections of a service.
    pub fn app(&self) -> &PgPool {
        self.app.get_or_init(|| pool(&self.app_url(), 40))
    }

    /// Runs statements as the superuser.
    pub async fn execute(&self, sql: &str) {
        self.postgres.execute(&self.database, sql).await;
    }

    /// Runs `outbox-relay migrate` as the superuser.
    pub async fn migrate(&self) {
        migrate(&self.admin_url()).await;
    }

    /// The broker, started by now.
    pub async fn kafka(&self) -> &Arc<Kafka> {
        self.kafka.get_or_init(Kafka::shared).await
    }

    /// The full name of this test's topic.
    pub fn topic(&self, name: &str) -> String {
        let own = self.database.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        format!("{own}.{name}")
    }

    /// Creates this test's topic and returns its full name, which all other verbs take.
    pub async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
        let topic = self.topic(name);
        self.kafka().await.create_topic(&topic, partitions, configs).await;
        topic
    }

    /// Sets exactly these; a setting that is not named returns to its default.
    pub async fn alter_topic(&self, topic: &str, configs: &[(&str, &str)]) {
        self.kafka().await.alter_topic(topic, configs).await;
    }

    pub async fn delete_topic(&self, topic: &str) {
        self.kafka().await.delete_topic(topic).await;
    }

    /// Forbids relays that were built with [`RelayBuilder`]'s restricted login to write to the topic.
    pub async fn forbid_topic(&self, topic: &str) {
        let (server, topic) = (Arc::clone(&self.kafka().await.server), topic.to_owned());
        super::blocking(move || server.forbid_writes(&topic)).await;
    }

    /// Lets the same relays write to the topic and not read its configuration.
    pub async fn hide_configuration(&self, topic: &str) {
        let (server, topic) = (Arc::clone(&self.kafka().await.server), topic.to_owned());
        super::blocking(move || server.hide_configuration(&topic)).await;
    }

    /// Takes back what [`Self::forbid_topic`] did.
    pub async fn allow_topic(&self, topic: &str) {
        let (server, topic) = (Arc::clone(&self.kafka().await.server), topic.to_owned());
        super::blocking(move || server.allow_writes(&topic)).await;
    }

    /// Holds producers of this client id to so many bytes per second; None lifts the quota.
    pub async fn set_producer_quota(&self, client_id: &str, bytes_per_second: Option<u32>) {
        let (server, client_id) = (Arc::clone(&self.kafka().await.server), client_id.to_owned());
        super::blocking(move || server.set_producer_quota(&client_id, bytes_per_second)).await;
    }

    /// Everything in the topic now, by partition and offset.
    pub async fn read_topic(&self, topic: &str) -> Vec<Record> {
        self.kafka().await.read(topic, None, DEADLINE).await
    }

    /// Waits until the topic holds `count` records, and returns what it holds by then.
    #[track_caller]
    pub fn expect_records(&self, topic: &str, count: usize) -> impl Future<Output = Vec<Record>> {
        self.expect_records_within(topic, count, DEADLINE)
    }

    /// As [`Self::expect_records`], with a deadline of one's own.
    #[track_caller]
    pub fn expect_records_within(
        &self,
        topic: &str,
        count: usize,
        within: Duration,
    ) -> impl Future<Output = Vec<Record>> {
        let caller = std::panic::Location::caller();
        async move {
            let records = self.kafka().await.read(topic, Some(count), within).await;
            let found = records.len();
            assert!(found >= count, "{caller}: {found} of {count} records in {topic} within {within:?}");
            records
        }
    }

    /// A relay on this database and broker, to be configured and started.
    pub async fn relay(&self) -> RelayBuilder {
        self.relay_at(&self.kafka().await.server.brokers())
    }

    /// As [`Self::relay`], logged in to Kafka as the user to whom a topic can be forbidden.
    pub async fn restricted_relay(&self) -> RelayBuilder {
        use outbox_relay::servers::kafka::RELAY_USER;
        let relay = self.relay_at(&self.kafka().await.server.restricted_brokers());
        relay
            .property("security.protocol", "sasl_plaintext")
            .property("sasl.mechanism", "PLAIN")
            .property("sasl.username", RELAY_USER)
            .property("sasl.password", RELAY_USER)
    }

    /// Starts a relay with defaults.
    pub async fn start_relay(&self) -> Relay {
        self.relay().await.start().await
    }

    /// The one value that a query of the superuser answers.
    pub async fn one<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let answer = sqlx::query_scalar(sql).fetch_one(self.admin()).await;
        answer.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Waits until the topic is read on its own, for this cause.
    #[track_caller]
    pub fn expect_lane(&self, topic: &str, cause: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let open = format!(
            "select count(*) = 1 from outbox.open_lane where topic = '{topic}' and cause = '{cause}'"
        );
        async move {
            wait_for(DEADLINE, &format!("{caller}: {open}"), async || {
                let answer = sqlx::query_scalar::<_, Option<bool>>(&open).fetch_one(self.admin()).await;
                answer.ok().flatten().unwrap_or(false).then_some(())
            })
            .await;
        }
    }

    /// Waits until a query of the superuser answers true.
    #[track_caller]
    pub fn eventually_true(&self, sql: &str) -> impl Future<Output = ()> {
        wait_for(DEADLINE, sql, async move || {
            let answer = sqlx::query_scalar::<_, Option<bool>>(sql).fetch_one(self.admin()).await;
            answer.ok().flatten().unwrap_or(false).then_some(())
        })
    }

    /// Stops Postgres in the way of `pg_ctl stop -m fast`.
    pub async fn stop_postgres_fast(&self) {
        let server = Arc::clone(&self.postgres.server);
        super::blocking(move || server.stop_fast()).await;
    }

    /// Stops Postgres in the way of `pg_ctl stop -m immediate`.
    pub async fn stop_postgres_immediate(&self) {
        let server = Arc::clone(&self.postgres.server);
        super::blocking(move || server.stop_immediate()).await;
    }

    pub async fn start_postgres_again(&self) {
        let server = Arc::clone(&self.postgres.server);
        super::blocking(move || server.start_again()).await;
    }

    pub async fn stop_kafka(&self) {
        let server = Arc::clone(&self.kafka().await.server);
        super::blocking(move || server.stop()).await;
    }

    pub async fn kill_kafka(&self) {
        let server = Arc::clone(&self.kafka().await.server);
        tokio::task::spawn_blocking(move || server.kill()).await.expect("killing does not panic");
    }

    pub async fn start_kafka_again(&self) {
        let server = Arc::clone(&self.kafka().await.server);
        super::blocking(move || server.start_again()).await;
    }
}

fn pool(url: &str, connections: u32) -> PgPool {
    let options = PgPoolOptions::new().max_connections(connections);
    options.connect_lazy(url).expect("the URLs of private servers are well formed")
}
