//! The sender's lanes: who gets one, when it stands, flows and closes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::put_off::{standing, stands};
use super::{Offer, Sender, now_us};
use crate::policy::Delivery;
use crate::relay::batch::{Batch, Fate};
use crate::relay::lanes::{Cause, FLOOD_BACKLOG, LANES_MAX, Lane, LanePage, Opening, Order, State};
use crate::relay::topics::{Need, Standing};
use crate::relay::{Decided, Inheritance};
use crate::store::poll::Page;
use crate::store::settle::Reason;
use crate::verdict::Failure;

/// Between two pages of a lane that had nothing.
const REST: Duration = Duration::from_millis(200);
/// Between two pages of any lane.
const BREATH: Duration = Duration::from_millis(20);
/// A lane's row in the ledger is written anew after so long, so that the ring slot of an old one can be emptied.
const REWRITE: Duration = Duration::from_secs(600);
/// Parked rows that are woken at a time.
const WAKE: u64 = 2000;
/// With this many rows of a topic deferred its lane waits for them: reading on would only copy what has to wait.
const DRAINED: u64 = 500;
/// … but only for as long as some of them leave.
const DRAINING: Duration = Duration::from_secs(1);
/// How often parked rows of a topic whose rows die too fast may come back.
const REPRIEVE: Duration = Duration::from_secs(60);

