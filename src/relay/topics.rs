//! What the sender knows of each topic: ready, sick, or being asked about.
//!
//! Owns when a topic is asked about. A row goes to the main producer only when its topic is known to be there; a sick
//! topic's rows are parked, and it gets a lane. It is asked about again and again, and when metadata shows it, one of its
//! rows is woken and goes alone as a probe: only its confirm makes the topic ready. Metadata is no proof, it also shows
//! topics that we may not write to, and every such row would end the main producer.

mod counts;
mod drift;
mod sick;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::local::LocalHistogram;
use tokio::task::JoinSet;

use crate::kafka::{KafkaError, Refusal, TopicSettings, TopicState, Topics};
use crate::message::{OutboxRow, TopicFacts};
use crate::metrics::{Metrics, TopicMetrics};
use crate::policy::{Delivery, OnFailure, Policies, Policy};
use crate::store::deferred::DueRow;
use crate::verdict::{Failure, TopicTrouble};
use crate::{crash_point, task};

use self::drift::Drift;
use super::gates::Gates;
use super::lanes::Cause;
use super::requests::Controls;

/// How old an answer may get: limits and partitions change under a running relay.
const ANSWER_HOLDS: Duration = Duration::from_secs(60);
const ANSWER_HOLDS_WAITING: Duration = Duration::from_secs(4);

/// Questions asked on suspicion at a time: each one holds a thread, for seconds in an outage.
const ASKED_AT_ONCE: usize = 8;

/// The longest wait between two looks at a sick topic.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// A row that was woken to find out, and has not, is given up after so long.
const PROBE_LOST: Duration = Duration::from_secs(20);

/// For so long after a batch was refused, rows that waited go one by one, unless the topic's limit has become known since.
const APART: Duration = Duration::from_secs(10);

/// A question is not repeated before its last answer, or the lack of one, is this old.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A topic of which nothing was read for so long is nobody whose next row a flood would hold up.
const LIVELY: Duration = Duration::from_secs(600);

/// What is known of a topic.
pub(super) struct Topic {
    pub standing: Standing,
    pub metrics: Arc<TopicMetrics>,
    /// What it was like at first.
    drift: Drift,
    /// Delivery times of confirmed rows, flushed with each batch.
    pub delivery: LocalHistogram,
    answered_at: Option<Instant>,
    /// The same, if a broker has answered.
    told_at: Option<Instant>,
    asking: bool,
    /// It refused our smallest batches, although nobody told us its limit.
    pub narrow: bool,
    /// When a batch of it was refused for a row's fault last: company is dangerous for a while.
    pub refused_at: Option<Instant>,
    pub gates: Gates,
    pub policy: Policy,
    /// The number of its lane.
    pub lane: Option<usize>,
    /// When rows of it were read last, by main or by its lane.
    pub read_at: Option<Instant>,
    /// An operator has paused it.
    pub paused: bool,
    /// Deferred rows, scheduled ones aside, decided but not yet settled ones included.
    pub waiting: u64,
    /// The same at an earlier look, and when that was.
    pub waiting_seen: (u64, Instant),
    /// Of these, rows that wait until the topic is woken; counted from the settlement on.
    pub parked: u64,
    /// It has its share of all deferred rows.
    pub share_used: bool,
    /// Rows that became dead letters since `dying_since`, and whether they were too many.
    pub deaths: u32,
    pub dying_since: Instant,
    pub is_dying: bool,
}

impl Topic {
    /// A row that failed holds back the later ones of its key.
    pub fn blocks(&self) -> bool {
        self.policy.on_failure == OnFailure::Block
    }

    /// A row was confirmed at `now_us`, database clock. One that was to wait is late only from then on.
    pub fn count_delivery(&mut self, row: &OutboxRow, now_us: i64) {
        let from_us = row.created_us.max(row.deliver_after_us.unwrap_or(i64::MIN));
        self.delivery.observe((now_us - from_us).max(0) as f64 / 1e6);
    }

    /// A deferred row was confirmed at `now_us`, database clock. An operator's copy counts as no delivery.
    pub fn count_late_delivery(&mut self, due: &DueRow, now_us: i64) {
        if due.replay.is_none() {
            self.count_delivery(&due.row, now_us);
            if let Some(rejected_us) = due.first_rejected_us {
                self.metrics.retry_seconds((now_us - rejected_us).max(0) as f64 / 1e6);
            }
        }
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
        /// When metadata is looked at again, or a probe that did not come back is given up.
        next_look: Instant,
    },
}

