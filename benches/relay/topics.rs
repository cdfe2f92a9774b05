//! Topics of the benchmark, and how many records they hold.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client")
}

/// Makes them; those that are there already stay as they are.
pub fn create(brokers: &str, topics: &[String], partitions: i32) {
    let new: Vec<NewTopic<'_>> =
        topics.iter().map(|topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(1))).collect();
    let admin = admin(brokers);
    let created = tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(admin.create_topics(&new, &AdminOptions::new()))
    });
    for topic in created.expect("create topics") {
        match topic {
            Ok(_) | Err((_, rdkafka::error::RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => panic!("create topic {topic}: {code}"),
        }
    }
}

/// Sets a topic's `max.message.bytes`.
pub async fn set_limit(brokers: &str, topic: &str, bytes: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", bytes);
    let altered = admin(brokers).alter_configs([&change], &AdminOptions::new()).await;
    for topic in altered.expect("alter configs") {
        topic.expect("alter a topic");
    }
}

/// A broker hears of a new topic, and that it leads it, a moment after it was made. Blocks.
pub fn patiently<T, E: std::fmt::Display>(mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > deadline => panic!("the broker does not answer: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Counts the records of topics: one question for all partitions.
pub struct Ends {
    consumer: BaseConsumer,
    asked: TopicPartitionList,
}

impl Ends {
    /// Of these topics.
    pub fn of(brokers: &str, topics: &[String], partitions: i32) -> Ends {
        let consumer =
            rdkafka::ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a consumer");
        let mut asked = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..partitions {
                // A time that stands for the end.
                asked.add_partition_offset(topic, partition, Offset::End).expect("an offset");
            }
        }
        Ends { consumer, asked }
    }

    /// Records ever written to them.
    pub fn count(&self) -> u64 {
        let ask = || self.consumer.offsets_for_times(self.asked.clone(), Duration::from_secs(10));
        let found = patiently(ask);
        found
            .elements()
            .iter()
            .map(|one| one.offset().to_raw().map_or(0, |offset| offset.max(0) as u64))
            .sum()
    }
}
