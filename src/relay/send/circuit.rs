//! The sender's weather: an outage, or one topic that confirms nothing while others do.
//!
//! With endless message time-outs no report comes back in an outage, so it is judged by progress. While the circuit is open
//! nothing more is handed over: librdkafka holds the window, tries again at its own pace, and the first confirm closes the
//! circuit. No row is charged for an outage.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Sender;
use crate::kafka::{Refusal, Weather};
use crate::relay::batch::Fate;
use crate::verdict::{Failure, TopicTrouble};

/// All brokers may be out of reach for so long before it is called an outage: clients reconnect all the time.
const BRIEF: Duration = Duration::from_secs(1);

/// Whether Kafka makes progress. `now` comes in.
#[derive(Debug)]
pub(super) struct Circuit {
    stall_after: Duration,
    open_since: Option<Instant>,
    /// When main was last confirmed something, or began to have something in flight.
    progress: Instant,
    down_since: Option<Instant>,
}

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened(&'static str),
    /// After so long.
    Closed(Duration),
}

impl Circuit {
    pub fn new(stall_after: Duration) -> Circuit {
        Circuit { stall_after, open_since: None, progress: Instant::now(), down_since: None }
    }

    /// Nothing more is to be handed over.
    pub fn is_open(&self) -> bool {
        self.open_since.is_some()
    }

    /// Something was confirmed; or nothing was in flight, and now something is.
    pub fn moves(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Something was confirmed within the time that a stall takes to be one.
    pub fn makes_progress(&self, now: Instant) -> bool {
        now.duration_since(self.progress) < self.stall_after
    }

    /// Judges anew.
    pub fn judge(&mut self, weather: Weather, in_flight: usize, now: Instant) -> Option<Change> {
        self.down_since = weather.all_down.then(|| self.down_since.unwrap_or(now));
        let down = self.down_since.is_some_and(|since| now.duration_since(since) >= BRIEF);
        let stalled = in_flight > 0 && !self.makes_progress(now);
        match self.open_since {
            None if stalled || (down && in_flight > 0) => {
                let because = match weather {
                    Weather { refused_login: true, .. } => "authentication",
                    Weather { throttled: true, .. } => "throttled",
                    _ if down || !weather.connected => "unreachable",
                    _ => "stalled",
                };
                self.open_since = Some(now);
                Some(Change::Opened(because))
            }
            // The held window is the probe; without one, a connection has to do.
            Some(since) if self.progress > since || (in_flight == 0 && weather.connected && !down) => {
                self.open_since = None;
                self.progress = now;
                Some(Change::Closed(now.duration_since(since)))
            }
            _ => None,
        }
    }
}

impl Sender<'_> {
    /// Ten times a second: is this an outage, or does one topic stall?
    pub(super) fn judge_progress(&mut self) {
        let now = Instant::now();
        let weather = self.publisher.weather();
        let silent = now.duration_since(self.circuit.progress);
        self.topics.nothing_goes = self.outstanding > 0 && silent >= self.term.stall_after / 2;
        if weather.throttled {
            // Whatever waits, waits for the quota: no topic stalls by itself.
            self.nothing_is_late(now);
        } else if self.topics.nothing_goes && weather.connected {
            self.suspect_topics(silent);
        }
        if self.give_up_main {
            return;
        }
        match self.circuit.judge(weather, self.outstanding, now) {
            Some(Change::Opened(because)) => tracing::warn!(
                because,
                in_flight = self.outstanding,
                "kafka makes no progress, the circuit is open: nothing more is handed over and no row is charged"
            ),
            Some(Change::Closed(after)) => {
                // What waited through the outage has not stalled by itself.
                self.nothing_is_late(now);
                let after = humantime::format_duration(Duration::from_secs(after.as_secs()));
                tracing::info!(%after, "kafka makes progress again, the circuit is closed");
            }
            None => {}
        }
        self.due_waits |= self.circuit.is_open();
        if !self.circuit.is_open() && self.dead_since.is_none() && self.circuit.makes_progress(now) {
            self.cut_loose_stalled(now);
        }
    }

    /// Nothing is confirmed although brokers are there: it may be the fault of the topics that have something in flight.
    /// Metadata knows of a partition without leader; and if only one of several topics has rows in flight, that one stalls.
    fn suspect_topics(&mut self, silent: Duration) {
        let in_flight = self.topics_in_flight();
        for topic in &in_flight {
            self.topics.ask(topic);
        }
        // Brokers that do not even tell their metadata have an outage.
        let since = self.circuit.progress;
        let answers = in_flight.iter().all(|topic| self.topics.answered_since(topic, since));
        if silent >= self.term.stall_after && answers && in_flight.len() == 1 && self.topics.are_several() {
            self.cut_loose(&in_flight);
        }
    }