impl Sender<'_> {
    /// What the lease before this one left.
    pub(super) fn inherit(&mut self, inheritance: &Inheritance) {
        for counts in &inheritance.topics {
            let topic = self.topics.get(&counts.topic);
            (topic.waiting, topic.parked) = (counts.waiting, counts.parked);
        }
        self.count_lost(&inheritance.lost);
        // Each tells the sum of all lanes. The first one was written last.
        self.laned = inheritance.lanes.first().map_or(0, |lane| lane.waiting);
        for open in &inheritance.lanes {
            let name: Arc<str> = open.topic.as_str().into();
            let mut lane = Lane::new(Arc::clone(&name), Cause::named(&open.cause), State::Standing);
            lane.position = Some(open.resume.position.clone());
            lane.as_of = Some(open.resume.as_of.clone());
            // Written anew at once, under our epoch.
            lane.written_at = None;
            self.add_lane(lane);
        }
    }

    fn add_lane(&mut self, lane: Lane) {
        self.term.metrics.set_topic_lane(&lane.topic, lane.cause.as_str(), true);
        let free = self.lanes.iter().position(Option::is_none);
        let at = free.unwrap_or(self.lanes.len());
        self.topics.get(&lane.topic).lane = Some(at);
        match free {
            Some(at) => self.lanes[at] = Some(lane),
            None => self.lanes.push(Some(lane)),
        }
    }

    /// The topic is to be read on its own, unless it is already, or there are too many lanes.
    pub(super) fn lane_for(&mut self, name: &Arc<str>, cause: Cause) {
        if let Some(at) = self.topics.get(name).lane {
            let lane = self.lanes[at].as_mut().expect("a topic names its own lane");
            // Trouble explains more than a pace does.
            if matches!(cause, Cause::Trouble(_)) && lane.cause != cause && lane.state != State::Closing {
                self.term.metrics.set_topic_lane(name, lane.cause.as_str(), false);
                lane.cause = cause;
                self.term.metrics.set_topic_lane(name, cause.as_str(), true);
            }
            return;
        }
        if self.lanes.iter().flatten().count() >= LANES_MAX {
            return;
        }
        let opening = Opening { topic: Arc::clone(name), position: None, as_of: None };
        // A full channel is asked again with the next tick.
        if self.orders.try_send(Order::Open(opening)).is_ok() {
            self.add_lane(Lane::new(Arc::clone(name), cause, State::Opening));
        }
    }

    /// A lane for a topic that metadata or the broker calls sick.
    pub(super) fn lane_for_sick(&mut self, name: &Arc<str>) {
        if let Standing::Sick { refusal, .. } = &self.topics.get(name).standing
            && let Failure::Topic(trouble) = refusal.failure
        {
            self.lane_for(name, Cause::Trouble(trouble));
        }
    }

    /// A row of main whose topic is to be read apart: the topic gets its lane, and the row comes back through it.
    pub(super) fn open_lane(&mut self, at: usize, index: usize, cause: Cause) {
        let name = Arc::clone(&self.window[at].rows[index].topic);
        self.lane_for(&name, cause);
        self.park(at, index, standing(cause.as_str()));
    }

    /// A row that main has read although its topic has a lane. `None`: it goes like any other.
    pub(super) fn offer_of_laned(&mut self, at: usize, index: usize) -> Option<Offer> {
        let name = Arc::clone(&self.window[at].rows[index].topic);
        let number = self.topics.get(&name).lane?;
        let lane = self.lanes[number].as_ref()?;
        match lane.state {
            State::Opening if !lane.cause.lets_main_finish() => {
                let word = lane.cause.as_str();
                let refusal = match &self.topics.get(&name).standing {
                    Standing::Sick { refusal, .. } => refusal.clone(),
                    _ => standing(word),
                };
                self.park(at, index, refusal);
                Some(Offer::Done)
            }
            // Main has read what comes behind the lane's last page.
            State::Closing if self.unoffered(Some(number)).is_some() => {
                self.main_waits = true;
                Some(Offer::NotNow)
            }
            _ => None,
        }
    }

    pub(super) fn hand_over_lanes(&mut self) {
        for number in 0..self.lanes.len() {
            for _ in 0..super::SLICE / 2 {
                let goes = self.lanes[number].as_ref().is_some_and(|lane| !lane.waits && lane.rows > 0);
                if !goes
                    || !self.gate_is_open()
                    || !self.has_room_for(Some(number))
                    || !self.hand_over_next(Some(number))
                {
                    break;
                }
            }
        }
    }

    /// A lane has a row that may go, as far as is known.
    pub(super) fn a_lane_may_go(&self) -> bool {
        let may = |(number, lane): (usize, &Option<Lane>)| {
            lane.as_ref().is_some_and(|lane| !lane.waits && lane.rows > 0)
                && self.unoffered(Some(number)).is_some()
                && self.has_room_for(Some(number))
        };
        self.lanes.iter().enumerate().any(may)
    }

    /// A topic that fills page after page would make all others wait behind its backlog.
    pub(super) fn watch_for_floods(&mut self, page: &Page) {
        let behind = page.behind.unwrap_or(0);
        let waits = behind > (FLOOD_BACKLOG * self.term.config.page_rows) as i64;
        let flood = self.flood.page(&page.rows, page.full, waits);
        // In a lane each row is looked at twice, once to skip it: an eighth of the rate [seen in one run], for nothing where nobody waits.
        if let Some(topic) = flood.filter(|topic| self.topics.others_would_wait_for(topic, Instant::now())) {
            self.lane_for(&topic, Cause::Flooding);
        }
    }

    /// Main has skipped something: it may be for any lane.
    pub(super) fn wake_lanes(&mut self) {
        let now = Instant::now();
        for lane in self.lanes.iter_mut().flatten() {
            lane.next_ask = lane.next_ask.min(now.max(lane.asked_at + BREATH));
        }
    }

    /// When the next page of some lane is to be asked for.
    pub(super) fn next_lane_ask(&self) -> Option<Instant> {
        (0..self.lanes.len()).filter_map(|number| self.when_to_ask(number)).min()
    }

    fn when_to_ask(&self, number: usize) -> Option<Instant> {
        let lane = self.lanes[number].as_ref()?;
        let once = lane.cause == Cause::AtMostOnce;
        let room = if once { self.once_has_room() } else { self.has_room() };
        let half = lane.rows < (self.term.config.window_rows / 2).max(1);
        let ready = lane.state == State::Flowing && !lane.asked && room && half;
        (ready && self.unoffered(Some(number)).is_none()).then_some(lane.next_ask)
    }

    /// Asks for the pages that are wanted now.
    pub(super) fn ask_lanes(&mut self) {
        let now = Instant::now();
        for number in 0..self.lanes.len() {
            if self.when_to_ask(number).is_none_or(|at| at > now) || self.term.drain.is_cancelled() {
                continue;
            }
            let Some(lane) = &mut self.lanes[number] else { continue };
            let policy = &self.topics.get(&lane.topic).policy;
            // A second's worth, as main's pages are.
            let rates = policy.rate.into_iter().chain(self.rates.all());
            let rows = rates.map(|rate| rate.max(1) as usize).min().unwrap_or(usize::MAX);
            let may_close = policy.rate.is_none() && policy.delivery == Delivery::AtLeastOnce;
            let order = Order::Read {
                topic: Arc::clone(&lane.topic),
                rows: rows.min(self.term.config.page_rows),
                may_close,
            };
            lane.ask(order, &self.orders, now);
        }
    }

    /// A page of a lane has been read.
    pub(super) fn take_lane_page(&mut self, LanePage { topic: name, page, caught_up, closes }: LanePage) {
        let Some(number) = self.topics.get(&name).lane else { return };
        let Some(lane) = self.lanes[number].as_mut() else { return };
        lane.asked = false;
        lane.caught_up = caught_up;
        let now = Instant::now();
        let Some(page) = page else {
            lane.next_ask = now + REST;
            return;
        };
        let rows = page.rows.len();
        lane.next_ask = if rows > 0 || page.more { now } else { now + REST };
        if closes {
            lane.state = State::Closing;
        }
        // An empty page only moves the position; once a second is enough for that.
        let moved = lane.position.as_ref() != Some(&page.next);
        let is_news = moved && lane.written_at.is_none_or(|at| now.duration_since(at) >= 5 * REST);
        if rows == 0 && !closes && !is_news {
            return;
        }
        lane.rows += rows;
        self.clock_us = page.database_us - now_us();
        self.topics.count_read(&page.rows);
        self.laned = if caught_up && self.lanes.iter().flatten().count() == 1 {
            0
        } else {
            (self.laned - rows as i64).max(0)
        };
        self.next_no += 1;
        let mut batch = Batch::new(self.next_no, page.rows, page.next);
        batch.lane = Some(number);
        batch.repeats = self.may_repeat(batch.rows.len());
        batch.as_of = Some(page.as_of);
        self.window.push_back(batch);
        let topic = self.topics.get(&name);
        if topic.policy.delivery == Delivery::AtMostOnce && !stands(topic) {
            self.settle_first();
        }
    }

    /// What a decided batch means for the lanes, beside its rows.
    pub(super) fn take_lane_step(&mut self, mut batch: Batch) -> Decided {
        let now = Instant::now();
        let (opened, lane, next) = (std::mem::take(&mut batch.opened), batch.lane, batch.next.clone());
        let (closed, as_of, rows) = (std::mem::take(&mut batch.closed), batch.as_of.take(), batch.rows.len());
        let once = batch.take_once();
        let mut decided = batch.decided();
        decided.once = once;
        for Opening { topic, position, as_of, .. } in opened {
            let Some(number) = self.topics.get(&topic).lane else { continue };
            let lane = self.lanes[number].as_mut().expect("a topic names its own lane");
            (lane.state, lane.position, lane.as_of) = (State::Standing, position, as_of);
            lane.written_at = Some(now);
            decided.outcome.rare.lanes.extend(lane.step(false, self.laned));
            tracing::info!(
                topic = &*topic,
                cause = lane.cause.as_str(),
                "topic is read on its own, the others go on"
            );
        }
        for number in closed {
            let Some(lane) = self.lanes[number].take() else { continue };
            decided.outcome.rare.lanes.extend(lane.step(true, self.laned));
            self.term.metrics.set_topic_lane(&lane.topic, lane.cause.as_str(), false);
            tracing::info!(topic = &*lane.topic, "topic is read with the others again");
            self.topics.get(&lane.topic).lane = None;
        }
        if self.lanes.iter().all(Option::is_none) {
            self.lanes.clear();
        }
        let Some(number) = lane else { return decided };
        // Its position is its lane's, not main's.
        decided.position = None;
        let lane = self.lanes[number].as_mut().expect("its batches hold it open");
        lane.rows -= rows;
        (lane.position, lane.as_of, lane.written_at) = (Some(next), as_of, Some(now));
        decided.outcome.rare.lanes.extend(lane.step(false, self.laned));
        decided
    }

    /// Ten times a second: lanes that are needed, that may flow, that have to stand.
    pub(super) fn drive_lanes(&mut self) {
        let now = Instant::now();
        let share = (self.term.retry.deferred_max as u64 / 4).max(1);
        for Need { topic, cause } in self.topics.needs(share) {
            self.lane_for(&topic, cause);
        }
        for topic in self.topics.look_at_sick(now) {
            self.probe(&topic);
        }
        for topic in self.topics.with_parked() {
            if self.topics.get(&topic).lane.is_none() && !stands(self.topics.get(&topic)) {
                self.wake(&topic, WAKE);
            }
        }
        for number in 0..self.lanes.len() {
            self.drive_lane(number, share, now);
        }
        self.ask_lanes();
        let laned = if self.lanes.is_empty() { 0 } else { self.laned.max(0) as u64 };
        self.term.metrics.set_backlog(crate::metrics::BacklogState::Laned, laned);
    }

    fn drive_lane(&mut self, number: usize, share: u64, now: Instant) {
        let Some(lane) = &self.lanes[number] else { return };
        let (name, state) = (Arc::clone(&lane.topic), lane.state);
        if lane.written_at.is_none_or(|at| now.duration_since(at) >= REWRITE) && state != State::Opening {
            let lane = self.lanes[number].as_mut().expect("it was there above");
            lane.written_at = Some(now);
            let mut decided = Decided::default();
            decided.outcome.rare.lanes.extend(lane.step(false, self.laned));
            self.extra.push_back(decided);
        }
        let topic = self.topics.get(&name);
        topic.share_used = topic.waiting >= share || (topic.share_used && topic.waiting > share / 2);
        topic.is_dying = topic.is_dying && now.duration_since(topic.dying_since) < REPRIEVE;
        let known = match topic.standing {
            Standing::Ready(_) => true,
            Standing::Sick { .. } => false,
            Standing::Unknown if topic.paused => false,
            Standing::Unknown => {
                self.topics.ask(&name);
                false
            }
        };
        let topic = self.topics.get(&name);
        let works = known && !stands(topic);
        let flows = works && !topic.share_used;
        match state {
            State::Standing if works && topic.parked > 0 => self.wake(&name, WAKE),
            State::Standing if flows && self.has_drained(&name, now) => {
                self.set_state(number, State::Flowing)
            }
            State::Flowing if !flows => self.set_state(number, State::Standing),
            _ => {}
        }
    }

    /// Few rows of the topic are deferred, or those that are do not move: then the lane need not wait for them.
    fn has_drained(&mut self, name: &Arc<str>, now: Instant) -> bool {
        let topic = self.topics.get(name);
        if topic.waiting != topic.waiting_seen.0 {
            topic.waiting_seen = (topic.waiting, now);
        }
        topic.waiting < DRAINED || now.duration_since(topic.waiting_seen.1) >= DRAINING
    }

    fn set_state(&mut self, number: usize, state: State) {
        if let Some(lane) = &mut self.lanes[number] {
            lane.state = state;
            lane.next_ask = Instant::now();
        }
    }

    /// A sick topic of which metadata says that it is there: some row of it has to find out.
    fn probe(&mut self, name: &Arc<str>) {
        if self.topics.get(name).parked > 0 {
            self.wake(name, 1);
            self.topics.probe_is_on_its_way(name);
            return;
        }
        let lane = self.topics.get(name).lane;
        match lane.and_then(|number| self.lanes[number].as_mut()) {
            Some(lane) if lane.state == State::Standing && !lane.asked && !lane.caught_up => {
                let order = Order::Read { topic: Arc::clone(name), rows: 1, may_close: false };
                lane.ask(order, &self.orders, Instant::now());
            }
            Some(lane) if lane.state == State::Standing && lane.caught_up => self.topics.believe(name),
            Some(_) => {}
            None => self.topics.believe(name),
        }
    }

    /// Parked rows are due now, at most so many, the lowest ids first.
    fn wake(&mut self, name: &Arc<str>, rows: u64) {
        let topic = self.topics.get(name);
        // Not more than may go until the next time.
        let pace = topic.policy.rate.map_or(u64::MAX, |rate| u64::from(rate / 10).max(1));
        let rows = rows.min(topic.parked).min(pace);
        topic.parked -= rows;
        let mut decided = Decided::default();
        decided.outcome.rare.woken.push((Arc::clone(name), rows as i64));
        self.extra.push_back(decided);
    }

    /// The rows of the last batch are settled before they are handed over.
    fn settle_first(&mut self) {
        let now_us = now_us() + self.clock_us;
        let at = self.window.len() - 1;
        for index in 0..self.window[at].rows.len() {
            let row = &self.window[at].rows[index];
            let (weight, ahead_us) =
                (row.weight(), row.deliver_after_us.map_or(0, |at| at.saturating_sub(now_us)));
            if row.expires_us.is_some_and(|at| at <= now_us) {
                self.window[at].set(index, Fate::Expired);
            } else if ahead_us > 0 {
                self.put_off(at, index, Reason::Scheduled, Some(ahead_us / 1000), None, false);
            } else if self.keys.blocks(&row.topic, row.key.as_deref()) {
                self.put_off(at, index, Reason::Behind, None, None, false);
            } else {
                self.window[at].set(index, Fate::Dropped);
            }
            self.window[at].bytes += weight;
            self.bytes += weight;
            self.rows += 1;
        }
        self.window[at].offered = self.window[at].rows.len();
    }
}
