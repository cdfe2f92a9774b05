//! What the sender knows of each topic: ready, sick, or being asked about.
//!
//! Owns when a topic is asked about. A row is handed over only when its topic is known to be there; a sick topic's
//! rows are put off, and a due row of it asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::local::LocalHistogram;
use tokio::task::JoinSet;

use crate::kafka::{KafkaError, Refusal, TopicState, Topics};
use crate::message::TopicFacts;
use crate::metrics::{Metrics, TopicMetrics};

/// How old an answer may get: limits and partitions change under a running relay.
const ANSWER_HOLDS: Duration = Duration::from_secs(60);

/// Pause before an unanswered question is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a topic.
pub(super) struct Topic {
    pub standing: Standing,
    pub metrics: Arc<TopicMetrics>,
    /// Delivery times of confirmed rows, flushed with each batch.
    pub delivery: LocalHistogram,
    asked_at: Option<Instant>,
    asking: bool,
}

pub(super) enum Standing {
    Unknown,
    Ready {
        partitions: i32,
        max_message_bytes: Option<usize>,
    },
    Sick {
        refusal: Refusal,
        /// Failed looks in a row.
        tries: u32,
    },
}

/// All topics seen in this term.
pub(super) struct KnownTopics {
    client: Topics,
    metrics: Arc<Metrics>,
    known: HashMap<Arc<str>, Topic>,
    asks: JoinSet<(Arc<str>, Result<TopicState, KafkaError>)>,
}

/// What an answer changed.
pub(super) enum Answer {
    Ready { max_message_bytes: Option<usize> },
    Sick { topic: Arc<str>, refusal: Refusal, news: bool },
    Unanswered(KafkaError),
}

impl KnownTopics {
    pub fn new(client: Topics, metrics: Arc<Metrics>) -> KnownTopics {
        KnownTopics { client, metrics, known: HashMap::new(), asks: JoinSet::new() }
    }

    /// The topic; its series exist from now on.
    pub fn get(&mut self, name: &Arc<str>) -> &mut Topic {
        // Looking up twice is cheaper than cloning the name for `entry` once per row.
        if !self.known.contains_key(name) {
            let metrics = self.metrics.topic(name);
            let topic = Topic {
                standing: Standing::Unknown,
                delivery: metrics.local_delivery_seconds(),
                metrics,
                asked_at: None,
                asking: false,
            };
            self.known.insert(Arc::clone(name), topic);
        }
        self.known.get_mut(name).expect("it was inserted above")
    }

    /// The facts by which a row is judged, if the topic is ready.
    pub fn facts(&mut self, name: &Arc<str>, compressed: bool, batch_size: usize) -> Option<TopicFacts> {
        match self.get(name).standing {
            Standing::Ready { partitions, max_message_bytes } => {
                Some(TopicFacts { partitions, max_message_bytes, compressed, batch_size })
            }
            _ => None,
        }
    }

    /// Asks about the topic unless a question is on its way or was answered just now.
    pub fn ask(&mut self, name: &Arc<str>) {
        let client = self.client.clone();
        let topic = self.get(name);
        if topic.asking || topic.asked_at.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return;
        }
        topic.asking = true;
        topic.asked_at = Some(Instant::now());
        let name = Arc::clone(name);
        self.asks.spawn(async move {
            let answer = client.describe(Arc::clone(&name)).await;
            (name, answer)
        });
    }

    /// Asks about every topic whose answer has grown old.
    pub fn ask_again(&mut self) {
        let old: Vec<Arc<str>> = self
            .known
            .iter()
            .filter(|(_, topic)| match topic.standing {
                Standing::Unknown => true,
                Standing::Ready { .. } => topic.asked_at.is_none_or(|at| at.elapsed() > ANSWER_HOLDS),
                // Its due rows ask.
                Standing::Sick { .. } => false,
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        old.iter().for_each(|name| self.ask(name));
    }

    /// Waits for an answer and takes it in. Never returns while nothing is asked. Safe to drop.
    pub async fn answered(&mut self) -> Answer {
        match self.asks.join_next().await {
            Some(Ok((name, Ok(TopicState::Ready { partitions, max_message_bytes })))) => {
                let topic = self.get(&name);
                topic.asking = false;
                if matches!(topic.standing, Standing::Sick { .. }) {
                    tracing::info!(topic = &*name, "topic is usable again");
                }
                topic.standing = Standing::Ready { partitions, max_message_bytes };
                Answer::Ready { max_message_bytes }
            }
            Some(Ok((name, Ok(TopicState::Sick(refusal))))) => {
                self.get(&name).asking = false;
                let news = self.sicken(&name, refusal.clone());
                Answer::Sick { topic: name, refusal, news }
            }
            Some(Ok((name, Err(error)))) => {
                self.get(&name).asking = false;
                Answer::Unanswered(error)
            }
            Some(Err(error)) => Answer::Unanswered(KafkaError {
                what: "ask about a topic",
                text: error.to_string(),
                class: "other",
            }),
            None => std::future::pending().await,
        }
    }

    /// The topic is missing or forbidden. Returns whether that is news.
    pub fn sicken(&mut self, name: &Arc<str>, refusal: Refusal) -> bool {
        let topic = self.get(name);
        let tries = match topic.standing {
            Standing::Sick { tries, .. } => tries + 1,
            _ => 1,
        };
        topic.standing = Standing::Sick { refusal, tries };
        tries == 1
    }

    /// Topics that are ready, for a spare producer to learn.
    pub fn ready(&self) -> Vec<Arc<str>> {
        let is_ready = |topic: &Topic| matches!(topic.standing, Standing::Ready { .. });
        self.known.iter().filter(|(_, t)| is_ready(t)).map(|(name, _)| Arc::clone(name)).collect()
    }
}
