//! The servers of a run: one Postgres and three brokers for all scenarios, each behind a proxy of ours.
//!
//! The relays see the proxies only; the harness itself goes past them, so that it can look while everything is broken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::sync::OnceCell;

use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use outbox_relay::servers::{KafkaOptions, PostgresOptions, PrivateKafka, free_port};

use crate::clock::Clock;
use crate::proxy::{Mode, Proxy};
use crate::support::{Kafka, Postgres, blocking, eventually};

/// Replicas of a topic, and how many of them have to confirm.
pub const REPLICAS: i32 = 3;

/// What all scenarios share.
pub struct Cluster {
    pub postgres: Arc<Postgres>,
    /// Broker 1, which is the controller as well, and the clients of the harness.
    pub kafka: Arc<Kafka>,
    /// Brokers 2 and 3.
    pub others: [Arc<PrivateKafka>; 2],
    /// One before each broker.
    pub kafka_proxies: Vec<Proxy>,
    bootstrap: String,
    peculiar: OnceCell<(Arc<Postgres>, Clock)>,
    small: OnceCell<(Arc<PrivateKafka>, Proxy)>,
}

/// Enough for what the scenarios write, and filled in a moment.
const POSTGRES_DISK: u64 = 512 << 20;
const KAFKA_DISK: u64 = 128 << 20;
/// The number of the broker with a small disk.
pub const SMALL_BROKER: i32 = 4;

impl Cluster {
    pub async fn start() -> Cluster {
        let ports: Vec<u16> = (0..3).map(|_| free_port().expect("a free port")).collect();
        let options = |node: u32| Cluster::kafka_options(node, ports[node as usize - 1]);
        let postgres = Postgres::start(Cluster::postgres_options());
        let (postgres, kafka) = tokio::join!(postgres, Kafka::start(options(1)));
        let (second, third) = tokio::join!(kafka.join_with(options(2)), kafka.join_with(options(3)));
        let mut kafka_proxies = Vec::new();
        for (broker, port) in [&kafka.server, &second, &third].into_iter().zip(&ports) {
            kafka_proxies
                .push(Proxy::start_on(*port, local(broker.proxied_port())).await.expect("the port is free"));
        }
        let bootstrap = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        let (peculiar, small) = (OnceCell::new(), OnceCell::new());
        Cluster { postgres, kafka, others: [second, third], kafka_proxies, bootstrap, peculiar, small }
    }

