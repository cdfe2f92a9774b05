//! The sender's way out: which batches are decided and leave, in the order of their stream, and what their settlement frees.

use super::{DueBatch, Sender};
use crate::crash_point;
use crate::relay::lanes::State;
use crate::relay::{Decided, Settled};

impl Sender<'_> {
    /// What a settlement frees: room in the window, and keys whose last waiting row is through.
    pub(super) fn leave(&mut self, settled: Settled) {
        self.rows -= settled.rows;
        self.bytes -= settled.bytes;
        for (topic, key) in &settled.departed {
            self.keys.leave(topic, key.as_deref());
            while crash_point::bug("unblocks_early") && self.keys.blocks(topic, key.as_deref()) {
                self.keys.leave(topic, key.as_deref());
            }
            let topic = self.topics.get(topic);
            topic.waiting = topic.waiting.saturating_sub(1);
        }
        self.once.take_settled(settled.once);
        if settled.gone > 0 {
            let waiting = settled.departed.len() as u64;
            let scheduled = settled.gone as u64 - waiting;
            self.deferred.send_modify(|rows| {
                rows.waiting = rows.waiting.saturating_sub(waiting);
                rows.scheduled = rows.scheduled.saturating_sub(scheduled);
            });
        }
    }

    /// The next batch whose rows are all decided. The batches of main leave in the order in which they were read, and so do
    /// those of each lane; they do not wait for each other.
    pub(super) fn decided_at(&self) -> Option<usize> {
        if self.window.front()?.open == 0 {
            return Some(0);
        }
        if self.lanes.is_empty() {
            return None;
        }
        // The first one is main's.
        let mut held = vec![false; self.lanes.len() + 1];
        self.window.iter().position(|batch| {
            let stream = batch.lane.map_or(0, |lane| lane + 1);
            let goes = batch.open == 0 && !held[stream];
            held[stream] = true;
            // Main's next page has the topic again: it may not be settled before what the lane had.
            let closing =
                |lane: usize| self.lanes[lane].as_ref().is_some_and(|lane| lane.state == State::Closing);
            if batch.lane.is_some_and(closing) {
                held[0] = true;
            }
            goes
        })
    }

    pub(super) fn due_is_through(&self) -> bool {
        self.due.as_ref().is_some_and(DueBatch::is_through)
    }

    /// The next decided batch.
    pub(super) fn take_decided(&mut self) -> Decided {
        let decided = self.next_decided();
        if !decided.once.is_empty() {
            self.once.settles();
        }
        decided
    }

    pub(super) fn next_decided(&mut self) -> Decided {
        if let Some(extra) = self.extra.pop_front() {
            return extra;
        }
        if let Some(due) = self.due.take_if(|due| due.is_through()) {
            self.topics.count_due(&due);
            self.trace_due(&due);
            return due.decided();
        }
        let at = self.decided_at().expect("only called when a batch is decided");
        let batch = self.window.remove(at).expect("it was found above");
        self.term.metrics.publish_seconds.observe(batch.begun.elapsed().as_secs_f64());
        self.term.metrics.batch_messages.observe(batch.rows.len() as f64);
        self.topics.count_batch(&batch);
        self.trace_page(&batch);
        self.take_lane_step(batch)
    }
}
