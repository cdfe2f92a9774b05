//! Simulated Kafka: topics with partitions, requests on their way, a broker that checks sequences and refuses batches.
//!
//! A request has left its producer for good: it arrives although its producer is dead or frozen, unless its connection was cut
//! before. A batch with one bad record is refused as a whole. The log is never trimmed: it is what a consumer that read along saw.
//! Assumed: a topic that is gone stays away until everything that was on its way to it has been answered.

pub mod producer;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::verdict::{Failure, TopicTrouble};

use crate::bugs::{Ms, Plan};
use crate::dice::Dice;
use crate::trace::Trace;
use crate::truth::Truth;

/// Partitions of every topic.
pub const PARTITIONS: i32 = 2;

/// A record as a consumer saw it.
#[derive(Debug, Clone)]
pub struct Record {
    pub event: u128,
    pub id: i64,
    pub topic: Arc<str>,
    pub key: Option<Box<[u8]>>,
    pub epoch: i64,
}

/// What a producer sends and hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// Went to the second producer.
    pub alone: bool,
    pub no: u64,
    pub index: usize,
}

/// A record in a producer.
#[derive(Debug, Clone)]
pub struct Message {
    pub tag: Tag,
    pub record: Rc<Record>,
    pub partition: i32,
}

/// A protocol batch on its way.
#[derive(Debug, Clone)]
pub struct Request {
    /// One per producer, partition and epoch of the producer.
    pub session: u64,
    pub base: u64,
    pub partition: i32,
    pub messages: Rc<Vec<Message>>,
    /// Sequence numbers may have no gaps.
    pub pipelined: bool,
    /// The connection was cut behind it: its response gets lost.
    pub muted: bool,
}

/// What the broker says to a batch.
#[derive(Debug, Clone)]
pub struct Response {
    pub session: u64,
    pub base: u64,
    /// By record, unless all are written.
    pub refused: Option<Vec<Failure>>,
}

/// What the broker knows of a producer in a partition.
#[derive(Default)]
struct Known {
    next: u64,
    recent: VecDeque<(u64, usize)>,
    all: HashSet<u64>,
}

/// The cluster.
pub struct Kafka {
    pub log: Vec<Record>,
    pub topics: Vec<Arc<str>>,
    gone: HashMap<Arc<str>, Ms>,
    /// How often a topic was created anew.
    pub creations: HashMap<Arc<str>, u32>,
    known: HashMap<u64, Known>,
    /// On their way, by producer.
    requests: BTreeMap<u64, VecDeque<Request>>,
    responses: HashMap<u64, VecDeque<Response>>,
    pub down_until: Ms,
    next_number: u64,
    plan: Plan,
}

impl Kafka {
    pub fn new(plan: &Plan) -> Kafka {
        let topics: Vec<Arc<str>> = vec![Arc::from("orders"), Arc::from("users")];
        Kafka {
            log: Vec::new(),
            gone: HashMap::new(),
            creations: topics.iter().map(|topic| (Arc::clone(topic), 0)).collect(),
            topics,
            known: HashMap::new(),
            requests: BTreeMap::new(),
            responses: HashMap::new(),
            down_until: 0,
            next_number: 0,
            plan: plan.clone(),
        }
    }

