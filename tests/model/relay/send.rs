//! Send: rows to the main producer in order, reports back, every row's fate.
//!
//! The decisions are the relay's own: `message::judge`, `verdict::decide`, `ordering::BlockedKeys`, `partition::of_key`. What is modelled
//! here is the order in which they are asked.

mod decided;
pub mod record;
mod reports;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::message::{Fitness, judge};
use outbox_relay::ordering::BlockedKeys;
use outbox_relay::partition;
use outbox_relay::store::settle::{Deferral, PARKED, Reason};
use outbox_relay::verdict::{Failure, History, Limits, Verdict, own_fault};

use super::batch::{Batch, Decided, DueBatch, Fate};
use super::lanes::{Lane, State};
use super::read::Reading;
use super::{End, Lead, Loops, Site};
use crate::bugs::{Bug, Ms, Plan};
use crate::kafka::producer::Producer;
use crate::kafka::{Kafka, PARTITIONS, Tag};
use crate::postgres::calls::Inherited;

/// A row that failed in company is charged with nothing.
const ENDLESS: Limits = Limits { attempts: u32::MAX, age: Duration::MAX };
/// How long a dead producer's last reports are waited for, and then again after its purge.
const LAST_REPORTS: Ms = 200;

/// Whether a partition may be pipelined into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Closed,
    First(Tag),
    Open,
}

/// What the sender knows of a topic.
pub struct Topic {
    pub sick: bool,
    parked: u64,
    gates: [Gate; PARTITIONS as usize],
    creations: u32,
}

/// The sender's state.
pub struct Sending {
    pub main: Producer,
    pub second: Producer,
    pub topics: HashMap<Arc<str>, Topic>,
    pub keys: BlockedKeys,
    pub window: VecDeque<Batch>,
    pub lanes: Vec<Lane>,
    pub next_no: u64,
    again: VecDeque<(u64, usize)>,
    returned: Vec<(u64, usize, Failure)>,
    outstanding: usize,
    dead_since: Option<Ms>,
    give_up_main: bool,
    pub due: Option<DueBatch>,
    pub extra: VecDeque<Decided>,
    /// Rows offered and not settled.
    pub rows: usize,
    awaits_report: bool,
    /// Deferred rows, those decided and not yet settled included.
    pub deferred: u64,
    next_look: Ms,
    pub replaced: usize,
}

/// One turn: reports, judgements, hand-overs, and one of the inputs.
pub fn step(lead: &Lead, loops: &mut Loops, site: &mut Site) -> Result<(), End> {
    let send = &mut loops.send;
    if site.now >= lead.trust_until {
        return Err(End::TrustRanOut);
    }
    send.take_reports(site);
    send.judge_returned(site);
    send.hand_over(lead, site);
    send.hand_over_due(lead, site);
    if site.dice.percent(20) {
        return Ok(());
    }
    if site.now >= send.next_look {
        send.next_look = site.now + 100;
        send.look_around(&mut loops.read, site);
    } else if let Some(freed) = loops.settle.out.pop_front() {
        send.leave(freed);
    } else if loops.settle.has_room()
        && let Some(decided) = send.take_decided(site.plan, site.now)
    {
        loops.settle.queue.push_back(decided);
    } else if let Some(page) = loops.read.lane_pages.pop_front() {
        // Before main's: main may have the topic back in the page after this one.
        send.take_lane_page(page, site.plan.has(Bug::LaneClosesByItself), site.now);
    } else if send.due.is_none()
        && let Some(rows) = loops.retry.out.take()
    {
        send.take_due(rows, site);
    } else if send.unoffered(None).is_none()
        && let Some(page) = loops.read.out.take()
    {
        send.next_no += 1;
        send.window.push_back(Batch::new(send.next_no, page));
    } else {
        send.ask_lanes(&mut loops.read, site);
    }
    Ok(())
}

