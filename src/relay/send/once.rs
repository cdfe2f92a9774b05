//! The sender's third route: topics that are declared at-most-once.
//!
//! A row is settled as dropped before it is handed to Kafka, and tried once, through a producer of its own. Whatever happens
//! then, it is never sent again: a crash, a takeover and an error all lose it. When the tries of a batch are over one more
//! settlement names the confirmed rows as published, which wins, and the others as dropped once more: by that the next leader
//! knows which losses were counted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Sender, now_us};
use crate::kafka::{NotTaken, Refusal};
use crate::message::OutboxRow;
use crate::metrics::{AttemptResult, KafkaErrorClass, Outcome};
use crate::receipt::Receipt;
use crate::relay::Decided;
use crate::relay::batch::Tag;
use crate::relay::remarks::Remark;
use crate::verdict::Route;

/// Longer than the producer's own time-out: whatever has not been reported by then is lost.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Rows on the third route.
#[derive(Default)]
pub(super) struct Once {
    /// Batches whose settlement is on its way.
    settling: usize,
    /// Settled and not handed over.
    ready: VecDeque<Tries>,
    /// Handed over, at least in part.
    out: HashMap<u64, Tries>,
    rows: usize,
    next_no: u64,
}

/// A batch of rows that are tried once.
struct Tries {
    rows: Vec<OutboxRow>,
    offered: usize,
    /// Handed over and not reported.
    open: usize,
    confirmed: Vec<(i64, Receipt)>,
    /// Rows whose fate is known.
    known: Vec<bool>,
    since: Instant,
}

impl Once {
    pub fn is_empty(&self) -> bool {
        self.settling == 0 && self.ready.is_empty() && self.out.is_empty()
    }

    /// A settlement that names rows of this kind is on its way.
    pub fn settles(&mut self) {
        self.settling += 1;
    }

    /// A settlement has been written that names these rows.
    pub fn take_settled(&mut self, settled: Vec<Vec<OutboxRow>>) {
        for rows in settled {
            self.settling -= 1;
            self.rows += rows.len();
            let known = vec![false; rows.len()];
            let since = Instant::now();
            self.ready.push_back(Tries { rows, offered: 0, open: 0, confirmed: Vec::new(), known, since });
        }
    }
}

