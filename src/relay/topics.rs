//! What the sender knows of each topic: ready, sick, or being asked about.
//!
//! Owns when a topic is asked about. A row goes to the main producer only when its topic is known to be there; a sick
//! topic's rows are put off. A due row of it asks again, and when metadata shows the topic, goes alone as a probe: only
//! its confirm makes the topic ready. Metadata is no proof, it also shows topics that we may not write to, and every
//! such row would end the main producer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::local::LocalHistogram;
use tokio::task::JoinSet;

use crate::kafka::{KafkaError, Refusal, TopicSettings, TopicState, Topics};
use crate::message::{OutboxRow, TopicFacts};
use crate::metrics::{AttemptResult, DeferReason, Metrics, Outcome, TopicMetrics};
use crate::store::settle::Reason;

use super::batch::{Batch, DueBatch, Fate};
use super::gates::Gates;

/// How old an answer may get: limits and partitions change under a running relay.
const ANSWER_HOLDS: Duration = Duration::from_secs(60);

/// Questions asked on suspicion at a time: each one holds a thread, for seconds in an outage.
const ASKED_AT_ONCE: usize = 8;

/// A question is not repeated before its last answer, or the lack of one, is this old.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of a topic.
pub(super) struct Topic {
    pub standing: Standing,
    pub metrics: Arc<TopicMetrics>,
    /// Delivery times of confirmed rows, flushed with each batch.
    pub delivery: LocalHistogram,
    answered_at: Option<Instant>,
    asking: bool,
    /// It refused our smallest batches, although nobody told us its limit.
    pub narrow: bool,
    pub gates: Gates,
}

impl Topic {
    /// A row was confirmed at `now_us`, database clock.
    pub fn count_delivery(&mut self, row: &OutboxRow, now_us: i64) {
        self.delivery.observe((now_us - row.created_us).max(0) as f64 / 1e6);
    }
}

pub(super) enum Standing {
    Unknown,
    Ready(TopicSettings),
    Sick {
        refusal: Refusal,
        /// Failed looks in a row.
        tries: u32,
        probe: Probe,
    },
}

/// How a sick topic may become ready.
#[derive(Clone, Copy)]
pub(super) enum Probe {
    /// Metadata does not show it.
    Idle,
    /// Metadata shows it: the next due row goes.
    Wanted(TopicSettings),
    /// A due row is on its way.
    Sent(TopicSettings),
}

/// Whether a due row of a topic may go alone.
pub(super) enum Alone {
    Go(TopicFacts),
    /// The topic is being asked about, or another row finds out.
    Wait,
    /// The topic is sick, and was asked about just now.
    No(Refusal),
}

/// All topics seen in this term.
pub(super) struct KnownTopics {
    client: Topics,
    metrics: Arc<Metrics>,
    known: Vec<(Arc<str>, Topic)>,
    places: HashMap<Arc<str>, usize>,
    /// Where the last topic was found: neighbouring rows share theirs, and its name's allocation.
    last: usize,
    asks: JoinSet<(Arc<str>, Result<TopicState, KafkaError>)>,
}

/// What an answer changed.
pub(super) enum Answer {
    Ready(TopicSettings),
    Sick { topic: Arc<str>, refusal: Refusal, news: bool },
    Unanswered(KafkaError),
}

impl KnownTopics {
    pub fn new(client: Topics, metrics: Arc<Metrics>) -> KnownTopics {
        KnownTopics {
            client,
            metrics,
            known: Vec::new(),
            places: HashMap::new(),
            last: 0,
            asks: JoinSet::new(),
        }
    }

    /// The topic; its series exist from now on.
    pub fn get(&mut self, name: &Arc<str>) -> &mut Topic {
        if self.known.get(self.last).is_none_or(|(last, _)| !Arc::ptr_eq(last, name)) {
            self.last = match self.places.get(name) {
                Some(&place) => place,
                None => self.meet(name),
            };
        }
        &mut self.known[self.last].1
    }

    /// Makes room for a topic that was not seen before.
    fn meet(&mut self, name: &Arc<str>) -> usize {
        let metrics = self.metrics.topic(name);
        let topic = Topic {
            standing: Standing::Unknown,
            delivery: metrics.local_delivery_seconds(),
            metrics,
            answered_at: None,
            asking: false,
            narrow: false,
            gates: Gates::default(),
        };
        self.known.push((Arc::clone(name), topic));
        self.places.insert(Arc::clone(name), self.known.len() - 1);
        self.known.len() - 1
    }

    /// Whether a due row may go alone. A row that shares its protocol batch with nobody is refused for its own size
    /// only, so no limit is below its batch size.
    pub fn alone(&mut self, name: &Arc<str>, compressed: bool) -> Alone {
        match &self.get(name).standing {
            Standing::Ready(settings) | Standing::Sick { probe: Probe::Wanted(settings), .. } => {
                return Alone::Go(facts(settings, false, compressed, 0));
            }
            Standing::Sick { probe: Probe::Sent(_), .. } => return Alone::Wait,
            Standing::Sick { probe: Probe::Idle, .. } | Standing::Unknown => {}
        }
        if self.ask(name) {
            return Alone::Wait;
        }
        match &self.get(name).standing {
            Standing::Sick { refusal, .. } => Alone::No(refusal.clone()),
            // The last question got no answer; it is repeated soon.
            _ => Alone::Wait,
        }
    }

