//! The sender's other half: what reports say, and the end of a main producer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::put_off::suspect;
use super::{Sender, now_us};
use crate::crash_point;
use crate::kafka::Refusal;
use crate::metrics::{KafkaErrorClass, RedeliveryCause};
use crate::receipt::Receipt;
use crate::relay::TermEnd;
use crate::relay::batch::{Fate, Tag};
use crate::relay::remarks::Remark;
use crate::relay::topics::Standing;
use crate::store::settle::Reason;
use crate::verdict::{Failure, History, Limits, Route, Verdict, decide};

/// A row that failed in company is charged with nothing, so its policy's limits do not matter.
const ENDLESS: Limits = Limits { attempts: u32::MAX, age: Duration::MAX };

/// How long a dead producer's last reports are waited for before it is purged, and then again before it is given up.
const LAST_REPORTS: Duration = Duration::from_secs(3);

/// The longest pause between two replacements.
const PAUSE: Duration = Duration::from_secs(5);

/// How often a main producer is replaced: at once, unless the last ones died young. `now` comes in.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
    pause: Duration,
}

impl Pace {
    /// Whether it may be replaced now; if so, the next one has to live for a while.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let is_young = self.next.is_some_and(|next| now.duration_since(next) < 2 * PAUSE);
        self.pause = if is_young { (2 * self.pause).min(PAUSE) } else { Duration::from_millis(50) };
        self.next = Some(now + self.pause);
        true
    }
}

/// Nobody says that the record was refused: no answer came, or it was purged.
fn is_timeout(failure: Failure) -> bool {
    matches!(failure, Failure::Unknown | Failure::NotWritten)
}

/// A row that came back, and why.
pub(super) struct Returned {
    pub no: u64,
    pub index: usize,
    pub refusal: Box<Refusal>,
}

