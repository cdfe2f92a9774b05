//! A simulated producer: batches, up to five in flight, everything in order, retransmission after a cut.
//!
//! The main one is gapless: at the first refused batch it dies, and what is queued comes back unsent. The second one sends each
//! record in a batch of its own. Neither gives a record up by itself.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::verdict::{Failure, TopicTrouble};

use super::{Kafka, Message, Request, Response, Tag};
use crate::dice::Dice;

/// Batches of one partition in flight at most.
const IN_FLIGHT: usize = 5;

/// A batch that was sent and not answered.
struct Flight {
    base: u64,
    messages: Rc<Vec<Message>>,
    /// On its way; otherwise it has to be sent again.
    sent: bool,
}

/// One partition's records.
#[derive(Default)]
struct Queue {
    session: u64,
    next: u64,
    waiting: VecDeque<Message>,
    flights: VecDeque<Flight>,
}

/// A producer of a relay.
pub struct Producer {
    pub number: u64,
    alone: bool,
    batch: usize,
    queues: BTreeMap<(Arc<str>, i32), Queue>,
    /// Takes nothing more.
    pub dead: bool,
    /// A failure was reported and has not been judged.
    pub tripped: bool,
    pub reports: VecDeque<(Tag, Result<(), Failure>)>,
}

impl Producer {
    /// The main producer.
    pub fn main(kafka: &mut Kafka) -> Producer {
        Producer { alone: false, batch: kafka.plan.batch, ..Producer::second(kafka) }
    }

    /// The producer of rows that go alone.
    pub fn second(kafka: &mut Kafka) -> Producer {
        Producer {
            number: kafka.number(),
            alone: true,
            batch: 1,
            queues: BTreeMap::new(),
            dead: false,
            tripped: false,
            reports: VecDeque::new(),
        }
    }

    /// Takes a record; it is sent later.
    pub fn hand_over(&mut self, message: Message, kafka: &mut Kafka) {
        let place = (Arc::clone(&message.record.topic), message.partition);
        let queue = self.queues.entry(place).or_default();
        if queue.session == 0 {
            queue.session = kafka.number();
        }
        queue.waiting.push_back(message);
    }

    /// Its thread does something: sends a batch, or reads a response.
    pub fn step(&mut self, kafka: &mut Kafka, dice: &mut Dice) {
        if dice.percent(50)
            && let Some(response) = kafka.receive(self.number)
        {
            self.take(response, kafka);
            return;
        }
        let ready: Vec<(Arc<str>, i32)> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.may_send())
            .map(|(place, _)| place.clone())
            .collect();
        if ready.is_empty() || self.dead {
            return;
        }
        let place = &ready[dice.below(ready.len())];
        let queue = self.queues.get_mut(place).expect("it is ready");
        if queue.flights.iter().all(|flight| flight.sent) {
            let most = queue.waiting.len().min(self.batch);
            let messages: Vec<Message> = queue.waiting.drain(..1 + dice.below(most)).collect();
            let base = queue.next;
            queue.next += messages.len() as u64;
            queue.flights.push_back(Flight { base, messages: Rc::new(messages), sent: false });
        }
        let session = queue.session;
        let flight = queue.flights.iter_mut().find(|flight| !flight.sent).expect("there is one now");
        flight.sent = true;
        let request = Request {
            session,
            base: flight.base,
            partition: place.1,
            messages: Rc::clone(&flight.messages),
            pipelined: !self.alone,
            muted: false,
        };
        kafka.send(self.number, request);
    }

    /// The connection was cut: everything without a response is sent again, in order. A dead one does not try.
    pub fn cut(&mut self) {
        if self.dead {
            self.give_up_flights();
        }
        self.queues.values_mut().flat_map(|queue| &mut queue.flights).for_each(|flight| flight.sent = false);
    }

    /// Gives up what it holds.
    pub fn purge(&mut self) {
        self.dead = true;
        self.return_waiting();
        self.give_up_flights();
    }

    fn give_up_flights(&mut self) {
        let flights = self.queues.values_mut().flat_map(|queue| queue.flights.drain(..));
        let messages = flights.flat_map(|flight| flight.messages.to_vec());
        self.reports.extend(messages.map(|message| (message.tag, Err(Failure::Unknown))));
        self.tripped = true;
    }

    fn return_waiting(&mut self) {
        let waiting = self.queues.values_mut().flat_map(|queue| queue.waiting.drain(..));
        self.reports.extend(waiting.map(|message| (message.tag, Err(Failure::NotWritten))));
        self.tripped = true;
    }

    fn take(&mut self, response: Response, kafka: &mut Kafka) {
        let (place, queue) = self
            .queues
            .iter_mut()
            .find(|(_, queue)| queue.session == response.session)
            .expect("a session is known until its last response");
        let at = queue.flights.iter().position(|flight| flight.base == response.base);
        let Some(at) = at else { return };
        let Some(refused) = response.refused else {
            let flight = queue.flights.remove(at).expect("it was found");
            self.reports.extend(flight.messages.iter().map(|message| (message.tag, Ok(()))));
            return;
        };
        if refused[0] == Failure::Unknown && !self.dead {
            // Nothing behind it was taken either: all of it goes again, in order, when its own answer is in.
            queue.flights[at].sent = false;
            queue.refused_behind(at);
            kafka.drop_requests(self.number, response.session);
            return;
        }
        if refused[0] == Failure::NotWritten && at > 0 && !self.dead {
            return;
        }
        let flight = queue.flights.remove(at).expect("it was found");
        let topic = Arc::clone(&place.0);
        let failures =
            flight.messages.iter().map(|message| message.tag).zip(refused.iter().copied().map(Err));
        self.reports.extend(failures);
        self.tripped = true;
        match refused[0] {
            Failure::Topic(TopicTrouble::Missing) => self.topic_is_gone(&topic, kafka),
            _ if self.alone => {}
            _ => {
                self.dead = true;
                self.return_waiting();
            }
        }
    }

    /// Everything that is queued for the topic comes back; what is in flight gets its own answer.
    fn topic_is_gone(&mut self, topic: &Arc<str>, kafka: &mut Kafka) {
        let missing = Failure::Topic(TopicTrouble::Missing);
        for ((_, _), queue) in self.queues.iter_mut().filter(|((name, _), _)| name == topic) {
            self.reports.extend(queue.waiting.drain(..).map(|message| (message.tag, Err(missing))));
            if queue.flights.is_empty() {
                (queue.session, queue.next) = (kafka.number(), 0);
            }
        }
    }

    /// It holds records of this topic.
    pub fn holds_of(&self, topic: &str) -> bool {
        let mut queues = self.queues.iter().filter(|((name, _), _)| **name == *topic);
        queues.any(|(_, queue)| !queue.waiting.is_empty() || !queue.flights.is_empty())
    }
}

impl Queue {
    fn may_send(&self) -> bool {
        self.flights.iter().any(|flight| !flight.sent)
            || (!self.waiting.is_empty() && self.flights.len() < IN_FLIGHT)
    }

    fn refused_behind(&mut self, at: usize) {
        self.flights.iter_mut().skip(at).for_each(|flight| flight.sent = false);
    }
}

impl Kafka {
    /// What a producer has sent of a session is refused for its sequence numbers, or was never read.
    fn drop_requests(&mut self, producer: u64, session: u64) {
        if let Some(queue) = self.requests.get_mut(&producer) {
            queue.retain(|request| request.session != session);
        }
        if let Some(queue) = self.responses.get_mut(&producer) {
            queue.retain(|response| response.session != session);
        }
    }
}
