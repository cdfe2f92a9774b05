//! Lanes: topics that the sender reads on their own, at positions of their own.
//!
//! Two causes stand for all: a topic that is gone, and one that floods (whose rows go on while the lane opens).

use std::sync::Arc;

use outbox_relay::position::Position;
use outbox_relay::store::settle::LaneStep;

use super::Site;
use super::batch::{Batch, Decided};
use super::read::{Page, Reading};
use super::send::Sending;
use crate::bugs::{Ms, Plan};
use crate::postgres::Xid;
use crate::postgres::calls::Inherited;

/// Between two pages of a lane that had nothing.
const REST: Ms = 50;

/// What the sender asks of the reader.
pub enum Order {
    Open(Arc<str>),
    Read(Arc<str>),
}

/// A lane that opens, and where it begins.
pub struct Opening {
    pub topic: Arc<str>,
    pub position: Position,
    pub as_of: Xid,
}

/// How far a lane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Opening,
    Standing,
    Flowing,
    Closing,
}

/// One lane.
pub struct Lane {
    pub topic: Arc<str>,
    /// Rows that main has read already go as if there were no lane.
    pub lets_main_finish: bool,
    pub state: State,
    asked: bool,
    next_ask: Ms,
    position: Option<Position>,
    as_of: Xid,
    written_at: Option<Ms>,
    /// Rows in the window.
    rows: usize,
}

impl Lane {
    fn step(&self, closed: bool) -> Option<LaneStep> {
        Some(LaneStep {
            topic: Arc::clone(&self.topic),
            cause: "missing",
            position: self.position.clone()?,
            as_of: Some(self.as_of.to_string()),
            closed,
            waiting: 0,
        })
    }
}

impl Sending {
    /// What the lease before this one left.
    pub fn inherit_lanes(&mut self, found: &Inherited) {
        for row in &found.lanes {
            let topic = row.lane.as_ref().expect("a lane has a topic");
            self.lanes.push(Lane {
                position: Some(row.position.clone()),
                as_of: row.as_of,
                written_at: None,
                ..lane(topic, State::Standing, false)
            });
        }
    }

    pub fn lane_of(&mut self, topic: &Arc<str>) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| lane.topic == *topic)
    }

    /// The topic is to be read on its own, unless it is already.
    pub fn lane_for(&mut self, topic: &Arc<str>, floods: bool, read: &mut Reading, plan: &Plan) {
        if plan.lanes && self.lane_of(topic).is_none() {
            read.orders.push_back(Order::Open(Arc::clone(topic)));
            self.lanes.push(lane(topic, State::Opening, floods));
        }
    }

    /// Ten times a second: lanes that may flow, that have to stand, that are asked for a page.
    pub fn drive_lanes(&mut self, read: &mut Reading, site: &mut Site) {
        for at in 0..self.lanes.len() {
            let lane = &mut self.lanes[at];
            if lane.written_at.is_none() && lane.state != State::Opening {
                lane.written_at = Some(site.now);
                let mut decided = Decided::default();
                decided.outcome.rare.lanes.extend(lane.step(false));
                self.extra.push_back(decided);
            }
            let sick = self.topics[&lane.topic].sick;
            lane.state = match lane.state {
                State::Standing if !sick => State::Flowing,
                State::Flowing if sick => State::Standing,
                state => state,
            };
        }
        self.ask_lanes(read, site);
    }

    pub fn ask_lanes(&mut self, read: &mut Reading, site: &mut Site) {
        let room = self.rows < site.plan.window_rows;
        for at in 0..self.lanes.len() {
            let lane = &self.lanes[at];
            let half = lane.rows < (site.plan.window_rows / 2).max(1);
            let due =
                lane.state == State::Flowing && !lane.asked && site.now >= lane.next_ask && half && room;
            let topic = Arc::clone(&lane.topic);
            if due && self.unoffered(Some(&topic)).is_none() {
                self.lanes[at].asked = true;
                read.orders.push_back(Order::Read(topic));
            }
        }
    }

    pub fn take_lane_page(&mut self, mut page: Page, by_itself: bool, now: Ms) {
        let topic = Arc::clone(page.lane.as_ref().expect("it is a lane's"));
        let next_no = self.next_no + 1;
        let Some(lane) = self.lane_of(&topic) else { return };
        lane.asked = false;
        lane.next_ask = if page.rows.is_empty() && !page.more { now + REST } else { now };
        if page.closes {
            lane.state = State::Closing;
        }
        page.closes &= by_itself;
        let moved = lane.position.as_ref() != Some(&page.next);
        let is_news = moved && lane.written_at.is_none_or(|at| now >= at + 5 * REST);
        if page.rows.is_empty() && !page.closes && !is_news {
            return;
        }
        lane.rows += page.rows.len();
        self.next_no = next_no;
        self.window.push_back(Batch::new(next_no, page));
    }

    /// What a decided batch means for the lanes, beside its rows.
    pub fn take_lane_step(&mut self, batch: &mut Batch, now: Ms) -> Vec<LaneStep> {
        let mut steps = Vec::new();
        for Opening { topic, position, as_of } in std::mem::take(&mut batch.opened) {
            let Some(lane) = self.lane_of(&topic) else { continue };
            (lane.state, lane.position, lane.as_of) = (State::Standing, Some(position), as_of);
            lane.written_at = Some(now);
            steps.extend(lane.step(false));
        }
        if let Some(topic) = batch.closed.take() {
            let lane = self.lane_of(&topic).expect("it closes only now");
            lane.position = Some(batch.next.clone());
            steps.extend(lane.step(true));
            self.lanes.retain(|lane| lane.topic != topic);
        }
        let Some(topic) = batch.lane.clone() else { return steps };
        let lane = self.lane_of(&topic).expect("its batches hold it open");
        lane.rows -= batch.rows.len();
        (lane.position, lane.as_of) = (Some(batch.next.clone()), batch.as_of);
        lane.written_at = Some(now);
        steps.extend(lane.step(batch.closes));
        if batch.closes {
            self.lanes.retain(|lane| lane.topic != topic);
        }
        steps
    }
}

fn lane(topic: &Arc<str>, state: State, lets_main_finish: bool) -> Lane {
    Lane {
        topic: Arc::clone(topic),
        lets_main_finish,
        state,
        asked: false,
        next_ask: 0,
        position: None,
        as_of: 0,
        written_at: Some(0),
        rows: 0,
    }
}
