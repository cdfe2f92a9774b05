//! The sender's other half: what reports say, and the end of a main producer.

use std::rc::Rc;

use outbox_relay::store::settle::{PARKED, Reason};
use outbox_relay::verdict::{Failure, History, Route, Verdict, decide};

use super::record::taken_for_success;
use super::{ENDLESS, Gate, LAST_REPORTS, Sending};
use crate::bugs::Bug;
use crate::kafka::PARTITIONS;
use crate::kafka::producer::Producer;
use crate::relay::Site;
use crate::relay::batch::Fate;

impl Sending {
    pub(super) fn take_reports(&mut self, site: &mut Site) {
        while let Some((tag, result)) = self.main.reports.pop_front() {
            self.awaits_report = false;
            self.outstanding -= 1;
            let mut gates = self.topics.values_mut().flat_map(|topic| &mut topic.gates);
            if let Some(gate) = gates.find(|gate| **gate == Gate::First(tag)) {
                *gate = if result.is_ok() { Gate::Open } else { Gate::Closed };
            }
            if site.plan.has(Bug::MarksBeforeConfirm) {
                continue;
            }
            let at = self.batch_at(tag.no);
            match result {
                Err(failure) if !taken_for_success(failure, site.plan) => {
                    self.window[at].set(tag.index, Fate::Returned);
                    self.returned.push((tag.no, tag.index, failure));
                }
                _ => self.window[at].set(tag.index, Fate::Published),
            }
        }
        self.take_due_reports(site);
    }

    pub(super) fn judge_returned(&mut self, site: &mut Site) {
        let innocent = |(_, _, failure): &(u64, usize, Failure)| {
            decide(*failure, Route::Main, History::default(), ENDLESS) == Verdict::SendAgain
        };
        let failed = self.main.dead || self.returned.iter().any(innocent);
        if failed && (!self.returned.is_empty() || self.main.dead) {
            self.dead_since.get_or_insert(site.now);
        }
        if self.give_up_main {
            return self.replace_main(site);
        }
        if let Some(since) = self.dead_since {
            if self.outstanding > 0 && site.now < since + 2 * LAST_REPORTS {
                if site.now >= since + LAST_REPORTS {
                    self.main.purge();
                }
                return;
            }
            return self.replace_main(site);
        }
        if !self.returned.is_empty() {
            let mut returned = std::mem::take(&mut self.returned);
            returned.sort_unstable_by_key(|(no, index, _)| (*no, *index));
            for (no, index, failure) in returned {
                self.judge(no, index, failure, site);
            }
        }
        self.main.tripped = false;
    }

    /// Decides a returned row; `true` if it goes out again.
    fn judge(&mut self, no: u64, index: usize, failure: Failure, site: &mut Site) -> bool {
        let at = self.batch_at(no);
        let row = Rc::clone(&self.window[at].rows[index]);
        if taken_for_success(failure, site.plan) {
            self.window[at].set(index, Fate::Published);
            return false;
        }
        if self.keys.blocks(&row.topic, row.key.as_deref()) {
            self.put_off(at, index, Reason::Behind, None, false, site.plan);
            return false;
        }
        let verdict = decide(failure, Route::Main, History::default(), ENDLESS);
        if verdict == Verdict::SendAgain && self.topic(&row.topic).sick {
            self.put_off(at, index, Reason::Retry, Some(PARKED), false, site.plan);
            return false;
        }
        match verdict {
            Verdict::SendAgain => return true,
            Verdict::Suspect => self.put_off(at, index, Reason::Retry, Some(0), false, site.plan),
            _ => {
                self.sicken(&row.topic);
                self.put_off(at, index, Reason::Retry, Some(PARKED), false, site.plan);
            }
        }
        false
    }

    /// The main producer is given up: judge what it left, send the innocents again, in order, through another one.
    fn replace_main(&mut self, site: &mut Site) {
        let mut returned = std::mem::take(&mut self.returned);
        for batch in &mut self.window {
            for (index, fate) in batch.fates.iter_mut().enumerate() {
                if matches!(fate, Fate::InFlight) {
                    *fate = Fate::Returned;
                    returned.push((batch.no, index, Failure::Unknown));
                }
            }
        }
        returned.sort_unstable_by_key(|(no, index, _)| (*no, *index));
        let mut again: Vec<(u64, usize)> = self.again.drain(..).collect();
        for (no, index, failure) in returned {
            if self.judge(no, index, failure, site) {
                let at = self.batch_at(no);
                self.window[at].set(index, Fate::Waiting);
                again.push((no, index));
            }
        }
        again.sort_unstable();
        site.trace.say(site.now, "send", || format!("replaces producer {}", self.main.number));
        self.again = again.into();
        (self.outstanding, self.dead_since, self.give_up_main) = (0, None, false);
        self.awaits_report = false;
        self.replaced += 1;
        self.main = Producer::main(site.kafka);
        self.topics.values_mut().for_each(|topic| topic.gates = [Gate::Closed; PARTITIONS as usize]);
    }
}