    /// A number that nobody else has: of a producer, or of its session with a partition.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub fn is_gone(&self, topic: &str) -> bool {
        self.gone.contains_key(topic)
    }

    /// A topic vanishes, with what the broker knew of its producers.
    pub fn remove(&mut self, topic: &Arc<str>, until: Ms) {
        self.gone.insert(Arc::clone(topic), until);
    }

    /// Topics that are gone may come back.
    pub fn comes_back(&mut self, now: Ms) {
        self.gone.values_mut().for_each(|until| *until = now);
    }

    /// A topic comes back once nothing is on its way to it, and no producer holds anything for it.
    fn restore(&mut self, now: Ms, held: impl Fn(&str) -> bool) {
        let Kafka { gone, requests, creations, .. } = self;
        gone.retain(|topic, until| {
            let awaited = |request: &Request| request.messages[0].record.topic == *topic;
            if now < *until || requests.values().flatten().any(awaited) || held(topic) {
                return true;
            }
            *creations.entry(Arc::clone(topic)).or_default() += 1;
            false
        });
    }

    pub fn send(&mut self, producer: u64, request: Request) {
        self.requests.entry(producer).or_default().push_back(request);
    }

    pub fn receive(&mut self, producer: u64) -> Option<Response> {
        self.responses.get_mut(&producer)?.pop_front()
    }

    /// Producers with something on its way or unread.
    pub fn busy(&self) -> Vec<u64> {
        self.requests.iter().filter(|(_, queue)| !queue.is_empty()).map(|(producer, _)| *producer).collect()
    }

    /// A producer's connection is cut: the tail of its requests never arrives, and no response does.
    pub fn cut(&mut self, producer: u64, dice: &mut Dice) {
        self.responses.remove(&producer);
        if let Some(queue) = self.requests.get_mut(&producer) {
            let arrive = dice.below(queue.len() + 1);
            queue.truncate(arrive);
            queue.iter_mut().for_each(|request| request.muted = true);
        }
    }

    /// The broker takes some producer's next request.
    pub fn step(
        &mut self,
        now: Ms,
        dice: &mut Dice,
        truth: &Truth,
        trace: &mut Trace,
        held: impl Fn(&str) -> bool,
    ) {
        self.restore(now, held);
        let busy = self.busy();
        if busy.is_empty() || now < self.down_until {
            return;
        }
        let producer = dice.pick(&busy);
        let queue = self.requests.get_mut(&producer).expect("it is busy");
        let request = queue.pop_front().expect("it is busy");
        let refused = self.append(&request, now, dice, truth);
        trace.say(now, "kafka", || {
            let ids: Vec<i64> = request.messages.iter().map(|message| message.record.id).collect();
            let topic = &request.messages[0].record.topic;
            let verdict = refused.as_ref().map_or("appended".to_owned(), |why| format!("refused {why:?}"));
            let muted = if request.muted { ", response lost" } else { "" };
            format!("producer {producer} {topic}/{} {ids:?} {verdict}{muted}", request.partition)
        });
        if !request.muted {
            let response = Response { session: request.session, base: request.base, refused };
            self.responses.entry(producer).or_default().push_back(response);
        }
    }

    /// Appends a batch, all of it or nothing.
    fn append(&mut self, request: &Request, now: Ms, dice: &mut Dice, truth: &Truth) -> Option<Vec<Failure>> {
        let messages = &request.messages;
        let everyone = |failure: Failure| Some(messages.iter().map(|_| failure).collect());
        let topic = &messages[0].record.topic;
        if self.is_gone(topic) {
            return everyone(Failure::Topic(TopicTrouble::Missing));
        }
        // A topic that was created anew knows nobody.
        let session = request.session.wrapping_mul(64) + u64::from(self.creations[topic]);
        let known = self.known.get(&session);
        if request.pipelined {
            if known.is_some_and(|known| known.recent.contains(&(request.base, messages.len()))) {
                return None;
            }
            // A broker that knows nothing takes any number for the first.
            if known.is_some_and(|known| known.next != request.base) {
                return everyone(Failure::NotWritten);
            }
        } else if known.is_some_and(|known| known.all.contains(&request.base)) {
            return None;
        }
        let bad: Vec<bool> =
            messages.iter().map(|message| truth.is_refused(message.record.event, now)).collect();
        if bad.contains(&true) {
            let company = if self.plan.names_culprits { Failure::NotWritten } else { Failure::Refused };
            let why = bad.iter().map(|bad| if *bad { Failure::Refused } else { company });
            return Some(why.collect());
        }
        if request.pipelined && dice.percent(2) && self.plan.faults > 0 {
            // A partition that moves: nothing is written, nobody is to blame, and the producer tries again by itself.
            return everyone(Failure::Unknown);
        }
        let known = self.known.entry(session).or_default();
        known.next = request.base + messages.len() as u64;
        known.recent.push_back((request.base, messages.len()));
        if known.recent.len() > 5 {
            known.recent.pop_front();
        }
        known.all.insert(request.base);
        self.log.extend(messages.iter().map(|message| (*message.record).clone()));
        None
    }
}
