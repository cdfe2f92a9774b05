//! librdkafka's mock cluster: brokers inside this process that other processes reach over TCP. What the demo publishes
//! to where there is no Kafka.
//!
//! It keeps about 5 MB a partition and forgets the rest, and it stores a repeated batch twice, so it proves less than a
//! real Kafka; whoever uses it has to say so. The cluster is tied to the thread that made it, hence a thread of its own.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::mocking::MockCluster;

use super::{KafkaError, classify};

/// A running mock cluster of one broker; it ends when this is dropped.
#[derive(Debug)]
pub struct MockKafka {
    brokers: String,
    // In an Option so that dropping can let go of it first; the thread waits for just that.
    running: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockKafka {
    /// Starts it with one topic.
    pub fn start(topic: &str, partitions: i32) -> Result<MockKafka, KafkaError> {
        let topic = topic.to_owned();
        let (running, ends) = mpsc::channel();
        let (answer, started) = mpsc::channel();
        let serve = move || {
            let cluster = MockCluster::new(1).and_then(|cluster| {
                cluster.create_topic(&topic, partitions, 1)?;
                Ok(cluster)
            });
            // Nobody hears the answer only if the caller has panicked; the sender is gone then, too.
            match cluster {
                Ok(cluster) => {
                    answer.send(Ok(cluster.bootstrap_servers())).ok();
                    ends.recv().ok();
                }
                Err(error) => {
                    answer.send(Err(classify::request_error("start the mock cluster", &error, None))).ok();
                }
            }
        };
        let failed = |text: String| KafkaError { what: "start the mock cluster", text, class: "other" };
        let thread = thread::Builder::new().name("kafka-mock".into()).spawn(serve);
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        let brokers = started.recv().map_err(|_| failed("its thread ended".to_owned()))??;
        Ok(MockKafka { brokers, running: Some(running), thread: Some(thread) })
    }

    /// `host:port` for clients.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }
}

impl Drop for MockKafka {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kafka::{KafkaSettings, TopicSettings, TopicState, Topics};

    #[tokio::test]
    async fn a_topic_whose_limits_cannot_be_asked_for_is_ready_at_once() {
        let mock = MockKafka::start("orders", 3).expect("a mock cluster");
        let brokers = mock.brokers().to_owned();
        let settings = KafkaSettings {
            brokers,
            properties: Vec::new(),
            window_rows: 0,
            max_row_bytes: 0,
            stall_after: std::time::Duration::from_secs(10),
        };
        let topics = Topics::start(&settings).expect("a client");
        topics.cluster_id().await.expect("the mock cluster has an id");
        let asked = Instant::now();
        let state = topics.describe("orders".into()).await.expect("an answer");
        assert!(
            matches!(state, TopicState::Ready(TopicSettings { partitions: 3, max_message_bytes: None, .. })),
            "{state:?}"
        );
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
}
