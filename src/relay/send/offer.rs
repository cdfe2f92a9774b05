//! The sender's first route: rows to the main producer, in order, or the reason why one does not go.

use std::sync::Arc;
use std::time::Instant;

use super::{Offer, SLICE, Sender, now_us, put_off};
use crate::crash_point;
use crate::kafka::NotTaken;
use crate::message::{Fitness, judge};
use crate::policy::{Delivery, OnExpiry};
use crate::receipt::Receipt;
use crate::relay::TermEnd;
use crate::relay::batch::{Fate, Tag};
use crate::relay::lanes::Cause;
use crate::relay::topics::{Standing, facts};
use crate::store::settle::Reason;
use crate::verdict::{Failure, Route};

impl Sender<'_> {
    /// Hands over a slice of rows: those that go again first, then the lanes' and main's new ones in order; then due ones.
    pub(super) fn hand_over(&mut self) -> Result<(), TermEnd> {
        if !self.term.trust.holds() {
            return Err(TermEnd::TrustRanOut);
        }
        // Looked at before every row: the next one must not pass a row that has just come back.
        while self.gate_is_open() {
            let Some(&(no, index)) = self.again.front() else { break };
            if self.offer(self.batch_at(no), index) == Offer::NotNow {
                break;
            }
            self.again.pop_front();
        }
        if self.again.is_empty() {
            self.hand_over_lanes();
            for _ in 0..SLICE {
                if !self.gate_is_open()
                    || self.main_waits
                    || !self.has_room_for(None)
                    || !self.hand_over_next(None)
                {
                    break;
                }
            }
        }
        self.hand_over_once();
        self.hand_over_due()
    }

    /// Offers the next row of a stream. `false`: there is none, or it does not go now.
    pub(super) fn hand_over_next(&mut self, lane: Option<usize>) -> bool {
        let Some(at) = self.unoffered(lane) else { return false };
        let index = self.window[at].offered;
        if self.offer(at, index) == Offer::NotNow {
            return false;
        }
        let batch = &mut self.window[at];
        let weight = batch.rows[index].weight();
        batch.offered += 1;
        batch.bytes += weight;
        // Rows that go one by one, because of a rate, have not stalled.
        batch.offered_at = Instant::now();
        self.rows += 1;
        self.bytes += weight;
        if batch.offered == batch.rows.len() {
            crash_point::reach(crash_point::AFTER_SEND);
        }
        true
    }

    /// Offers a row to the main producer, or decides that it does not go.
    pub(super) fn offer(&mut self, at: usize, index: usize) -> Offer {
        let now_us = now_us() + self.clock_us;
        let lane = self.window[at].lane;
        let row = &self.window[at].rows[index];
        let topic = self.topics.get(&row.topic);
        if row.expires_us.is_some_and(|at| at <= now_us) {
            match topic.policy.on_expiry {
                OnExpiry::Drop => self.window[at].set(index, Fate::Expired),
                OnExpiry::DeadLetter => self.bury_expired(at, index),
            }
            return Offer::Done;
        }
        if lane.is_none()
            && topic.lane.is_some()
            && let Some(offer) = self.offer_of_laned(at, index)
        {
            return offer;
        }
        let row = &self.window[at].rows[index];
        if let Some(ahead_us) = row.deliver_after_us.map(|at| at.saturating_sub(now_us)).filter(|us| *us > 0)
        {
            self.put_off(at, index, Reason::Scheduled, Some(ahead_us / 1000), None, false);
            return Offer::Done;
        }
        if self.keys.blocks(&row.topic, row.key.as_deref()) && !crash_point::bug("ignores_key_order") {
            self.put_off(at, index, Reason::Behind, None, None, false);
            return Offer::Done;
        }
        let topic = self.topics.get(&row.topic);
        let (settings, narrow) = match &topic.standing {
            Standing::Ready(settings) => (*settings, topic.narrow),
            Standing::Sick { refusal, .. } => {
                let refusal = refusal.clone();
                self.park(at, index, refusal);
                return Offer::Done;
            }
            Standing::Unknown => {
                self.topics.ask(&row.topic);
                self.wait_for_answer(lane);
                return Offer::NotNow;
            }
        };
        // Read by main before its lane has opened: it comes back through the lane's own way.
        let apart = match &topic.policy {
            policy if policy.delivery == Delivery::AtMostOnce => Some(Cause::AtMostOnce),
            policy if lane.is_none() && policy.rate.is_some() => Some(Cause::Paced),
            _ => None,
        };
        if let Some(cause) = apart {
            self.open_lane(at, index, cause);
            return Offer::Done;
        }
        if !self.rates.take(&row.topic, lane.and(topic.policy.rate)) {
            self.wait_for_answer(lane);
            return Offer::NotNow;
        }
        let (compressed, batch_size) = (self.publisher.compresses(), self.publisher.batch_size());
        match judge(row, &facts(&settings, narrow, compressed, batch_size)) {
            Fitness::Fit => {}
            Fitness::Suspect => {
                self.put_off(at, index, Reason::Retry, Some(0), Some(put_off::suspect()), false);
                return Offer::Done;
            }
            Fitness::Unfit(failure, text) => {
                self.put_off_unfit(at, index, failure, text);
                return Offer::Done;
            }
        }
        let gates = &mut self.topics.get(&row.topic).gates;
        let partition = gates.gate_of(row, settings.partitions);
        if partition.is_some_and(|partition| gates.holds(partition)) {
            self.awaits_report = true;
            return Offer::NotNow;
        }
        let tag = Tag { route: Route::Main, no: self.window[at].no, index };
        match self.publisher.hand_over(Route::Main, row, &self.term.stamp, now_us, tag.encode()) {
            Ok(()) if crash_point::bug("marks_before_confirm") => {
                let nowhere = Receipt { partition: 0, offset: None };
                self.window[at].set(index, Fate::Published(nowhere));
                Offer::Done
            }
            Ok(()) => {
                if let Some(partition) = partition {
                    gates.handed_over(partition, tag);
                }
                self.is_with_main();
                self.window[at].set(index, Fate::InFlight);
                Offer::Done
            }
            Err(NotTaken::Full) => {
                self.awaits_report = true;
                Offer::NotNow
            }
            Err(NotTaken::Dead) => {
                self.dead_since.get_or_insert_with(Instant::now);
                Offer::NotNow
            }
            // librdkafka refused this very record, so nobody else is involved.
            Err(NotTaken::Refused(refusal)) => {
                let topic = Arc::clone(&row.topic);
                self.count_refusal(&topic, &refusal);
                match refusal.failure {
                    Failure::Topic(_) => self.put_off_sick(at, index, refusal),
                    failure => self.put_off_unfit(at, index, failure, refusal.text),
                }
                Offer::Done
            }
        }
    }

    /// The main producer has one row more.
    pub(super) fn is_with_main(&mut self) {
        if self.outstanding == 0 {
            self.circuit.moves(Instant::now());
        }
        self.outstanding += 1;
    }
}
