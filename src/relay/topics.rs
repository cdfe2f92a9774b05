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
use crate::message::{OutboxRow, TopicFacts};
use crate::metrics::{AttemptResult, DeferReason, Metrics, Outcome, TopicMetrics};
use crate::store::settle::Reason;

use super::batch::{Batch, DueBatch, Fate};

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

impl Topic {
    /// A row was confirmed at `now_us`, database clock.
    pub fn confirmed(&mut self, row: &OutboxRow, now_us: i64) {
        self.delivery.observe((now_us - row.created_us).max(0) as f64 / 1e6);
    }
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

    /// Asks about the topic, unless a question was answered just now. Returns whether one is on its way.
    pub fn ask(&mut self, name: &Arc<str>) -> bool {
        let client = self.client.clone();
        let topic = self.get(name);
        if topic.asking {
            return true;
        }
        if topic.asked_at.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return false;
        }
        topic.asking = true;
        topic.asked_at = Some(Instant::now());
        let name = Arc::clone(name);
        self.asks.spawn(async move {
            let answer = client.describe(Arc::clone(&name)).await;
            (name, answer)
        });
        true
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
        for name in old {
            self.ask(&name);
        }
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

    /// Counts rows read for the first time.
    pub fn count_read(&mut self, rows: &[OutboxRow]) {
        for run in rows.chunk_by(|a, b| Arc::ptr_eq(&a.topic, &b.topic)) {
            self.get(&run[0].topic).metrics.read(run.len() as u64);
        }
    }

    /// Counts what became of a page.
    pub fn count_batch(&mut self, batch: &Batch) {
        self.count(batch.rows.iter().zip(&batch.fates));
    }

    /// Counts what became of due rows.
    pub fn count_due(&mut self, due: &DueBatch) {
        self.count(due.rows.iter().map(|due| &due.row).zip(&due.fates));
    }

    /// Sums up per topic first: the metrics are touched per batch, not per row.
    fn count<'r>(&mut self, rows: impl Iterator<Item = (&'r OutboxRow, &'r Fate)>) {
        let mut sums: HashMap<&Arc<str>, Sums> = HashMap::new();
        for (row, fate) in rows {
            let sum = sums.entry(&row.topic).or_default();
            match fate {
                Fate::Published(_) => {
                    sum.delivered += 1;
                    sum.bytes += row.payload.as_ref().map_or(0, |p| p.len() as u64)
                        + row.key.as_ref().map_or(0, |k| k.len() as u64);
                }
                Fate::Expired => sum.expired += 1,
                Fate::PutOff(deferral) => sum.deferred[deferral.reason as usize] += 1,
                Fate::Waiting | Fate::InFlight | Fate::Returned => {}
            }
        }
        for (name, sum) in sums {
            let topic = self.get(name);
            topic.metrics.messages(Outcome::Delivered, sum.delivered);
            topic.metrics.attempts(AttemptResult::Ack, sum.delivered);
            topic.metrics.published_bytes(sum.bytes);
            topic.metrics.messages(Outcome::Expired, sum.expired);
            topic.metrics.deferred(DeferReason::Retry, sum.deferred[Reason::Retry as usize]);
            topic.metrics.deferred(DeferReason::Behind, sum.deferred[Reason::Behind as usize]);
            topic.metrics.deferred(DeferReason::Scheduled, sum.deferred[Reason::Scheduled as usize]);
            topic.delivery.flush();
        }
    }
}

#[derive(Default)]
struct Sums {
    delivered: u64,
    bytes: u64,
    expired: u64,
    deferred: [u64; 3],
}