    fn kafka_options(node: u32, proxy: u16) -> KafkaOptions {
        KafkaOptions {
            node,
            proxy: Some(proxy),
            heap: "400m".to_owned(),
            // A topic without its only replica is one scenario's business; the others survive a broker.
            properties: [("replica.lag.time.max.ms", "3000"), ("unclean.leader.election.enable", "false")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..Kafka::options()
        }
    }

    /// A further Postgres, on a small disk and with a clock that can be wrong. Started when it is needed first.
    pub async fn peculiar_postgres(&self) -> &(Arc<Postgres>, Clock) {
        let start = async || {
            let clock = Clock::right();
            let mut options = PostgresOptions {
                disk: Some(POSTGRES_DISK),
                environment: clock.environment(),
                ..Cluster::postgres_options()
            };
            // The log must not fill the disk.
            options.settings.extend([
                ("wal_keep_size".to_owned(), "0".to_owned()),
                ("max_wal_size".to_owned(), "64MB".to_owned()),
                ("min_wal_size".to_owned(), "32MB".to_owned()),
            ]);
            (Postgres::start(options).await, clock)
        };
        self.peculiar.get_or_init(start).await
    }

    /// A fourth broker, on a small disk, and the proxy before it. It runs, from the first scenario that needs it on.
    pub async fn small_broker(&self) -> &(Arc<PrivateKafka>, Proxy) {
        let start = async || {
            let port = free_port().expect("a free port");
            let options =
                KafkaOptions { disk: Some(KAFKA_DISK), ..Cluster::kafka_options(SMALL_BROKER as u32, port) };
            let broker = self.kafka.join_with(options).await;
            let upstream = local(broker.proxied_port());
            (broker, Proxy::start_on(port, upstream).await.expect("the port is free"))
        };
        let small = self.small.get_or_init(start).await;
        let broker = Arc::clone(&small.0);
        blocking(move || broker.start_again()).await;
        small
    }

    /// Holds producers of this client id to so many bytes per second and broker; None lifts the quota.
    pub async fn set_quota(&self, client: &str, bytes_per_second: Option<u32>) {
        let (broker, client) = (self.broker(1), client.to_owned());
        blocking(move || broker.set_producer_quota(&client, bytes_per_second)).await;
    }

    /// Those of a Postgres that a standby may follow.
    pub fn postgres_options() -> PostgresOptions {
        let settings = [("max_prepared_transactions", "10"), ("wal_keep_size", "512MB")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        PostgresOptions { settings, ..PostgresOptions::default() }
    }

    /// The brokers as relays know them.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Broker 1, 2 or 3.
    pub fn broker(&self, node: usize) -> Arc<PrivateKafka> {
        match node {
            1 => Arc::clone(&self.kafka.server),
            other => Arc::clone(&self.others[other - 2]),
        }
    }

    /// SIGKILL.
    pub async fn kill_broker(&self, node: usize) {
        let broker = self.broker(node);
        tokio::task::spawn_blocking(move || broker.kill()).await.expect("killing does not panic");
    }

    pub async fn stop_broker(&self, node: usize) {
        let broker = self.broker(node);
        blocking(move || broker.stop()).await;
    }

    pub async fn start_broker(&self, node: usize) {
        let broker = self.broker(node);
        blocking(move || broker.start_again()).await;
    }

    /// Starts all three at once: none is ready without the others.
    pub async fn start_all_brokers(&self) {
        tokio::join!(self.start_broker(1), async {
            // The controller has to be there for them.
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::join!(self.start_broker(2), self.start_broker(3));
        });
    }

    /// Waits until all replicas of these topics are in sync.
    pub async fn in_sync(&self, topics: &[&str]) {
        for topic in topics {
            let brokers = self.kafka.server.brokers();
            eventually(Duration::from_secs(60), "all replicas are in sync again", async || {
                let (brokers, topic) = (brokers.clone(), (*topic).to_owned());
                blocking(move || is_whole(&brokers, &topic)).await
            })
            .await;
        }
    }

    /// Removes every record that the topic holds now.
    pub async fn remove_records(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.server.brokers())
            .create()
            .expect("a client");
        let mut partitions = TopicPartitionList::new();
        let records = self.kafka.read(topic, None, Duration::from_secs(30)).await;
        for partition in
            records.iter().map(|record| record.partition).collect::<std::collections::BTreeSet<_>>()
        {
            partitions.add_partition_offset(topic, partition, Offset::End).expect("an offset");
        }
        admin.delete_records(&partitions, &AdminOptions::new()).await.expect("records are removed");
    }

    /// Forbids the restricted user to write to a topic, or allows it again.
    pub async fn set_forbidden(&self, topic: &str, forbidden: bool) {
        let (broker, topic) = (self.broker(1), topic.to_owned());
        blocking(move || if forbidden { broker.forbid_writes(&topic) } else { broker.allow_writes(&topic) })
            .await;
    }

    /// Every connection between relays and brokers is treated so from now on.
    pub async fn line_to_kafka(&self, mode: Mode) {
        for proxy in &self.kafka_proxies {
            proxy.set(mode).await;
        }
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Whether every partition of the topic has a leader, and all its replicas in sync.
fn is_whole(brokers: &str, topic: &str) -> Result<bool, KafkaError> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    // Brokers that are just coming back answer later.
    let Ok(metadata) = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)) else {
        return Ok(false);
    };
    let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    Ok(partitions
        .all(|partition| partition.leader() >= 0 && partition.isr().len() == partition.replicas().len()))
}
