//! Due rows that only waited behind another one of their key: they are nobody's suspects, so they go on together, through the main
//! producer. One by one they would leave more slowly than a busy service writes, and its keys would never be free again.
//!
//! What keeps the order: a row behind goes only when all before it are confirmed or in front of it in the same producer, which
//! ends when one of them fails. After a failure the rest of the key stays deferred as it is; its first row is due again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::put_off::suspect;
use super::{Offer, Sender};
use crate::kafka::{NotTaken, Refusal};
use crate::message::{Fitness, TopicFacts, judge};
use crate::metrics::RedeliveryCause;
use crate::receipt::Receipt;
use crate::relay::batch::{Fate, Tag};
use crate::store::settle::{Deferral, Reason};
use crate::verdict::{Failure, Route};

impl Sender<'_> {
    /// Whether a due row has never failed, and nothing speaks against it in company.
    pub(super) fn may_go_together(&mut self, index: usize, facts: &TopicFacts) -> bool {
        let Some(due) = &self.due else { return false };
        let row = &due.rows[index];
        let main = TopicFacts { batch_size: self.publisher.batch_size(), ..*facts };
        row.reason == Reason::Behind
            && row.tries == 0
            && self.topics.bears_company(&row.row.topic)
            && judge(&row.row, &main) == Fitness::Fit
    }

    /// Offers the next row of a chain to the main producer. The chain stays ready: the row after it may follow at once.
    pub(super) fn hand_over_together(&mut self, index: usize, facts: &TopicFacts, now_us: i64) -> Offer {
        if !self.gate_is_open() || !self.again.is_empty() {
            return Offer::NotNow;
        }
        let Some(due) = self.due.as_mut() else { return Offer::NotNow };
        let row = &due.rows[index].row;
        let gates = &mut self.topics.get(&row.topic).gates;
        let partition = gates.gate_of(row, facts.partitions);
        if partition.is_some_and(|partition| gates.holds(partition)) {
            return Offer::NotNow;
        }
        let tag = Tag { route: Route::Main, no: due.no, index };
        match self.publisher.hand_over(Route::Main, row, &self.term.stamp, now_us, tag.encode()) {
            Ok(()) => {}
            Err(NotTaken::Full) => return Offer::NotNow,
            Err(NotTaken::Dead) => {
                self.dead_since.get_or_insert_with(Instant::now);
                return Offer::NotNow;
            }
            Err(NotTaken::Refused(refusal)) => {
                self.due_refused(index, refusal);
                return Offer::Done;
            }
        }
        if let Some(partition) = partition {
            gates.handed_over(partition, tag);
        }
        let chain = due.chain_of[index];
        due.fates[index] = Fate::InFlight;
        due.together[index] = true;
        due.in_flight += 1;
        due.flying[chain] += 1;
        due.offered_at = Instant::now();
        due.chains[chain].pop();
        self.is_with_main();
        Offer::Done
    }

    /// Whether a report of the main producer is about a due row.
    pub(super) fn is_together(&self, tag: Tag) -> bool {
        self.due.as_ref().is_some_and(|due| due.no == tag.no)
    }

    /// Takes the report of a due row that went with others. Returns whether it was confirmed.
    pub(super) fn take_together_report(
        &mut self,
        tag: Tag,
        result: Result<Receipt, Box<Refusal>>,
        now: Instant,
        now_us: i64,
    ) -> bool {
        let Some(due) = self.due.as_mut() else { return false };
        let chain = due.chain_of[tag.index];
        let topic = Arc::clone(&due.rows[tag.index].row.topic);
        due.in_flight -= 1;
        due.flying[chain] -= 1;
        let refusal = match result {
            Ok(receipt) => {
                let known = self.topics.get(&topic);
                known.count_late_delivery(&due.rows[tag.index], now_us);
                known.gates.confirmed(receipt.partition, tag, now);
                due.fates[tag.index] = Fate::Published(receipt);
                if due.flying[chain] == 0 && !due.chains[chain].is_empty() && !due.ready.contains(&chain) {
                    due.ready.push(chain);
                }
                return true;
            }
            Err(refusal) => refusal,
        };
        self.topics.get(&topic).gates.failed(tag);
        // As it was: it is sent again when it is due.
        due.fates[tag.index] = Fate::Waiting;
        let is_first = !due.has_failed[chain];
        due.has_failed[chain] = true;
        let rest = due.end_chain(chain);
        self.put_behind(rest);
        self.together_returned = true;
        match refusal.failure {
            Failure::NotWritten => self.together_innocent = true,
            Failure::Unknown => {
                self.together_innocent = true;
                self.topics.get(&topic).metrics.redeliveries(RedeliveryCause::ProducerReplaced, 1);
            }
            Failure::Refused | Failure::TooLarge => {
                self.count_refusal(&topic, &refusal);
                self.topics.refused_company(&topic);
                if is_first {
                    self.suspect_due(tag.index);
                }
            }
            Failure::Topic(_) => {
                self.count_refusal(&topic, &refusal);
                self.sicken(&topic, &refusal);
            }
        }
        false
    }

    /// It goes alone from now on, without a wait.
    fn suspect_due(&mut self, index: usize) {
        let Some(due) = self.due.as_mut() else { return };
        let (id, attempts) = (due.rows[index].row.id, due.rows[index].attempts);
        let passable = due.rows[index].passable;
        let refusal = suspect();
        due.fates[index] = Fate::PutOff(Box::new(Deferral {
            reason: Reason::Retry,
            delay_ms: Some(0),
            attempts,
            class: Some(refusal.class),
            error: Some(refusal.text),
            passable,
            ..Deferral::behind(id)
        }));
    }

    /// The main producer is given up: what it had of due rows may have been written, and stays deferred.
    pub(super) fn forget_together(&mut self) {
        (self.together_returned, self.together_innocent) = (false, false);
        let Some(due) = self.due.as_mut() else { return };
        let lost: Vec<usize> = due.together_in_flight().collect();
        due.in_flight -= lost.len();
        let mut late = Vec::new();
        for index in lost {
            let chain = due.chain_of[index];
            due.fates[index] = Fate::Waiting;
            due.flying[chain] = 0;
            late.extend(due.end_chain(chain));
            let topic = &due.rows[index].row.topic;
            self.topics.get(topic).metrics.redeliveries(RedeliveryCause::ProducerReplaced, 1);
        }
        self.put_behind(late);
    }

    /// Topics of due rows that are with the main producer.
    pub(super) fn topics_together(&self) -> BTreeSet<Arc<str>> {
        let Some(due) = &self.due else { return BTreeSet::new() };
        due.together_in_flight().map(|index| Arc::clone(&due.rows[index].row.topic)).collect()
    }

    /// Topics of due rows that have been with the main producer for so long.
    pub(super) fn topics_together_for(&self, long: Duration, now: Instant) -> BTreeSet<Arc<str>> {
        let is_old = self.due.as_ref().is_some_and(|due| now.duration_since(due.offered_at) >= long);
        if is_old { self.topics_together() } else { BTreeSet::new() }
    }
}
