//! Which partitions of a topic may be pipelined into.
//!
//! A broker that knows nothing of a producer in a partition takes any sequence number for its first. If the first batch
//! is refused there, the next one in flight is taken, and passes it: the gapless producer ends too late [seen in two of
//! four runs]. So the first keyed row of a partition goes alone, and the next one only after its confirm; that costs a
//! round trip for each partition and producer. Reads no clock: `now` comes in.

use std::time::{Duration, Instant};

use super::batch::Tag;
use crate::message::OutboxRow;
use crate::partition;

/// A partition that was silent for so long is treated as new: brokers forget idle producers, after a day by default.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// One gate for each partition of a topic, for the main producer as it is now.
#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: Vec<Gate>,
    /// How many are not open.
    closed: usize,
    /// How many of these have their first row on its way.
    firsts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// Nothing has been confirmed.
    Closed,
    /// This row is on its way, and nothing may follow it.
    First(Tag),
    /// The broker knows the producer, as of this confirm.
    Open(Instant),
}

impl Gates {
    /// The number of partitions became known. Those that there were keep their gates.
    pub fn resize(&mut self, partitions: i32) {
        self.gates.resize(partitions.max(0) as usize, Gate::Closed);
        self.count();
    }

    /// Every partition may be pipelined into; nobody needs to ask which one it is.
    fn are_open(&self) -> bool {
        self.closed == 0
    }

    /// Where a row has to go through a gate; `None`: all are open, or the row has no key and thus no order.
    pub fn gate_of(&self, row: &OutboxRow, partitions: i32) -> Option<i32> {
        let key = row.key.as_ref().filter(|_| !self.are_open())?;
        Some(row.partition.unwrap_or_else(|| partition::of_key(key, partitions)))
    }

    /// A first row is on its way to this partition.
    pub fn holds(&self, partition: i32) -> bool {
        matches!(self.gates.get(partition as usize), Some(Gate::First(_)))
    }

    /// A row was handed over to this partition.
    pub fn handed_over(&mut self, partition: i32, tag: Tag) {
        if let Some(gate @ Gate::Closed) = self.gates.get_mut(partition as usize) {
            *gate = Gate::First(tag);
            self.firsts += 1;
        }
    }

    /// A row was confirmed in this partition.
    pub fn confirmed(&mut self, partition: i32, tag: Tag, now: Instant) {
        if let Some(gate @ Gate::Open(_)) = self.gates.get_mut(partition as usize) {
            *gate = Gate::Open(now);
        }
        // By its number: librdkafka may know another number of partitions for a while, and have put it elsewhere.
        if let Some(gate) = self.first(tag) {
            *gate = Gate::Open(now);
            self.firsts -= 1;
            self.closed -= 1;
        }
    }

    /// A row was not confirmed.
    pub fn failed(&mut self, tag: Tag) {
        if let Some(gate) = self.first(tag) {
            *gate = Gate::Closed;
            self.firsts -= 1;
        }
    }

    /// Another producer, or the topic was refused: nothing is known any more.
    pub fn close(&mut self) {
        self.gates.fill(Gate::Closed);
        self.count();
    }

    /// Closes what has been silent for long.
    pub fn close_silent(&mut self, now: Instant) {
        for gate in &mut self.gates {
            if matches!(gate, Gate::Open(at) if now.duration_since(*at) >= FORGOTTEN_AFTER) {
                *gate = Gate::Closed;
            }
        }
        self.count();
    }

    /// The gate that waits for this row. Asked for every report, so usually answered without looking.
    fn first(&mut self, tag: Tag) -> Option<&mut Gate> {
        if self.firsts == 0 {
            return None;
        }
        self.gates.iter_mut().find(|gate| **gate == Gate::First(tag))
    }

    fn count(&mut self) {
        self.closed = self.gates.iter().filter(|gate| !matches!(gate, Gate::Open(_))).count();
        self.firsts = self.gates.iter().filter(|gate| matches!(gate, Gate::First(_))).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(index: usize) -> Tag {
        Tag { route: crate::verdict::Route::Main, no: 1, index }
    }

    #[test]
    fn a_partition_is_open_after_its_first_confirm() {
        let (mut gates, now) = (Gates::default(), Instant::now());
        assert!(gates.are_open());
        gates.resize(2);
        assert!(!gates.are_open() && !gates.holds(0));
        gates.handed_over(0, tag(1));
        assert!(gates.holds(0) && !gates.holds(1));
        gates.confirmed(0, tag(7), now);
        assert!(gates.holds(0), "a row without key does not open it");
        gates.handed_over(1, tag(2));
        gates.confirmed(0, tag(1), now);
        gates.confirmed(0, tag(2), now);
        assert!(gates.are_open(), "whichever partition it has really come to");
        gates.resize(3);
        assert!(!gates.are_open() && !gates.holds(2));
        gates.handed_over(2, tag(3));
        gates.failed(tag(3));
        assert!(!gates.holds(2));
        gates.handed_over(2, tag(4));
        gates.close();
        assert!(!gates.holds(2) && !gates.are_open());
    }

    #[test]
    fn a_silent_partition_is_new_again() {
        let (mut gates, now) = (Gates::default(), Instant::now());
        gates.resize(2);
        for partition in [0, 1] {
            gates.handed_over(partition, tag(partition as usize));
            gates.confirmed(partition, tag(partition as usize), now);
        }
        gates.confirmed(1, tag(9), now + FORGOTTEN_AFTER);
        gates.close_silent(now + FORGOTTEN_AFTER);
        assert!(!gates.are_open());
        gates.handed_over(1, tag(3));
        assert!(!gates.holds(1), "this one was not silent");
        gates.handed_over(0, tag(4));
        assert!(gates.holds(0));
    }
}
