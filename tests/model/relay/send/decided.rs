//! The sender's way out: which batches leave, in the order of their stream, and what their settlement frees.

use std::sync::Arc;

use super::Sending;
use crate::bugs::{Ms, Plan};
use crate::relay::batch::Decided;
use crate::relay::settle::Freed;

impl Sending {
    /// What a settlement frees: room, and keys whose last waiting row is through.
    pub(super) fn leave(&mut self, freed: Freed) {
        self.rows -= freed.rows;
        freed.blocked.iter().for_each(|(topic, key)| self.keys.wait(topic, key.as_deref(), 1));
        for (topic, key) in &freed.departed {
            self.keys.leave(topic, key.as_deref());
        }
        self.deferred = self.deferred.saturating_sub(freed.gone as u64);
    }

    pub(super) fn take_decided(&mut self, plan: &Plan, now: Ms) -> Option<Decided> {
        if let Some(extra) = self.extra.pop_front() {
            return Some(extra);
        }
        let decided = if let Some(due) = self.due.take_if(|due| due.is_through()) {
            due.decided()
        } else {
            let at = self.decided_at()?;
            let mut batch = self.window.remove(at)?;
            let steps = self.take_lane_step(&mut batch, now);
            let of_lane = batch.lane.is_some();
            let mut decided = batch.decided(plan);
            decided.outcome.rare.lanes = steps;
            // Its position is its lane's, not main's.
            decided.position = decided.position.filter(|_| !of_lane);
            decided
        };
        decided.parked.iter().for_each(|name| self.topic(name).parked += 1);
        Some(decided)
    }

    /// The next decided batch. Those of main leave in the order in which they were read, and so do those of each lane.
    fn decided_at(&self) -> Option<usize> {
        let mut held: Vec<Option<&Arc<str>>> = Vec::new();
        self.window.iter().position(|batch| {
            // A lane is closed when its last batch has left.
            let ends = batch
                .closed
                .as_ref()
                .is_none_or(|lane| self.window.iter().all(|other| other.lane.as_ref() != Some(lane)));
            let goes = batch.open == 0 && ends && !held.contains(&batch.lane.as_ref());
            held.push(batch.lane.as_ref());
            goes
        })
    }
}
