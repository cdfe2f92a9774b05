//! One scenario's surroundings: a database and topics of its own on the shared servers, relays, writers, and what happened when.
//!
//! The order of a scenario is `play`'s, what is broken `scenarios`' business, what it is worth the checker's.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outbox_relay::servers::kafka::RELAY_USER;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::checker::{Fault, Micros, Record};
use crate::clock::Clock;
use crate::cluster::{Cluster, REPLICAS, SMALL_BROKER, local};
use crate::evidence;
use crate::pooler::Pooler;
use crate::proxy::{Mode, Proxy};
use crate::scenarios::{Scenario, Server};
use crate::standby::Standby;
use crate::support::{DEADLINE, Postgres, Relay, RelayBuilder, blocking, eventually, wait_for};
use crate::watch::Watch;
use crate::writers::{TABLES, Writers};

pub const LEASE: Duration = Duration::from_secs(2);
pub const STALL: Duration = Duration::from_secs(3);
/// Rows handed over and not settled, which is what a fault may repeat.
pub const WINDOW: u64 = 2000;
/// The brokers' time of a record tells whether a copy belongs to a fault.
const CONFIGS: [(&str, &str); 2] =
    [("min.insync.replicas", "2"), ("message.timestamp.type", "LogAppendTime")];
/// A scenario that is being played.
pub struct Scene<'c> {
    pub cluster: &'c Cluster,
    pub scenario: &'c Scenario,
    /// That of the cluster, or its own.
    pub postgres: Arc<Postgres>,
    pub(crate) standby: Option<Standby>,
    /// Between the relays' proxies and Postgres.
    pub(crate) pooler: Option<Pooler>,
    pub database: String,
    /// The database past every proxy.
    pub admin: PgPool,
    /// Six partitions, most of the rows.
    pub main: String,
    /// One partition.
    pub side: String,
    /// At-most-once.
    pub once: String,
    pub relays: Vec<Relay>,
    /// Theirs, if the scenario makes it jump.
    pub relays_clock: Option<Clock>,
    /// One before Postgres for each relay.
    pub postgres_proxies: Vec<Proxy>,
    pub writers: Writers,
    pub watch: Watch,
    /// How long a scenario goes on that can take any time.
    pub length: Duration,
    pub random: StdRng,
    pub began: Instant,
    /// The same moment, as brokers name it.
    pub began_at: SystemTime,
    pub faults: Vec<Fault>,
    /// Records that somebody has removed, as a consumer saw them before.
    pub removed: Vec<Record>,
    /// A relay was killed, and its counters with it.
    pub counters_lost: bool,
}

