//! A private Kafka with an admin client and a reader of whole topics; shared by all tests or one test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_relay::servers::kafka::KAFKA_JARS;
use outbox_relay::servers::{KafkaOptions, PrivateKafka};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tokio::sync::OnceCell;

use super::{blocking, eventually};

/// For requests to a broker that shares two cores with everything else.
const REQUEST: Duration = Duration::from_secs(30);

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970, if the record has a time.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The value of the first header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// The row's `event_id`.
    #[track_caller]
    pub fn event_id(&self) -> uuid::Uuid {
        let text = self.header("event-id").expect("every record of the relay has an event-id");
        text.parse().expect("an event-id is a uuid")
    }

    /// The row's `id`.
    #[track_caller]
    pub fn seq(&self) -> i64 {
        let text = self.header("outbox-seq").expect("every record of the relay has an outbox-seq");
        text.parse().expect("an outbox-seq is a number")
    }

    /// The leader's epoch, where the relay was told to send it under this name.
    pub fn epoch(&self) -> Option<i64> {
        self.header("outbox-epoch")?.parse().ok()
    }

    fn from(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.collect(),
        }
    }
}

/// A broker and the clients with which tests look at it.
pub struct Kafka {
    pub server: Arc<PrivateKafka>,
    admin: AdminClient<DefaultClientContext>,
}

