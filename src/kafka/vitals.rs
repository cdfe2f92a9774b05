//! What librdkafka's statistics say about its health, over all producers of a relay: brokers, round trips, queue, repetitions.
//!
//! A selection, never per partition. It only remembers; who exports it and what follows from it is not known here.

use std::collections::BTreeMap;

/// Where the connection to a broker stands. In ascending order: of several producers the best one speaks for a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BrokerState {
    /// Nothing has to be sent to it, so there is no connection.
    Idle,
    /// A connection is wanted and there is none.
    Down,
    /// Connected.
    Up,
}

impl BrokerState {
    /// librdkafka's word, read.
    pub(super) fn of(word: &str) -> BrokerState {
        match word {
            "UP" | "UPDATE" => BrokerState::Up,
            "INIT" => BrokerState::Idle,
            _ => BrokerState::Down,
        }
    }
}

/// One producer as of its last statistics. Counts grow from its start on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Vital {
    pub brokers: BTreeMap<i64, BrokerState>,
    /// Of the broker with the slowest answers, in microseconds.
    pub round_trip_p95_us: i64,
    /// Share of its queue that is used.
    pub queue_fill: f64,
    pub retries: u64,
    pub timeouts: u64,
}

/// All producers that live, and what those that are gone have counted.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    living: BTreeMap<u32, Vital>,
    retries: u64,
    timeouts: u64,
}

/// All of it in one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pulse {
    /// Connected brokers.
    pub up: usize,
    /// Brokers that are needed and not connected.
    pub down: usize,
    /// Brokers that nothing has to be sent to.
    pub idle: usize,
    /// 95 of 100 requests to the slowest broker were answered within so many seconds; 0 if none was.
    pub round_trip_p95: f64,
    /// Share of the fullest producer's queue that is used.
    pub queue_fill: f64,
    /// Requests sent again, since the start.
    pub retries: u64,
    /// Requests that were not answered in time, since the start.
    pub timeouts: u64,
}

impl Vitals {
    /// The statistics of a producer.
    pub fn take(&mut self, generation: u32, vital: Vital) {
        self.living.insert(generation, vital);
    }

    /// This producer is gone; what it counted stays.
    pub fn forget(&mut self, generation: u32) {
        if let Some(gone) = self.living.remove(&generation) {
            self.retries += gone.retries;
            self.timeouts += gone.timeouts;
        }
    }

    pub fn pulse(&self) -> Pulse {
        let mut brokers: BTreeMap<i64, BrokerState> = BTreeMap::new();
        let mut pulse = Pulse { retries: self.retries, timeouts: self.timeouts, ..Pulse::default() };
        for vital in self.living.values() {
            for (&broker, &state) in &vital.brokers {
                let best = brokers.entry(broker).or_insert(state);
                *best = state.max(*best);
            }
            pulse.round_trip_p95 = pulse.round_trip_p95.max(vital.round_trip_p95_us as f64 / 1e6);
            pulse.queue_fill = pulse.queue_fill.max(vital.queue_fill);
            pulse.retries += vital.retries;
            pulse.timeouts += vital.timeouts;
        }
        for state in brokers.values() {
            match state {
                BrokerState::Up => pulse.up += 1,
                BrokerState::Down => pulse.down += 1,
                BrokerState::Idle => pulse.idle += 1,
            }
        }
        pulse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital(brokers: &[(i64, &str)], retries: u64) -> Vital {
        let brokers = brokers.iter().map(|(id, word)| (*id, BrokerState::of(word))).collect();
        Vital { brokers, round_trip_p95_us: 1500, queue_fill: 0.25, retries, timeouts: 1 }
    }

    #[test]
    fn the_best_connection_speaks_for_a_broker() {
        let mut vitals = Vitals::default();
        assert_eq!(vitals.pulse(), Pulse::default());
        vitals.take(1, vital(&[(1, "UP"), (2, "TRY_CONNECT"), (3, "INIT")], 4));
        vitals.take(2, vital(&[(1, "DOWN"), (2, "DOWN"), (3, "INIT")], 1));
        let pulse = vitals.pulse();
        assert_eq!((pulse.up, pulse.down, pulse.idle), (1, 1, 1));
        assert_eq!((pulse.round_trip_p95, pulse.queue_fill), (0.0015, 0.25));
    }

    #[test]
    fn counts_never_go_back_when_a_producer_ends() {
        let mut vitals = Vitals::default();
        vitals.take(1, vital(&[], 4));
        vitals.take(1, vital(&[], 6));
        vitals.take(2, vital(&[], 1));
        assert_eq!(vitals.pulse().retries, 7);
        vitals.forget(1);
        vitals.forget(1);
        assert_eq!((vitals.pulse().retries, vitals.pulse().timeouts), (7, 2));
    }
}