impl<'c> Scene<'c> {
    /// Makes everything and waits until a relay leads.
    pub async fn open(cluster: &'c Cluster, scenario: &'c Scenario, seed: u64) -> Scene<'c> {
        let postgres = match scenario.server {
            Server::Shared => Arc::clone(&cluster.postgres),
            Server::Peculiar => Arc::clone(&cluster.peculiar_postgres().await.0),
            Server::Followed { .. } => Postgres::start(Cluster::postgres_options()).await,
        };
        let database = postgres.migrated_database(scenario.name).await;
        let own = database.replace('_', "-");
        let topic = |name: &str| format!("{own}.{name}");
        let admin = pool(&postgres.server.url(&database));
        let app = pool(&postgres.server.url_as("app_login", &database));
        if scenario.small_broker {
            cluster.small_broker().await;
        }
        let mut scene = Scene {
            cluster,
            scenario,
            main: topic("main"),
            side: topic("side"),
            once: topic("once"),
            postgres,
            standby: None,
            pooler: None,
            database,
            admin,
            relays: Vec::new(),
            relays_clock: scenario.relays_have_a_clock.then(Clock::right),
            postgres_proxies: Vec::new(),
            writers: Writers::none(),
            watch: Watch::start(),
            length: scenario.length,
            random: StdRng::seed_from_u64(seed),
            began: Instant::now(),
            began_at: SystemTime::now(),
            faults: Vec::new(),
            removed: Vec::new(),
            counters_lost: false,
        };
        scene.make_topic(&scene.main, 6).await;
        scene.make_topic(&scene.once, 2).await;
        scene.make_side().await;
        // A broker that does not know yet what it leads would stall the first rows.
        scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
        if let Server::Followed { waits } = scenario.server {
            scene.follow(waits).await;
        }
        if scenario.pooler {
            scene.pool_connections().await;
        }
        let topics = scene.topics();
        let topics: Vec<(&str, u32)> =
            topics.iter().map(|(topic, weight)| (topic.as_str(), *weight)).collect();
        scene.execute(TABLES).await;
        scene.execute(&Writers::turns(&topics)).await;
        for number in 0..scenario.relays {
            let extra = if number == 0 { scenario.first_relay } else { &[] };
            scene.add_relay(extra).await;
            if number == 0 {
                scene.relays[0].wait_for_log("leading").await;
            }
        }
        scene.writers = Writers::start(app, &topics, seed);
        scene
    }

    /// What is written to, with weights.
    pub fn topics(&self) -> [(String, u32); 3] {
        [(self.main.clone(), 7), (self.side.clone(), 2), (self.once.clone(), 1)]
    }

    async fn make_topic(&self, topic: &str, partitions: i32) {
        let kafka = &self.cluster.kafka;
        if self.scenario.small_broker {
            // Each of them leads some partitions.
            let brokers = [1, 2, SMALL_BROKER].repeat(2);
            let assigned: Vec<&[i32]> =
                (0..partitions as usize).map(|number| &brokers[number % 3..][..3]).collect();
            kafka.create_assigned_topic(topic, &assigned, &CONFIGS).await;
        } else {
            kafka.create_replicated_topic(topic, partitions, REPLICAS, &CONFIGS).await;
        }
    }

    /// Makes topic `side`, which some scenarios delete.
    pub async fn make_side(&self) {
        if self.scenario.lonely_side {
            self.cluster.kafka.create_topic_on(&self.side, 3).await;
            self.cluster.kafka.alter_topic(&self.side, &CONFIGS[1..]).await;
        } else {
            self.make_topic(&self.side, 1).await;
        }
    }

    /// A relay with a proxy of its own before Postgres.
    pub async fn add_relay(&mut self, environment: &[(&str, &str)]) -> usize {
        let port = self.pooler.as_ref().map_or(self.postgres.server.port(), Pooler::port);
        self.postgres_proxies.push(Proxy::start(local(port)).await.expect("a free port"));
        self.start_relay(self.postgres_proxies.len() - 1, environment).await
    }

    /// A relay behind this proxy.
    pub async fn start_relay(&mut self, proxy: usize, environment: &[(&str, &str)]) -> usize {
        let port = self.postgres_proxies[proxy].address().port();
        let url = format!("postgres://relay_login@127.0.0.1:{port}/{}", self.database);
        let brokers = match self.scenario.restricted {
            false => self.cluster.bootstrap().to_owned(),
            true => self.cluster.kafka.server.restricted_brokers(),
        };
        let mut relay = RelayBuilder::new(&url, &brokers)
            .set("lease.ttl", humantime::format_duration(LEASE))
            .set("kafka.stall_after", humantime::format_duration(STALL))
            .set("kafka.header_epoch", "outbox-epoch")
            .set("relay.window_rows", WINDOW)
            .set("relay.page_rows", 500)
            .set("retry.base", "100ms")
            .set("retry.max", "1s")
            .property("client.id", &self.database)
            .set("postgres.pooler", self.pooler.is_some())
            .topic(&self.once, "delivery = 'at_most_once'")
            .expect_errors();
        if self.scenario.restricted {
            relay = relay
                .property("security.protocol", "sasl_plaintext")
                .property("sasl.mechanism", "PLAIN")
                .property("sasl.username", RELAY_USER)
                .property("sasl.password", RELAY_USER);
        }
        for (name, value) in self.scenario.relay_settings {
            relay = relay.set(name, value);
        }
        if let Some(bug) = &self.scenario.bug {
            relay = relay.env("OUTBOX_RELAY_BUG", bug);
        }
        let clock = self.relays_clock.as_ref().map(Clock::environment).unwrap_or_default();
        let clock = clock.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in environment.iter().copied().chain(clock) {
            relay = relay.env(name, value);
        }
        let relay = relay.start().await;
        self.watch.add(relay.pid());
        // One that replaces another takes its place.
        if proxy < self.relays.len() {
            self.relays[proxy] = relay;
            return proxy;
        }
        self.relays.push(relay);
        proxy
    }

    /// The relay that leads, by its own word. Waits for one.
    pub async fn leader(&self) -> usize {
        wait_for(DEADLINE, "a relay leads", async || {
            for (number, relay) in self.relays.iter().enumerate() {
                if relay.exited().is_none()
                    && relay.get("/metrics").await.is_some_and(|(_, text)| text.contains("\noutbox_leader 1"))
                {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    /// Kills a relay.
    pub async fn kill_relay(&mut self, number: usize) {
        self.counters_lost = true;
        self.relays[number].kill().await;
    }

    /// Runs statements past every proxy.
    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(sql).execute(&self.admin).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Waits until a query past every proxy answers true.
    pub async fn until(&self, sql: &str) {
        eventually(DEADLINE, sql, async || {
            let answer = sqlx::query_scalar::<_, Option<bool>>(sql).fetch_one(&self.admin).await;
            answer.ok().flatten() == Some(true)
        })
        .await;
    }

    /// Stops a topic, and waits until nothing of it is on its way.
    pub async fn pause(&self, topic: &str) {
        self.execute(&format!("select outbox.pause('{topic}')")).await;
        let stands = format!("select cause = 'paused' from outbox.open_lane where topic = '{topic}'");
        self.until(&stands).await;
        // Everything before the lane's position is settled.
        let settled = format!(
            "select not exists (select from public.truth t, outbox.open_lane l where t.topic = '{topic}' and l.topic = t.topic
                                   and t.id <= l.high and not exists (select from outbox.ledger p where p.published @> t.id))"
        );
        self.until(&settled).await;
    }

    pub async fn resume(&self, topic: &str) {
        self.execute(&format!("select outbox.resume('{topic}')")).await;
    }

    /// Notes what the topic holds, because it will be gone.
    pub async fn note_removed(&mut self, topic: &str) {
        let records = evidence::read(self, topic).await;
        self.removed.extend(records);
    }

    /// Every connection between relays and Postgres is treated so from now on.
    pub async fn line_to_postgres(&self, mode: Mode) {
        for proxy in &self.postgres_proxies {
            proxy.set(mode).await;
        }
    }

    /// All relays are led to this port of 127.0.0.1, and lose their connections.
    pub async fn lead_to(&self, port: u16) {
        self.postgres_proxies.iter().for_each(|proxy| proxy.set_upstream(local(port)));
        self.line_to_postgres(Mode::Cut).await;
        self.line_to_postgres(Mode::Pass).await;
    }

    pub async fn postgres_stops(&self, fast: bool) {
        let server = Arc::clone(&self.postgres.server);
        blocking(move || if fast { server.stop_fast() } else { server.stop_immediate() }).await;
    }

    pub async fn postgres_starts(&self) {
        let server = Arc::clone(&self.postgres.server);
        blocking(move || server.start_again()).await;
    }

    /// So many rows more have been committed.
    pub async fn more(&self, rows: usize) {
        let wanted = self.writers.committed() + rows;
        let get_on = async || self.writers.committed() >= wanted;
        eventually(Duration::from_secs(90), "the writers get on", get_on).await;
    }

    /// When relays replaced their producers, as far as their logs tell, on our clock.
    pub fn replacements(&self) -> Vec<Micros> {
        let began = self.began_at;
        let lines = self.relays.iter().flat_map(Relay::log);
        let replaced =
            lines.filter(|line| line.message().is_some_and(|text| text.contains("producer replaced")));
        replaced
            .filter_map(|line| line.read_at.duration_since(began).ok())
            .map(|at| at.as_micros() as Micros)
            .collect()
    }

    /// Microseconds since the beginning.
    pub fn now(&self) -> Micros {
        self.began.elapsed().as_micros() as Micros
    }

    /// How old the oldest row is that waits. `None`: Postgres does not answer.
    pub async fn lag(&self) -> Option<f64> {
        let sql = "select coalesce(max(extract(epoch from clock_timestamp() - oldest)), 0)::float8 from outbox.backlog";
        let asked = sqlx::query_scalar(sql).fetch_one(&self.admin);
        tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok()
    }
}

pub fn pool(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(5));
    options.connect_lazy(url).expect("the URLs of private servers are well formed")
}