impl Kafka {
    /// The broker that all tests of this process share. It ends with the process.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Kafka>> = OnceCell::const_new();
        Arc::clone(SHARED.get_or_init(|| Self::start(Self::options())).await)
    }

    /// A broker for one test, to be stopped and killed as it likes.
    pub async fn start(options: KafkaOptions) -> Arc<Self> {
        let server = Arc::new(blocking(|| PrivateKafka::start(options)).await);
        let admin = client(&server.brokers()).create().expect("an admin client needs no connection");
        Arc::new(Self { server, admin })
    }

    /// The options of the tests' brokers: `OUTBOX_RELAY_KAFKA_JARS`, else what `make kafka` has fetched.
    pub fn options() -> KafkaOptions {
        let fetched = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kafka/lib");
        let jars = std::env::var_os(KAFKA_JARS).map_or_else(fetched, PathBuf::from);
        // Compaction comes round twice a second instead of four times a minute.
        let properties = vec![("log.cleaner.backoff.ms".to_owned(), "500".to_owned())];
        KafkaOptions { restricted_listener: true, properties, ..KafkaOptions::new(jars) }
    }

    /// Removes the records of a topic's first partition below this offset, as its retention would.
    pub async fn delete_records(&self, topic: &str, before: i64) {
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Offset(before)).expect("an offset");
        let answer = self.admin.delete_records(&partitions, &AdminOptions::new()).await;
        answer.expect("records are removed");
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        self.create_replicated_topic(topic, partitions, 1, configs).await;
    }

    /// Creates a topic with this many replicas of each partition.
    pub async fn create_replicated_topic(
        &self,
        topic: &str,
        partitions: i32,
        replicas: i32,
        configs: &[(&str, &str)],
    ) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        let new = configs.iter().fold(new, |new, (name, value)| new.set(name, value));
        // A broker that this machine starves loses its session, and for a moment the controller knows of none.
        eventually(REQUEST, "the topic is made", async || {
            let done = self.admin.create_topics([&new], &requests()).await.expect("create topic");
            done.into_iter().all(|one| match one {
                Ok(_) => true,
                Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => false,
                Err(error) => panic!("create topic {error:?}"),
            })
        })
        .await;
    }

    /// Creates a topic whose partitions have their replicas on these brokers, the first of which leads.
    pub async fn create_assigned_topic(&self, topic: &str, replicas: &[&[i32]], configs: &[(&str, &str)]) {
        let new = NewTopic::new(topic, replicas.len() as i32, TopicReplication::Variable(replicas));
        let new = configs.iter().fold(new, |new, (name, value)| new.set(name, value));
        let done = self.admin.create_topics(&[new], &requests()).await.expect("create topic");
        done.into_iter().for_each(|one| _ = one.unwrap_or_else(|error| panic!("create topic {error:?}")));
    }

    /// Creates a topic of one partition, whose only replica is on this broker.
    pub async fn create_topic_on(&self, topic: &str, broker: i32) {
        self.create_assigned_topic(topic, &[&[broker]], &[]).await;
    }

    /// A further broker of this cluster.
    pub async fn join(&self, node: u32) -> Arc<PrivateKafka> {
        self.join_with(KafkaOptions { node, ..Self::options() }).await
    }

    /// As [`Self::join`], with options.
    pub async fn join_with(&self, options: KafkaOptions) -> Arc<PrivateKafka> {
        let options = KafkaOptions { joins: Some(self.server.controller()), ..options };
        Arc::new(blocking(|| PrivateKafka::start(options)).await)
    }

    /// Sets exactly these; a setting that is not named returns to its default.
    pub async fn alter_topic(&self, topic: &str, configs: &[(&str, &str)]) {
        let alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let alter = configs.iter().fold(alter, |alter, (name, value)| alter.set(name, value));
        let done = self.admin.alter_configs(&[alter], &requests()).await.expect("alter topic");
        done.into_iter().for_each(|one| _ = one.unwrap_or_else(|error| panic!("alter topic {error:?}")));
    }

    /// Adds partitions, up to this number of them.
    pub async fn add_partitions(&self, topic: &str, partitions: usize) {
        let done = self.admin.create_partitions(&[NewPartitions::new(topic, partitions)], &requests()).await;
        let done = done.expect("add partitions").into_iter();
        done.for_each(|one| _ = one.unwrap_or_else(|error| panic!("add partitions {error:?}")));
    }

    /// Deletes those topics that are there and can be deleted now.
    pub async fn forget_topics(&self, topics: &[&str]) {
        let _ = self.admin.delete_topics(topics, &requests()).await;
    }

    pub async fn delete_topic(&self, topic: &str) {
        let done = self.admin.delete_topics(&[topic], &requests()).await.expect("delete topic");
        done.into_iter().for_each(|one| _ = one.unwrap_or_else(|error| panic!("delete topic {error:?}")));
    }

    /// Reads a topic from its start: to its end, or until `at_least` records are there. By partition and offset.
    /// When the time is over, the former panics and the latter returns what there is.
    pub async fn read(&self, topic: &str, at_least: Option<usize>, within: Duration) -> Vec<Record> {
        let (brokers, topic) = (self.server.brokers(), topic.to_owned());
        blocking(move || read(&brokers, &topic, at_least, within)).await
    }
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    // A broker that was restarted is found again at once.
    config.set("reconnect.backoff.max.ms", "200");
    config
}

fn requests() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

fn read(
    brokers: &str,
    topic: &str,
    at_least: Option<usize>,
    within: Duration,
) -> Result<Vec<Record>, KafkaError> {
    let deadline = Instant::now() + within;
    let mut config = client(brokers);
    config.set("group.id", "tests").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create()?;

    // A broker hears of a new topic a moment after the controller has made it.
    let partitions = loop {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let partitions: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        if !partitions.is_empty() {
            break partitions;
        }
        assert!(Instant::now() < deadline, "topic {topic} does not exist");
        consumer.poll(Duration::from_millis(20));
    };
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;

    let mut records = Vec::new();
    let mut ended = Vec::new();
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => records.push(Record::from(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) if !ended.contains(&partition) => {
                ended.push(partition)
            }
            // Everything else is a broker that is coming back; the deadline decides.
            Some(Err(_)) | None => {}
        }
        let enough = match at_least {
            Some(wanted) => records.len() >= wanted,
            None => ended.len() == partitions.len(),
        };
        if enough {
            break;
        }
    }
    assert!(
        at_least.is_some() || ended.len() == partitions.len(),
        "topic {topic} was not read to its end within {within:?}"
    );
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}