impl Sender<'_> {
    /// Takes in what has been reported. Confirms decide their rows; failures are collected for judgement.
    pub(super) fn take_reports(&mut self) {
        let mut reports = std::mem::take(&mut self.reports);
        self.publisher.inbox().take(&mut reports);
        let now_us = now_us() + self.clock_us;
        let mut confirmed = false;
        if !reports.is_empty() {
            (self.awaits_report, self.due_waits) = (false, false);
        }
        let now = Instant::now();
        for report in reports.drain(..) {
            // A producer that was given up: its rows have been judged without it.
            if !self.publisher.is_current(&report) {
                continue;
            }
            let tag = Tag::decode(report.opaque);
            match tag.route {
                // Marked long ago.
                Route::Main if crash_point::bug("marks_before_confirm") && !self.is_together(tag) => continue,
                Route::Main => {}
                Route::Alone => {
                    self.take_due_report(tag, report.result, now_us);
                    continue;
                }
                Route::Copy => {
                    self.take_copy_report(tag, report.result);
                    continue;
                }
                Route::Once => {
                    self.take_once_report(tag, report.result, now_us);
                    continue;
                }
            }
            self.outstanding -= 1;
            if self.is_together(tag) {
                confirmed |= self.take_together_report(tag, report.result, now, now_us);
                continue;
            }
            let at = self.batch_at(tag.no);
            let batch = &mut self.window[at];
            match report.result {
                Ok(receipt) => {
                    confirmed = true;
                    let row = &batch.rows[tag.index];
                    let topic = self.topics.get(&row.topic);
                    topic.count_delivery(row, now_us);
                    topic.gates.confirmed(receipt.partition, tag, now);
                    batch.set(tag.index, Fate::Published(receipt));
                }
                Err(refusal) => {
                    self.topics.get(&batch.rows[tag.index].topic).gates.failed(tag);
                    batch.set(tag.index, Fate::Returned);
                    self.returned.push(Returned { no: tag.no, index: tag.index, refusal });
                }
            }
        }
        if confirmed {
            self.circuit.moves(now);
            self.term.metrics.last_delivery_timestamp.set(now_us as f64 / 1e6);
        }
        self.reports = reports;
    }

    /// Judges what came back. While the main producer lives, single topics' failures; once it is dead and its last
    /// report is in, everything, in the order in which the rows were handed over.
    pub(super) fn judge_returned(&mut self) -> Result<(), TermEnd> {
        let is_innocent = |r: &Returned| {
            decide(r.refusal.failure, Route::Main, History::default(), ENDLESS) == Verdict::SendAgain
        };
        let some_returned = !self.returned.is_empty() || self.together_returned;
        let innocents = self.together_innocent || self.returned.iter().any(is_innocent);
        if some_returned && (self.publisher.is_dead() || innocents) {
            self.dead_since.get_or_insert_with(Instant::now);
        }
        if self.give_up_main {
            return self.replace_main();
        }
        if let Some(since) = self.dead_since {
            if self.outstanding > 0 && since.elapsed() < 2 * LAST_REPORTS {
                if since.elapsed() >= LAST_REPORTS {
                    self.publisher.purge_main();
                }
                return Ok(());
            }
            // Asked again with the next tick: a cluster that refuses every record must not cost a producer each time.
            return if self.pace.allows(Instant::now()) { self.replace_main() } else { Ok(()) };
        }
        if self.swap_wanted && self.outstanding == 0 {
            return self.replace_main();
        }
        if some_returned {
            self.together_returned = false;
            let mut returned = std::mem::take(&mut self.returned);
            returned.sort_unstable_by_key(|r| (r.no, r.index));
            for row in returned {
                self.judge(row);
            }
            self.publisher.reset();
        }
        Ok(())
    }

    /// Decides a returned row; `true` if it goes out again.
    fn judge(&mut self, Returned { no, index, refusal }: Returned) -> bool {
        let at = self.batch_at(no);
        let row = &self.window[at].rows[index];
        let (id, topic) = (row.id, Arc::clone(&row.topic));
        if is_timeout(refusal.failure) && crash_point::bug("takes_timeout_for_success") {
            self.window[at].set(index, Fate::Published(Receipt { partition: 0, offset: None }));
            return false;
        }
        let blocked = self.keys.blocks(&topic, row.key.as_deref());
        let verdict = decide(refusal.failure, Route::Main, History::default(), ENDLESS);
        if verdict != Verdict::SendAgain {
            self.count_refusal(&topic, &refusal);
        }
        if blocked {
            self.put_off(at, index, Reason::Behind, None, None, false);
            return false;
        }
        if verdict == Verdict::SendAgain
            && let Standing::Sick { refusal, .. } = &self.topics.get(&topic).standing
        {
            // Its topic was cut loose: it waits for it.
            let refusal = refusal.clone();
            self.park(at, index, refusal);
            return false;
        }
        match verdict {
            Verdict::SendAgain => return true,
            Verdict::Suspect => {
                if let Some(alike) = self.remarks.make(&topic, Remark::Suspect, Instant::now()) {
                    tracing::warn!(
                        id,
                        topic = &*topic,
                        reason = refusal.text,
                        alike,
                        "outbox row is suspect, it goes alone"
                    );
                }
                // A limit that was lowered behind our back would refuse batch after batch.
                self.topics.refused_company(&topic);
                self.put_off(at, index, Reason::Retry, Some(0), Some(suspect()), false);
            }
            _ => self.put_off_sick(at, index, *refusal),
        }
        false
    }

    /// Whole batches were too large for a topic whose limit we may not read: smaller ones are tried, and in the end
    /// its rows go alone. A row that was refused by itself says nothing about batches.
    fn find_out_limits(&mut self, returned: &[Returned]) -> Result<(), TermEnd> {
        let mut too_large: HashMap<Arc<str>, usize> = HashMap::new();
        for row in returned.iter().filter(|row| row.refusal.failure == Failure::TooLarge) {
            let topic = &self.window[self.batch_at(row.no)].rows[row.index].topic;
            *too_large.entry(Arc::clone(topic)).or_default() += 1;
        }
        too_large.retain(|topic, rows| *rows > 1 && self.topics.hides_its_limit(topic));
        if !too_large.is_empty() && !self.publisher.try_smaller_batches()? {
            for topic in too_large.into_keys() {
                tracing::warn!(topic = &*topic, "topic refuses the smallest batches, its rows go alone");
                self.topics.get(&topic).narrow = true;
            }
        }
        Ok(())
    }

    /// The main producer is dead (or has to give way): judge what it left, then send the innocents again, in order,
    /// through the spare. What never got a report may have been written: it goes again, and is counted.
    fn replace_main(&mut self) -> Result<(), TermEnd> {
        self.forget_together();
        let mut returned = std::mem::take(&mut self.returned);
        for batch in &mut self.window {
            for (index, fate) in batch.fates.iter_mut().enumerate() {
                if matches!(fate, Fate::InFlight) {
                    *fate = Fate::Returned;
                    let text = "no report before the producer was given up".to_owned();
                    let refusal = Refusal { failure: Failure::Unknown, class: "fatal", text };
                    returned.push(Returned { no: batch.no, index, refusal: Box::new(refusal) });
                }
            }
        }
        returned.sort_unstable_by_key(|r| (r.no, r.index));
        self.find_out_limits(&returned)?;
        let mut again: Vec<(u64, usize)> = self.again.drain(..).collect();
        let mut possibly_written = 0;
        for row in returned {
            let (no, index, failure) = (row.no, row.index, row.refusal.failure);
            if !self.judge(row) {
                continue;
            }
            let at = self.batch_at(no);
            if failure == Failure::Unknown {
                possibly_written += 1;
                let topic = &self.window[at].rows[index].topic;
                self.topics.get(topic).metrics.redeliveries(RedeliveryCause::ProducerReplaced, 1);
            }
            self.window[at].set(index, Fate::Waiting);
            self.window[at].resent.push(index);
            again.push((no, index));
        }
        again.sort_unstable();
        if self.dead_since.is_some() || self.give_up_main {
            tracing::warn!(
                again = again.len(),
                possibly_written,
                "kafka producer replaced, innocent rows go out again"
            );
        }
        self.again = again.into();
        self.outstanding = 0;
        self.dead_since = None;
        self.give_up_main = false;
        self.swap_wanted = false;
        let now = Instant::now();
        self.nothing_is_late(now);
        self.circuit.moves(now);
        self.term.metrics.producer_replaced.inc();
        self.awaits_report = false;
        if self.publisher.is_dead() {
            self.term.metrics.kafka_error(KafkaErrorClass::Fatal);
        }
        self.publisher.replace_main()?;
        self.topics.close_gates();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_that_die_young_are_replaced_ever_more_slowly() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert!(pace.allows(start));
        assert!(!pace.allows(after(49)));
        assert!(pace.allows(after(50)));
        assert!(!pace.allows(after(149)));
        assert!(pace.allows(after(150)));
        assert!(pace.allows(after(11_000)), "one that lived long is replaced at once");
        assert!(pace.allows(after(11_050)));
        let mut now = after(11_050);
        for _ in 0..20 {
            now += PAUSE;
            assert!(pace.allows(now), "never more slowly than every five seconds");
        }
    }
}