impl Sending {
    pub fn new(found: &Inherited, site: &mut Site) -> Sending {
        let mut keys = BlockedKeys::default();
        found.waiting.iter().for_each(|(topic, key, rows)| keys.wait(topic, Some(key), *rows));
        let topic = |name: &Arc<str>, kafka: &Kafka| Topic {
            sick: kafka.is_gone(name),
            parked: found.parked.get(name).copied().unwrap_or(0),
            gates: [Gate::Closed; PARTITIONS as usize],
            creations: kafka.creations[name],
        };
        let kafka = &*site.kafka;
        let topics = kafka.topics.iter().map(|name| (Arc::clone(name), topic(name, kafka))).collect();
        let mut sending = Sending {
            main: Producer::main(site.kafka),
            second: Producer::second(site.kafka),
            topics,
            keys,
            window: VecDeque::new(),
            lanes: Vec::new(),
            next_no: 0,
            again: VecDeque::new(),
            returned: Vec::new(),
            outstanding: 0,
            dead_since: None,
            give_up_main: false,
            due: None,
            extra: VecDeque::new(),
            rows: 0,
            awaits_report: false,
            deferred: found.deferred,
            next_look: 0,
            replaced: 0,
        };
        sending.inherit_lanes(found);
        sending
    }

    pub fn topic(&mut self, name: &str) -> &mut Topic {
        self.topics.get_mut(name).expect("all topics are known")
    }

    /// The topic is gone; its gates close, for the broker will know nothing of us.
    pub fn sicken(&mut self, name: &str) {
        let topic = self.topic(name);
        topic.sick = true;
        topic.gates = [Gate::Closed; PARTITIONS as usize];
    }

    pub fn gate_is_open(&self) -> bool {
        self.dead_since.is_none() && !self.awaits_report && !self.main.tripped && !self.main.dead
    }

    fn hand_over(&mut self, lead: &Lead, site: &mut Site) {
        while self.gate_is_open() {
            let Some(&(no, index)) = self.again.front() else { break };
            if !self.offer(self.batch_at(no), index, lead, site) {
                break;
            }
            self.again.pop_front();
        }
        let lanes: Vec<Option<Arc<str>>> =
            self.lanes.iter().map(|lane| Some(Arc::clone(&lane.topic))).collect();
        for stream in lanes.into_iter().chain([None]) {
            self.hand_over_stream(stream.as_ref(), lead, site);
        }
    }

    /// Offers a slice of the new rows of main or of a lane.
    fn hand_over_stream(&mut self, stream: Option<&Arc<str>>, lead: &Lead, site: &mut Site) {
        let slice = 1 + site.dice.below(6);
        for _ in 0..slice {
            let Some(at) = self.unoffered(stream) else { break };
            // The oldest page may be completed, or those that are offered in part would wait for each other.
            let oldest = at == 0 && !site.plan.has(Bug::PartialPagesFillWindow);
            let room = self.rows < site.plan.window_rows || oldest;
            if !self.again.is_empty() || !self.gate_is_open() || !room {
                break;
            }
            let index = self.window[at].offered;
            if !self.offer(at, index, lead, site) {
                break;
            }
            self.window[at].offered += 1;
            self.rows += 1;
        }
    }