impl Sender<'_> {
    /// What the lease before this one had on its way is lost; by naming it again nobody counts it twice.
    pub(super) fn count_lost(&mut self, lost: &[(String, i64)]) {
        if lost.is_empty() {
            return;
        }
        tracing::warn!(
            lost = lost.len(),
            "rows of at-most-once topics were on their way when the last leader ended"
        );
        let mut decided = Decided::default();
        for (topic, id) in lost {
            let topic: Arc<str> = topic.as_str().into();
            self.topics.get(&topic).metrics.messages(Outcome::Dropped, 1);
            decided.outcome.dropped.push(*id);
        }
        self.extra.push_back(decided);
    }

    /// A quarter of the window may be on the third route.
    pub(super) fn once_has_room(&self) -> bool {
        self.once.rows < (self.term.config.window_rows / 4).max(1) && self.has_room()
    }

    /// Hands over what has been settled. What the producer does not take is lost.
    pub(super) fn hand_over_once(&mut self) {
        while let Some(mut tries) = self.once.ready.pop_front() {
            self.once.next_no += 1;
            let no = self.once.next_no;
            let now_us = now_us() + self.clock_us;
            while tries.offered < tries.rows.len() {
                let index = tries.offered;
                let opaque = Tag { route: Route::Once, no, index }.encode();
                let row = &tries.rows[index];
                if row.is_oversize() {
                    // It came without its payload, and must not go without it.
                    let (id, topic) = (row.id, Arc::clone(&row.topic));
                    tries.known[index] = true;
                    tries.offered += 1;
                    self.topics.get(&topic).metrics.attempts(AttemptResult::Rejected, 1);
                    if let Some(alike) = self.remarks.make(&topic, Remark::OnceOversize, Instant::now()) {
                        tracing::warn!(
                            id,
                            topic = &*topic,
                            alike,
                            "row of an at-most-once topic is above relay.max_row_bytes"
                        );
                    }
                    continue;
                }
                match self.publisher.hand_over(Route::Once, row, &self.term.stamp, now_us, opaque) {
                    Ok(()) => tries.open += 1,
                    Err(error) => {
                        tries.known[index] = true;
                        let topic = Arc::clone(&tries.rows[index].topic);
                        self.topics.get(&topic).metrics.attempts(AttemptResult::Rejected, 1);
                        if let NotTaken::Refused(refusal) = error {
                            self.hear_of(&topic, &refusal);
                        }
                    }
                }
                tries.offered += 1;
            }
            tries.since = Instant::now();
            self.once.out.insert(no, tries);
            self.end_if_through(no);
        }
    }

    /// Takes the report of a row that was tried once.
    pub(super) fn take_once_report(&mut self, tag: Tag, result: Result<Receipt, Box<Refusal>>, now_us: i64) {
        let Some(tries) = self.once.out.get_mut(&tag.no) else { return };
        if std::mem::replace(&mut tries.known[tag.index], true) {
            return;
        }
        tries.open -= 1;
        let row = &tries.rows[tag.index];
        match result {
            Ok(receipt) => {
                tries.confirmed.push((row.id, receipt));
                self.topics.came_back(&row.topic, true);
                self.topics.get(&row.topic).count_delivery(row, now_us);
            }
            Err(refusal) => {
                let topic = Arc::clone(&row.topic);
                self.count_refusal(&topic, &refusal);
                self.hear_of(&topic, &refusal);
            }
        }
        self.end_if_through(tag.no);
    }

    /// Ten times a second: a producer that died, and tries without a report.
    pub(super) fn look_after_once(&mut self) {
        let died = self.publisher.revive_third();
        if died {
            self.term.metrics.kafka_error(KafkaErrorClass::Fatal);
        }
        let patience = self.term.stall_after + GIVE_UP;
        let over: Vec<u64> = self
            .once
            .out
            .iter()
            .filter(|(_, tries)| died || tries.since.elapsed() >= patience)
            .map(|(no, _)| *no)
            .collect();
        for no in over {
            if let Some(tries) = self.once.out.get_mut(&no) {
                tries.open = 0;
            }
            self.end_if_through(no);
        }
    }

    /// A failed try says something about its topic, and nothing about the row: that is lost either way.
    fn hear_of(&mut self, topic: &Arc<str>, refusal: &Refusal) {
        match refusal.failure {
            crate::verdict::Failure::Topic(_) => self.sicken(topic, refusal),
            _ => self.topics.came_back(topic, false),
        }
    }

    /// When nothing of the batch is out any more, the ledger learns what became of it.
    fn end_if_through(&mut self, no: u64) {
        if self.once.out.get(&no).is_none_or(|tries| tries.open > 0) {
            return;
        }
        let Some(tries) = self.once.out.remove(&no) else { return };
        self.once.rows -= tries.rows.len();
        let mut decided = Decided::default();
        for row in &tries.rows {
            let metrics = &self.topics.get(&row.topic).metrics;
            if tries.confirmed.iter().any(|(id, _)| *id == row.id) {
                metrics.messages(Outcome::Delivered, 1);
                metrics.attempts(AttemptResult::Ack, 1);
            } else {
                metrics.messages(Outcome::Dropped, 1);
                decided.outcome.dropped.push(row.id);
            }
        }
        let lost = decided.outcome.dropped.len();
        if lost > 0
            && let Some(row) = tries.rows.first()
            && let Some(alike) = self.remarks.make(&row.topic, Remark::OnceLost, Instant::now())
        {
            let (of, topic) = (tries.rows.len(), &*row.topic);
            tracing::warn!(lost, of, topic, alike, "rows of an at-most-once topic are lost");
        }
        self.trace_once(tries.since, &tries.rows, &tries.confirmed);
        decided.outcome.published = tries.confirmed;
        self.extra.push_back(decided);
    }
}