/// How a sick topic may become ready.
#[derive(Clone, Copy)]
pub(super) enum Probe {
    /// Metadata does not show it.
    Idle,
    /// Metadata shows it: a row is wanted that finds out.
    Wanted(TopicSettings),
    /// A row was woken for that; the next due row goes.
    Woken(TopicSettings),
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
    policies: Policies,
    /// Topics that operators have paused.
    paused: HashSet<Arc<str>>,
    /// Nothing has been confirmed for a while: a topic without a leader may be why.
    pub nothing_goes: bool,
    asks: JoinSet<(Arc<str>, Result<TopicState, KafkaError>)>,
}

/// What an answer changed.
pub(super) enum Answer {
    /// A partition has no leader at the moment.
    Electing,
    Ready(TopicSettings),
    Sick {
        topic: Arc<str>,
        refusal: Refusal,
        news: bool,
    },
    Unanswered(KafkaError),
}

impl KnownTopics {
    pub fn new(client: Topics, metrics: Arc<Metrics>, policies: Policies) -> KnownTopics {
        KnownTopics {
            client,
            metrics,
            known: Vec::new(),
            places: HashMap::new(),
            last: 0,
            policies,
            paused: HashSet::new(),
            nothing_goes: false,
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

    /// Operators have asked for other policies, or paused or resumed topics.
    pub fn take_controls(&mut self, controls: &Controls) {
        self.policies = controls.policies.clone();
        self.paused.clone_from(&controls.paused);
        for (name, topic) in &mut self.known {
            topic.policy = self.policies.of(name);
            topic.paused = self.paused.contains(name);
        }
        // Also those of which nothing has come yet: a lane that opened with their first row would let that one out.
        for name in &controls.paused {
            self.get(name);
        }
    }

    /// Makes room for a topic that was not seen before.
    fn meet(&mut self, name: &Arc<str>) -> usize {
        let metrics = self.metrics.topic(name);
        let topic = Topic {
            standing: Standing::Unknown,
            drift: Drift::default(),
            delivery: metrics.local_delivery_seconds(),
            metrics,
            answered_at: None,
            told_at: None,
            asking: false,
            narrow: false,
            refused_at: None,
            gates: Gates::default(),
            policy: self.policies.of(name),
            lane: None,
            paused: self.paused.contains(name),
            waiting: 0,
            read_at: None,
            waiting_seen: (0, Instant::now()),
            parked: 0,
            share_used: false,
            deaths: 0,
            dying_since: Instant::now(),
            is_dying: false,
        };
        self.known.push((Arc::clone(name), topic));
        self.places.insert(Arc::clone(name), self.known.len() - 1);
        self.known.len() - 1
    }

    /// Whether a due row may go alone. A row that shares its protocol batch with nobody is refused for its own size
    /// only, so no limit is below its batch size.
    pub fn alone(&mut self, name: &Arc<str>, compressed: bool) -> Alone {
        match &self.get(name).standing {
            Standing::Ready(settings)
            | Standing::Sick { probe: Probe::Wanted(settings) | Probe::Woken(settings), .. } => {
                Alone::Go(facts(settings, false, compressed, 0))
            }
            Standing::Sick { refusal, .. } => Alone::No(refusal.clone()),
            Standing::Unknown => {
                self.ask(name);
                Alone::Wait
            }
        }
    }

    /// Topics that should have a lane: sick ones, those with a rate, paused ones, and those with their `share` of deferred rows.
    pub fn needs(&self, share: u64) -> Vec<Need> {
        let need = |(name, topic): &(Arc<str>, Topic)| {
            let cause = match &topic.standing {
                Standing::Sick { refusal: Refusal { failure: Failure::Topic(trouble), .. }, .. } => {
                    Cause::Trouble(*trouble)
                }
                _ if topic.paused => Cause::Paused,
                _ if topic.is_dying => Cause::Dying,
                _ if topic.policy.delivery == Delivery::AtMostOnce => Cause::AtMostOnce,
                _ if topic.policy.rate.is_some() => Cause::Paced,
                _ if topic.waiting >= share => Cause::DeferredShare,
                _ => return None,
            };
            let has_it = topic.lane.is_some() && !matches!(cause, Cause::Trouble(_));
            (!has_it).then(|| Need { topic: Arc::clone(name), cause })
        };
        self.known.iter().filter_map(need).collect()
    }

    /// Metadata has told something about the topic since then.
    pub fn answered_since(&mut self, name: &Arc<str>, since: Instant) -> bool {
        self.get(name).told_at.is_some_and(|at| at > since)
    }

    /// More than one topic has been seen.
    pub fn are_several(&self) -> bool {
        self.known.len() > 1
    }

    /// Whether rows of another topic are read with main, so that they would wait behind the rows of this one.
    pub fn others_would_wait_for(&self, name: &Arc<str>, now: Instant) -> bool {
        let is_lively = |topic: &Topic| topic.read_at.is_some_and(|at| now.duration_since(at) < LIVELY);
        self.known.iter().any(|(other, topic)| other != name && topic.lane.is_none() && is_lively(topic))
    }

    /// Topics with parked rows.
    pub fn with_parked(&self) -> Vec<Arc<str>> {
        self.known.iter().filter(|(_, topic)| topic.parked > 0).map(|(name, _)| Arc::clone(name)).collect()
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

    /// Somebody may have changed the topic just now: before a row of it is unfit it is asked about, however new the last answer is.
    pub fn may_have_changed(&mut self, name: &Arc<str>) {
        self.get(name).answered_at = None;
    }

    /// A batch was refused for the fault of one of its rows.
    pub fn refused_company(&mut self, name: &Arc<str>) {
        self.get(name).refused_at = Some(Instant::now());
        self.doubt(name);
    }

    /// Whether rows of the topic may share batches, as far as is known.
    pub fn bears_company(&mut self, name: &Arc<str>) -> bool {
        let topic = self.get(name);
        let limit_is_known =
            matches!(topic.standing, Standing::Ready(TopicSettings { max_message_bytes: Some(_), .. }));
        let is_over = |at: Instant| {
            at.elapsed() >= APART || (limit_is_known && topic.told_at.is_some_and(|told| told > at))
        };
        !topic.narrow && topic.refused_at.is_none_or(is_over)
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
        self.asks.spawn(task::named("describe", async move {
            crash_point::work("describe");
            let answer = client.describe(Arc::clone(&name)).await;
            (name, answer)
        }));
        true
    }

    /// Asks about a few topics whose answers have grown old.
    pub fn ask_again(&mut self) {
        let old: Vec<Arc<str>> = self
            .known
            .iter()
            .filter(|(_, topic)| match topic.standing {
                // Whether one that stands still is there is asked when it goes on.
                Standing::Unknown => !topic.paused,
                Standing::Ready(_) => {
                    // Rows of it wait: a limit that somebody has raised is to be heard of soon.
                    let holds = if topic.waiting > 0 { ANSWER_HOLDS_WAITING } else { ANSWER_HOLDS };
                    topic.answered_at.is_none_or(|at| at.elapsed() > holds)
                }
                // It has a pace of its own.
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
                if answer.is_ok() {
                    topic.told_at = topic.answered_at;
                }
                match answer {
                    Ok(TopicState::Ready(settings)) => {
                        topic.gates.resize(settings.partitions);
                        topic.drift.look(&name, &settings, &topic.metrics);
                        match &mut topic.standing {
                            Standing::Sick { probe: Probe::Sent(_) | Probe::Woken(_), .. } => {}
                            Standing::Sick { probe, .. } => *probe = Probe::Wanted(settings),
                            standing => *standing = Standing::Ready(settings),
                        }
                        Answer::Ready(settings)
                    }
                    // An election takes a moment; librdkafka waits for it, unless nothing goes any more.
                    Ok(TopicState::Sick(refusal))
                        if refusal.failure == Failure::Topic(TopicTrouble::Leaderless)
                            && !self.nothing_goes
                            && matches!(self.get(&name).standing, Standing::Ready(_)) =>
                    {
                        Answer::Electing
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
}

/// The facts by which a row is judged.
pub(super) fn facts(
    settings: &TopicSettings,
    narrow: bool,
    compressed: bool,
    batch_size: usize,
) -> TopicFacts {
    let TopicSettings { partitions, max_message_bytes, compacted, .. } = *settings;
    TopicFacts { partitions, max_message_bytes, narrow, compacted, compressed, batch_size }
}

/// A topic that should be read on its own.
pub(super) struct Need {
    pub topic: Arc<str>,
    pub cause: Cause,
}