    /// Offers a row to the main producer, or decides that it does not go. `false`: not now.
    fn offer(&mut self, at: usize, index: usize, lead: &Lead, site: &mut Site) -> bool {
        let row = Rc::clone(&self.window[at].rows[index]);
        let lane = self.lane_of(&row.topic).map(|lane| (lane.state, lane.lets_main_finish));
        match lane.filter(|_| self.window[at].lane.is_none()) {
            Some((State::Opening, false)) => {
                self.put_off(at, index, Reason::Retry, Some(PARKED), false, site.plan);
                return true;
            }
            // Main has read what comes behind the lane's last page.
            Some((State::Closing, _)) if self.unoffered(Some(&row.topic)).is_some() => return false,
            _ => {}
        }
        let ahead = row.deliver_after_us.map_or(0, |at| (at / 1000).saturating_sub(site.now as i64));
        if ahead > 0 {
            self.put_off(at, index, Reason::Scheduled, Some(ahead), false, site.plan);
            return true;
        }
        if self.keys.blocks(&row.topic, row.key.as_deref()) {
            self.put_off(at, index, Reason::Behind, None, false, site.plan);
            return true;
        }
        let topic = self.topics.get_mut(&row.topic).expect("known");
        if topic.sick {
            self.put_off(at, index, Reason::Retry, Some(PARKED), false, site.plan);
            return true;
        }
        match judge(&row, &record::facts(site.plan)) {
            Fitness::Fit => {}
            Fitness::Suspect => {
                self.put_off(at, index, Reason::Retry, Some(0), false, site.plan);
                return true;
            }
            Fitness::Unfit(failure, _) => {
                match own_fault(failure, History::default(), record::limits(site.plan)) {
                    Verdict::Dead(reason) => {
                        self.window[at].set(index, Fate::Dead(record::death(row.id, reason, 1)));
                    }
                    _ => {
                        let delay = record::BACKOFF.delay(1, site.dice.fraction()).as_millis() as i64;
                        self.put_off(at, index, Reason::Retry, Some(delay), true, site.plan);
                    }
                }
                return true;
            }
        }
        if topic.creations != site.kafka.creations[&row.topic] {
            topic.creations = site.kafka.creations[&row.topic];
            topic.gates = [Gate::Closed; PARTITIONS as usize];
        }
        let partition = match &row.key {
            Some(key) => partition::of_key(key, PARTITIONS),
            None => site.dice.below(PARTITIONS as usize) as i32,
        };
        let gate = &mut topic.gates[partition as usize];
        let tag = Tag { alone: false, no: self.window[at].no, index };
        if row.key.is_some() && !site.plan.has(Bug::NoFirstGate) {
            match gate {
                Gate::First(_) => {
                    self.awaits_report = true;
                    return false;
                }
                Gate::Closed => *gate = Gate::First(tag),
                Gate::Open => {}
            }
        }
        record::still_leads(lead, site);
        self.main.hand_over(record::message(&row, tag, partition, lead), site.kafka);
        self.outstanding += 1;
        let early = site.plan.has(Bug::MarksBeforeConfirm);
        self.window[at].set(index, if early { Fate::Published } else { Fate::InFlight });
        true
    }

    /// The row waits, and so does its key.
    fn put_off(
        &mut self,
        at: usize,
        index: usize,
        reason: Reason,
        delay_ms: Option<i64>,
        spent: bool,
        plan: &Plan,
    ) {
        let row = Rc::clone(&self.window[at].rows[index]);
        if reason != Reason::Scheduled && !plan.has(Bug::UnblocksBeforeUnsettled) {
            self.keys.wait(&row.topic, row.key.as_deref(), 1);
        }
        self.deferred += 1;
        let deferral = Deferral {
            reason,
            delay_ms,
            attempts: i32::from(spent),
            tries: i32::from(spent),
            ..Deferral::behind(row.id)
        };
        self.window[at].set(index, Fate::PutOff(deferral));
    }

    /// Ten times a second: topics that are gone or back, and the second producer.
    fn look_around(&mut self, read: &mut Reading, site: &mut Site) {
        let names: Vec<Arc<str>> = site.kafka.topics.clone();
        if site.dice.percent(site.plan.laning) {
            let name = &names[site.dice.below(names.len())];
            self.lane_for(name, true, read, site.plan);
        }
        for name in names {
            let gone = site.kafka.is_gone(&name);
            if gone && !self.topic(&name).sick {
                self.sicken(&name);
                let in_flight = self.window.iter().flat_map(|batch| batch.rows.iter().zip(&batch.fates));
                self.give_up_main |= in_flight
                    .filter(|(row, _)| row.topic == name)
                    .any(|(_, fate)| matches!(fate, Fate::InFlight));
            }
            let topic = self.topic(&name);
            topic.sick = gone;
            if gone {
                self.lane_for(&name, false, read, site.plan);
            }
            let topic = self.topic(&name);
            if !gone && topic.parked > 0 {
                let rows = std::mem::take(&mut topic.parked) as i64;
                let mut decided = Decided::default();
                decided.outcome.rare.woken.push((Arc::clone(&name), rows));
                self.extra.push_back(decided);
            }
        }
        self.drive_lanes(read, site);
    }

    /// Where the next row of main or of a lane is that was never offered.
    pub fn unoffered(&self, lane: Option<&Arc<str>>) -> Option<usize> {
        let last = self.window.iter().rposition(|batch| batch.lane.as_ref() == lane);
        last.filter(|at| self.window[*at].offered < self.window[*at].rows.len())
    }

    fn batch_at(&self, no: u64) -> usize {
        self.window.partition_point(|batch| batch.no < no)
    }
}