    fn topics_in_flight(&self) -> BTreeSet<Arc<str>> {
        let rows = self.window.iter().flat_map(|batch| batch.rows.iter().zip(&batch.fates));
        let in_flight = rows.filter(|(_, fate)| matches!(fate, Fate::InFlight));
        let in_flight: BTreeSet<Arc<str>> = in_flight.map(|(row, _)| Arc::clone(&row.topic)).collect();
        &in_flight | &self.topics_together()
    }

    /// What has been on its way for long has not stalled by itself.
    pub(super) fn nothing_is_late(&mut self, now: Instant) {
        self.window.iter_mut().for_each(|batch| batch.offered_at = now);
        self.due.iter_mut().for_each(|due| due.offered_at = now);
    }

    /// Whether rows of this topic are with the main producer.
    pub(super) fn has_in_flight(&self, topic: &Arc<str>) -> bool {
        let mut rows = self.window.iter().flat_map(|batch| batch.rows.iter().zip(&batch.fates));
        rows.any(|(row, fate)| row.topic == *topic && matches!(fate, Fate::InFlight))
            || self.topics_together().contains(topic)
    }

    /// Topics whose rows have been in flight for longer than a stall takes, while others are confirmed: they get lanes, and
    /// the spare takes the others' rows, in order.
    fn cut_loose_stalled(&mut self, now: Instant) {
        let oldest = self.window.iter().find(|batch| batch.open > 0);
        let stalled = oldest.filter(|batch| now.duration_since(batch.offered_at) >= self.term.stall_after);
        let stalled = stalled.iter().flat_map(|batch| batch.rows.iter().zip(&batch.fates));
        let stalled = stalled.filter(|(_, fate)| matches!(fate, Fate::InFlight));
        let stalled: BTreeSet<Arc<str>> = stalled.map(|(row, _)| Arc::clone(&row.topic)).collect();
        self.cut_loose(&(&stalled | &self.topics_together_for(self.term.stall_after, now)));
    }

    fn cut_loose(&mut self, stalled: &BTreeSet<Arc<str>>) {
        for topic in stalled {
            let refusal = Refusal {
                failure: Failure::Topic(TopicTrouble::Stalled),
                class: "topic",
                text: "the topic confirms nothing while other topics do".to_owned(),
            };
            self.sicken(topic, &refusal);
        }
        self.give_up_main |= !stalled.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Weather =
        Weather { connected: true, all_down: false, throttled: false, refused_login: false };
    const STALL: Duration = Duration::from_secs(10);

    fn circuit() -> (Circuit, Instant) {
        let circuit = Circuit::new(STALL);
        let start = circuit.progress;
        (circuit, start)
    }

    #[test]
    fn a_circuit_opens_without_progress_and_closes_with_the_first_confirm() {
        let (mut circuit, start) = circuit();
        assert_eq!(circuit.judge(FINE, 5, start + STALL - Duration::from_millis(1)), None);
        assert_eq!(circuit.judge(FINE, 0, start + STALL), None, "nothing is in flight");
        assert_eq!(circuit.judge(FINE, 5, start + STALL), Some(Change::Opened("stalled")));
        assert_eq!(circuit.judge(FINE, 5, start + 2 * STALL), None);
        circuit.moves(start + 3 * STALL);
        assert_eq!(circuit.judge(FINE, 5, start + 3 * STALL), Some(Change::Closed(2 * STALL)));
    }

    #[test]
    fn an_outage_has_a_reason() {
        for (weather, because) in [
            (Weather { throttled: true, ..FINE }, "throttled"),
            (Weather { connected: false, ..FINE }, "unreachable"),
            (Weather { connected: false, refused_login: true, ..FINE }, "authentication"),
        ] {
            let (mut circuit, start) = circuit();
            assert_eq!(circuit.judge(weather, 1, start + STALL), Some(Change::Opened(because)));
        }
    }

    #[test]
    fn brokers_that_are_all_down_are_an_outage_at_once() {
        let (mut circuit, start) = circuit();
        let down = Weather { connected: false, all_down: true, ..FINE };
        assert_eq!(circuit.judge(down, 1, start), None);
        assert_eq!(circuit.judge(down, 1, start + BRIEF), Some(Change::Opened("unreachable")));
        assert_eq!(circuit.judge(FINE, 1, start + 2 * BRIEF), None, "the held rows are the probe");
        assert_eq!(circuit.judge(FINE, 0, start + 2 * BRIEF), Some(Change::Closed(BRIEF)));
    }
}
