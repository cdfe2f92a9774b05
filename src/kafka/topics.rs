//! What is known about topics and the cluster before a row is handed over.
//!
//! Owns the clients that ask. Answers questions; remembers nothing (the sender does).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{KafkaError, KafkaSettings, Producer, Refusal, TopicConfiguration, classify};
use crate::verdict::{Failure, TopicTrouble};
use crate::{crash_point, task};

/// How long the answer about a topic's limit may hold up its rows. Where the controller cannot be reached, librdkafka
/// would wait for it to the end.
const LIMIT_DEADLINE: Duration = Duration::from_secs(1);

/// What the cluster says of a topic.
#[derive(Debug)]
pub enum TopicState {
    /// It is there.
    Ready(TopicSettings),
    /// It is missing or forbidden.
    Sick(Refusal),
}

/// What decides whether a topic takes a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicSettings {
    /// Number of partitions.
    pub partitions: i32,
    /// `max.message.bytes`, if this login may read it.
    pub max_message_bytes: Option<usize>,
    /// `cleanup.policy` contains `compact`: every record needs a key. False as well if this login may not read it.
    pub compacted: bool,
    /// Replicas of the partition that has the fewest.
    pub replicas: i32,
    /// What else is set.
    pub configuration: TopicConfiguration,
}

/// Asks about topics and the cluster.
#[derive(Clone)]
pub struct Topics {
    settings: Arc<KafkaSettings>,
    /// For metadata: a producer that is given no record.
    client: Arc<Producer>,
    /// For configuration. Nobody polls the events of an admin client, so it does not outlive a failure, after which
    /// they would pile up.
    admin: Arc<Mutex<Option<Arc<Admin>>>>,
}

type Admin = AdminClient<DefaultClientContext>;

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// Starts the client. Does not wait for a connection.
    pub fn start(settings: &KafkaSettings) -> Result<Topics, KafkaError> {
        let client = Producer::start(&settings.client(), &Arc::default(), 0)?;
        Ok(Topics { settings: Arc::new(settings.clone()), client: Arc::new(client), admin: Arc::default() })
    }

    /// The cluster's id. Fails when no broker answers within five seconds.
    pub async fn cluster_id(&self) -> Result<String, KafkaError> {
        const WHAT: &str = "read the kafka cluster id";
        let client = Arc::clone(&self.client);
        blocking(WHAT, move || {
            // The first question also opens the connection; its failure carries the reason, the second one's does not.
            client.metadata(WHAT, None)?;
            let text = "no broker named it".to_owned();
            client.cluster_id().ok_or(KafkaError { what: WHAT, text, class: "unreachable" })
        })
        .await
    }

    /// Asks for one topic, never creating it. Fails when no broker answers.
    pub async fn describe(&self, topic: Arc<str>) -> Result<TopicState, KafkaError> {
        const WHAT: &str = "read a topic's metadata";
        let (client, name) = (Arc::clone(&self.client), Arc::clone(&topic));
        let state = blocking(WHAT, move || {
            let metadata = client.metadata(WHAT, Some(&name))?;
            let Some(found) = metadata.topics().iter().find(|t| t.name() == &*name) else {
                return Ok(Err(Code::UnknownTopicOrPartition));
            };
            let leaderless = found.partitions().iter().any(|partition| partition.leader() < 0);
            Ok(match found.error().map(Code::from) {
                None | Some(Code::LeaderNotAvailable) if leaderless => Err(Code::LeaderNotAvailable),
                None if found.partitions().is_empty() => Err(Code::UnknownTopicOrPartition),
                None | Some(Code::LeaderNotAvailable) => {
                    let replicas =
                        found.partitions().iter().map(|partition| partition.replicas().len()).min();
                    Ok((found.partitions().len() as i32, replicas.unwrap_or(0) as i32))
                }
                Some(code) => Err(code),
            })
        })
        .await?;
        Ok(match state {
            Ok((partitions, replicas)) => {
                let configuration = self.configuration(&topic).await.unwrap_or_default();
                let TopicConfiguration { max_message_bytes, compacts, .. } = configuration;
                let compacted = compacts.unwrap_or(false);
                TopicState::Ready(TopicSettings {
                    partitions,
                    max_message_bytes,
                    compacted,
                    replicas,
                    configuration,
                })
            }
            Err(Code::LeaderNotAvailable) => TopicState::Sick(Refusal {
                failure: Failure::Topic(TopicTrouble::Leaderless),
                class: "topic",
                text: "a partition of the topic has no leader".to_owned(),
            }),
            Err(code) => TopicState::Sick(classify::refusal(code)),
        })
    }

    /// A login may well not be allowed to read it, or nobody answer; then the broker is the judge.
    async fn configuration(&self, topic: &str) -> Option<TopicConfiguration> {
        let admin = self.admin()?;
        let options = AdminOptions::new().request_timeout(Some(LIMIT_DEADLINE));
        let Ok(answer) = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await else {
            *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return None;
        };
        Some(TopicConfiguration::of(&answer.into_iter().next()?.ok()?))
    }

    fn admin(&self) -> Option<Arc<Admin>> {
        let mut admin = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        if admin.is_none() {
            *admin = self.settings.client().create().ok().map(Arc::new);
        }
        admin.clone()
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    question: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    let question = || {
        crash_point::work("ask kafka");
        question()
    };
    match tokio::task::spawn_blocking(|| task::within("ask kafka", question)).await {
        Ok(answer) => answer,
        Err(error) => Err(KafkaError { what, text: error.to_string(), class: "other" }),
    }
}