    /// A due row has been handed over alone. If its topic is sick, that is the probe.
    pub fn went_alone(&mut self, name: &Arc<str>) {
        if let Standing::Sick { probe, .. } = &mut self.get(name).standing
            && let Probe::Wanted(settings) = *probe
        {
            *probe = Probe::Sent(settings);
        }
    }

    /// A row that went alone came back. `works` says that the broker took it, or refused nothing but this row.
    pub fn came_back(&mut self, name: &Arc<str>, works: bool) {
        let topic = self.get(name);
        let Standing::Sick { probe, .. } = &mut topic.standing else { return };
        match *probe {
            Probe::Sent(settings) if works => {
                topic.standing = Standing::Ready(settings);
                tracing::info!(topic = &**name, "topic is usable again");
            }
            _ => {
                *probe = Probe::Idle;
                // The answer is no, and new: the topic's other due rows must not each wait for the same.
                topic.answered_at = Some(Instant::now());
            }
        }
    }

    /// Whether the topic is there and we may not read its limit.
    pub fn hides_its_limit(&mut self, name: &Arc<str>) -> bool {
        matches!(self.get(name).standing, Standing::Ready(TopicSettings { max_message_bytes: None, .. }))
    }

    /// What was believed of the topic was wrong: it is asked about before its next row goes, if the answer is not new.
    pub fn doubt(&mut self, name: &Arc<str>) {
        let topic = self.get(name);
        if topic.answered_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN)
            && matches!(topic.standing, Standing::Ready(_))
        {
            topic.standing = Standing::Unknown;
        }
    }

    /// Asks about the topic, unless a question was answered just now. Returns whether one is on its way.
    pub fn ask(&mut self, name: &Arc<str>) -> bool {
        let client = self.client.clone();
        let topic = self.get(name);
        if topic.asking {
            return true;
        }
        if topic.answered_at.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return false;
        }
        topic.asking = true;
        let name = Arc::clone(name);
        self.asks.spawn(async move {
            let answer = client.describe(Arc::clone(&name)).await;
            (name, answer)
        });
        true
    }

    /// Asks about a few topics whose answers have grown old.
    pub fn ask_again(&mut self) {
        let old: Vec<Arc<str>> = self
            .known
            .iter()
            .filter(|(_, topic)| match topic.standing {
                Standing::Unknown => true,
                Standing::Ready(_) => topic.answered_at.is_none_or(|at| at.elapsed() > ANSWER_HOLDS),
                // Its due rows ask.
                Standing::Sick { .. } => false,
            })
            .map(|(name, _)| Arc::clone(name))
            .take(ASKED_AT_ONCE)
            .collect();
        for name in old {
            self.ask(&name);
        }
    }

    /// Waits for an answer and takes it in. Never returns while nothing is asked. Safe to drop.
    pub async fn answered(&mut self) -> Answer {
        match self.asks.join_next().await {
            Some(Ok((name, answer))) => {
                let topic = self.get(&name);
                topic.asking = false;
                topic.answered_at = Some(Instant::now());
                match answer {
                    Ok(TopicState::Ready(settings)) => {
                        topic.gates.resize(settings.partitions);
                        match &mut topic.standing {
                            Standing::Sick { probe: Probe::Sent(_), .. } => {}
                            Standing::Sick { probe, .. } => *probe = Probe::Wanted(settings),
                            standing => *standing = Standing::Ready(settings),
                        }
                        Answer::Ready(settings)
                    }
                    Ok(TopicState::Sick(refusal)) => {
                        let news = self.sicken(&name, refusal.clone());
                        Answer::Sick { topic: name, refusal, news }
                    }
                    Err(error) => Answer::Unanswered(error),
                }
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
        topic.standing = Standing::Sick { refusal, tries, probe: Probe::Idle };
        topic.gates.close();
        tries == 1
    }

    /// Another main producer: no broker knows it.
    pub fn close_gates(&mut self) {
        self.known.iter_mut().for_each(|(_, topic)| topic.gates.close());
    }

    /// Closes the gates of partitions in which brokers may have forgotten the main producer.
    pub fn close_silent_gates(&mut self, now: Instant) {
        self.known.iter_mut().for_each(|(_, topic)| topic.gates.close_silent(now));
    }

    /// Topics that are ready, for a spare producer to learn.
    pub fn ready(&self) -> Vec<Arc<str>> {
        let is_ready = |topic: &Topic| matches!(topic.standing, Standing::Ready(_));
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
                Fate::Dead(_) | Fate::Waiting | Fate::InFlight | Fate::Returned => {}
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

/// The facts by which a row is judged.
pub(super) fn facts(
    settings: &TopicSettings,
    narrow: bool,
    compressed: bool,
    batch_size: usize,
) -> TopicFacts {
    let TopicSettings { partitions, max_message_bytes, compacted } = *settings;
    TopicFacts { partitions, max_message_bytes, narrow, compacted, compressed, batch_size }
}

#[derive(Default)]
struct Sums {
    delivered: u64,
    bytes: u64,
    expired: u64,
    deferred: [u64; 3],
}
