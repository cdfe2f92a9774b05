//! The sender's second route: due rows, each alone, one in flight per key. What only waited behind such a row goes on together
//! once that is through (`behind`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::put_off::{EXPIRED, limits, standing};
use super::{Offer, Sender, now_us};
use crate::kafka::{NotTaken, Refusal};
use crate::message::{Fitness, judge};
use crate::metrics::KafkaErrorClass;
use crate::policy::{Delivery, OnExpiry};
use crate::receipt::Receipt;
use crate::relay::TermEnd;
use crate::relay::batch::{Fate, Tag};
use crate::relay::remarks::Remark;
use crate::relay::requests::Way;
use crate::relay::topics::{Alone, Standing};
use crate::store::settle::{Attempt, Deferral, PARKED, Reason};
use crate::verdict::{self, Failure, History, Reason as DeathReason, Route, TopicTrouble, Verdict, decide};

/// What a dead letter says that an operator has skipped.
const SKIPPED: &str = "skipped by an operator";

/// Due rows offered between two looks at the reports.
const SLICE: usize = 200;

impl Sender<'_> {
    /// A row may be offered, as far as is known.
    pub(super) fn due_may_go(&self) -> bool {
        !self.due_waits && self.due.as_ref().is_some_and(|due| !due.ready.is_empty())
    }

    /// Offers the next row of every chain that may go on.
    pub(super) fn hand_over_due(&mut self) -> Result<(), TermEnd> {
        // A long chain may not use up drain_timeout; what has not gone stays deferred as it is.
        if let Some(due) = self.due.as_mut().filter(|_| self.term.drain.is_cancelled()) {
            due.ready.clear();
        }
        // Chains whose topic has used up its rate, one after another.
        let mut turned_away = 0;
        for _ in 0..SLICE {
            if !self.due_may_go() {
                return Ok(());
            }
            let due = self.due.as_mut().expect("only a batch has ready chains");
            let chain = *due.ready.last().expect("a chain is ready");
            let Some(&index) = due.chains[chain].last() else {
                due.ready.pop();
                continue;
            };
            let row = &due.rows[index].row;
            let now_us = now_us() + self.clock_us;
            let topic = Arc::clone(&row.topic);
            if let Some(way) = self.heads.get(&row.id).copied()
                && (way == Way::Bury || !due.rows[index].passable)
            {
                self.get_out_of_the_way(index, way);
                continue;
            }
            let known = self.topics.get(&topic);
            if row.expires_us.is_some_and(|at| at <= now_us) {
                let id = row.id;
                due.chains[chain].pop();
                due.fates[index] = match known.policy.on_expiry {
                    OnExpiry::Drop => Fate::Expired,
                    OnExpiry::DeadLetter => {
                        let attempts = due.rows[index].attempts;
                        let death = self.death(id, &topic, DeathReason::Expired, EXPIRED, attempts);
                        let due = self.due.as_mut().expect("it was there above");
                        due.fates[index] = Fate::Dead(Box::new(death));
                        continue;
                    }
                };
                continue;
            }
            if known.paused || known.is_dying {
                let cause = if known.paused { "paused" } else { "dying" };
                self.due_failed(index, standing(cause), false);
                continue;
            }
            if known.policy.delivery == Delivery::AtMostOnce && matches!(known.standing, Standing::Ready(_)) {
                // Settled before it is handed over, like those of its lane.
                due.fates[index] = Fate::Dropped;
                due.chains[chain].pop();
                continue;
            }
            if !self.rates.take(&topic, known.policy.rate) {
                due.ready.rotate_right(1);
                turned_away += 1;
                if turned_away >= due.ready.len() {
                    self.due_waits = true;
                    return Ok(());
                }
                continue;
            }
            let facts = match self.topics.alone(&topic, self.publisher.compresses()) {
                Alone::Go(facts) => facts,
                Alone::Wait => {
                    self.due_waits = true;
                    return Ok(());
                }
                Alone::No(refusal) => {
                    self.due_failed(index, refusal, false);
                    continue;
                }
            };
            let due = self.due.as_mut().expect("only a batch has ready chains");
            let row = &due.rows[index].row;
            if let Fitness::Unfit(failure, text) = judge(row, &facts) {
                // The topic's settings may have been changed for this very row.
                if self.topics.ask(&topic) {
                    self.due_waits = true;
                    return Ok(());
                }
                self.due_failed(index, Refusal { failure, class: failure.class(), text }, true);
                continue;
            }
            if self.may_go_together(index, &facts) {
                match self.hand_over_together(index, &facts, now_us) {
                    Offer::Done => continue,
                    Offer::NotNow => {
                        self.due_waits = true;
                        return Ok(());
                    }
                }
            }
            let due = self.due.as_mut().expect("only a batch has ready chains");
            if due.flying[chain] > 0 {
                // Its turn comes with the last confirm of those before it.
                due.ready.pop();
                continue;
            }
            let row = &due.rows[index].row;
            let opaque = Tag { route: Route::Alone, no: due.no, index }.encode();
            match self.publisher.hand_over(Route::Alone, row, &self.term.stamp, now_us, opaque) {
                Ok(()) => {
                    due.fates[index] = Fate::InFlight;
                    due.in_flight += 1;
                    due.ready.pop();
                    self.topics.went_alone(&topic);
                }
                Err(NotTaken::Full) => {
                    self.due_waits = true;
                    return Ok(());
                }
                Err(NotTaken::Dead) => {
                    self.revive_second()?;
                    let text = "the producer ended".to_owned();
                    self.due_failed(
                        index,
                        Refusal { failure: Failure::NotWritten, class: "fatal", text },
                        false,
                    );
                }
                Err(NotTaken::Refused(refusal)) => self.due_refused(index, refusal),
            }
        }
        Ok(())
    }

    /// Replaces the second producer if it is dead. Its last reports will not be listened to: what was in flight may
    /// have been written, and is put off.
    pub(super) fn revive_second(&mut self) -> Result<(), TermEnd> {
        if !self.publisher.revive_second()? {
            return Ok(());
        }
        self.term.metrics.kafka_error(KafkaErrorClass::Fatal);
        self.forget_copies();
        let Some(due) = self.due.as_mut() else { return Ok(()) };
        let lost = due.fates.iter().enumerate();
        let lost = lost.filter(|(index, fate)| matches!(fate, Fate::InFlight) && !due.together[*index]);
        let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
        due.in_flight -= lost.len();
        tracing::warn!(put_off = lost.len(), "second kafka producer replaced, what it had is put off");
        for index in lost {
            let text = "no report before the producer ended".to_owned();
            self.due_failed(index, Refusal { failure: Failure::Unknown, class: "fatal", text }, true);
        }
        Ok(())
    }

    /// Takes the report of a row that went alone.
    pub(super) fn take_due_report(&mut self, tag: Tag, result: Result<Receipt, Box<Refusal>>, now_us: i64) {
        let Some(due) = self.due.as_mut().filter(|due| due.no == tag.no) else { return };
        due.in_flight -= 1;
        self.due_waits = false;
        match result {
            Ok(receipt) => {
                let row = &due.rows[tag.index].row;
                self.topics.came_back(&row.topic, true);
                self.topics.get(&row.topic).count_late_delivery(&due.rows[tag.index], now_us);
                due.fates[tag.index] = Fate::Published(receipt);
                let chain = due.chain_of[tag.index];
                due.chains[chain].pop();
                due.ready.push(chain);
            }
            Err(refusal) => self.due_refused(tag.index, *refusal),
        }
    }

    /// Kafka or librdkafka did not take a row that went alone, which also tells something about its topic.
    pub(super) fn due_refused(&mut self, index: usize, refusal: Refusal) {
        let Some(due) = &self.due else { return };
        let topic = Arc::clone(&due.rows[index].row.topic);
        self.count_refusal(&topic, &refusal);
        match refusal.failure {
            Failure::Topic(_) => self.sicken(&topic, &refusal),
            Failure::Refused | Failure::TooLarge => {
                self.topics.came_back(&topic, true);
                // It was judged fit, so the topic's settings are not what they were.
                self.topics.doubt(&topic);
            }
            Failure::NotWritten | Failure::Unknown => self.topics.came_back(&topic, false),
        }
        self.due_failed(index, refusal, true);
    }

    /// An operator has had enough of this row. What waits behind it stays where it is until that is written: sent now, it would be
    /// out of order if we ended before.
    fn get_out_of_the_way(&mut self, index: usize, way: Way) {
        let Some(due) = self.due.as_mut() else { return };
        let mut rest = due.end_chain(due.chain_of[index]);
        rest.retain(|other| *other != index);
        self.put_behind(rest);
        let Some(due) = self.due.as_mut() else { return };
        let head = &due.rows[index];
        let (id, topic, key) = (head.row.id, Arc::clone(&head.row.topic), head.row.key.clone());
        let (attempts, tries) = (head.attempts, head.tries);
        tracing::info!(id, topic = &*topic, ?way, "row gets out of the way of its key, as an operator asked");
        let fate = match way {
            Way::Bury => {
                Fate::Dead(Box::new(self.death(id, &topic, DeathReason::Skipped, SKIPPED, attempts)))
            }
            Way::Pass => {
                self.keys.leave(&topic, key.as_deref());
                Fate::PutOff(Box::new(Deferral {
                    reason: Reason::Retry,
                    delay_ms: Some(super::millis(self.backoff(&topic, tries.max(1) as u32))),
                    attempts,
                    tries,
                    class: Some("released"),
                    error: Some("its key was released by an operator".to_owned()),
                    passable: true,
                    ..Deferral::behind(id)
                }))
            }
        };
        let due = self.due.as_mut().expect("it was there above");
        due.fates[index] = fate;
    }

    /// A due row failed, if it was `tried` by an attempt: it is put off again or dies, and what waits behind it stays where it is.
    fn due_failed(&mut self, index: usize, refusal: Refusal, tried: bool) {
        let Some(due) = self.due.as_mut() else { return };
        let mut rest = due.end_chain(due.chain_of[index]);
        rest.retain(|other| *other != index);
        self.put_behind(rest);
        let Some(due) = self.due.as_mut() else { return };
        let failed = &due.rows[index];
        let (id, topic, key) = (failed.row.id, Arc::clone(&failed.row.topic), failed.row.key.clone());
        let (was_scheduled, was_passable) = (failed.reason == Reason::Scheduled, failed.passable);
        let (before, tries) = (failed.attempts, failed.tries);
        let known = self.topics.get(&topic);
        let passable = !known.blocks() || self.heads.get(&id) == Some(&Way::Pass);
        let limits = limits(known);
        let since_us = failed.first_rejected_us.map_or(0, |at| now_us() + self.clock_us - at);
        let history =
            History { attempts: before.max(0) as u32, age: Duration::from_micros(since_us.max(0) as u64) };
        let mut verdict = decide(refusal.failure, Route::Alone, history, limits);
        if matches!(verdict, Verdict::Dead(_)) && !self.may_die(&topic) {
            verdict = Verdict::Park(TopicTrouble::Stalled);
        }
        // An outage costs latency: it does not make a row wait longer the next time. Nor does a topic that stands.
        let spent = matches!(verdict, Verdict::PutOff { spent: true } | Verdict::Dead(_));
        let attempts = before.saturating_add(i32::from(spent));
        let tries = tries.saturating_add(i32::from(spent));
        let error = verdict::scrub(&refusal.text);
        let due = self.due.as_mut().expect("it was there above");
        if tried {
            due.attempts.push(Attempt { id, class: refusal.class, error: error.clone() });
        }
        if let Verdict::Dead(reason) = verdict {
            let death = self.death(id, &topic, reason, &refusal.text, attempts);
            let due = self.due.as_mut().expect("it was there above");
            due.fates[index] = Fate::Dead(Box::new(death));
            return;
        }
        let delay_ms = match verdict {
            Verdict::Park(_) => PARKED,
            _ => super::millis(self.backoff(&topic, tries.max(1) as u32)),
        };
        let due = self.due.as_mut().expect("it was there above");
        due.fates[index] = Fate::PutOff(Box::new(Deferral {
            reason: Reason::Retry,
            delay_ms: Some(delay_ms),
            attempts,
            tries,
            class: Some(refusal.class),
            error: Some(error),
            passable,
            ..Deferral::behind(id)
        }));
        if delay_ms != PARKED
            && let Some(alike) = self.remarks.make(&topic, Remark::FailedAgain, Instant::now())
        {
            tracing::warn!(
                id,
                topic = &*topic,
                tries,
                class = refusal.class,
                reason = refusal.text,
                delay_ms,
                alike,
                "deferred row failed again"
            );
        }
        // The policy was changed while it waited: its key is let go now, or held. Rows behind it count for themselves.
        if !was_scheduled && passable != was_passable {
            if passable {
                self.keys.leave(&topic, key.as_deref());
            } else {
                self.keys.wait(&topic, key.as_deref(), 1);
            }
        }
        // A scheduled row blocked nobody so far; from now on its key waits for it.
        if was_scheduled {
            self.topics.get(&topic).waiting += 1;
            if !passable {
                self.keys.wait(&topic, key.as_deref(), 1);
            }
            self.deferred.send_modify(|rows| {
                rows.scheduled = rows.scheduled.saturating_sub(1);
                rows.waiting += 1;
            });
        }
    }
}
