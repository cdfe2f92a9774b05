//! The sender's rows that do not go now, or never: why, for how long, and what that means for their keys and topics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Sender, millis};
use crate::kafka::Refusal;
use crate::metrics::{AttemptResult, KafkaErrorClass};
use crate::relay::batch::Fate;
use crate::relay::remarks::Remark;
use crate::relay::topics::{Standing, Topic};
use crate::store::settle::{Attempt, Death, Deferral, PARKED, Reason};
use crate::verdict::{self, Failure, History, Limits, TopicTrouble, Verdict};

impl Sender<'_> {
    /// The row waits, and so does its key unless it is merely scheduled or the policy lets later rows pass.
    pub(super) fn put_off(
        &mut self,
        at: usize,
        index: usize,
        reason: Reason,
        delay_ms: Option<i64>,
        refusal: Option<Refusal>,
        spent: bool,
    ) {
        let batch = &mut self.window[at];
        let row = &batch.rows[index];
        let topic = self.topics.get(&row.topic);
        let passable = reason == Reason::Retry && !topic.blocks();
        if reason != Reason::Scheduled {
            topic.waiting += 1;
            if !passable {
                self.keys.wait(&row.topic, row.key.as_deref(), 1);
            }
        }
        let deferral = Deferral {
            reason,
            delay_ms,
            attempts: i32::from(spent),
            tries: i32::from(refusal.as_ref().is_some_and(|r| r.class != SUSPECT)),
            class: refusal.as_ref().map(|r| r.class),
            error: refusal.map(|r| verdict::scrub(&r.text)),
            passable,
            ..Deferral::behind(row.id)
        };
        batch.set(index, Fate::PutOff(Box::new(deferral)));
        self.deferred.send_modify(|rows| match reason {
            Reason::Scheduled => rows.scheduled += 1,
            Reason::Retry | Reason::Behind => rows.waiting += 1,
        });
    }

    /// The row waits until its topic works again. No attempt is spent, and no time is set.
    pub(super) fn park(&mut self, at: usize, index: usize, refusal: Refusal) {
        self.put_off(at, index, Reason::Retry, Some(PARKED), Some(refusal), false);
    }

    /// The row itself is at fault, for certain: it is tried again later, or it is dead.
    pub(super) fn put_off_unfit(&mut self, at: usize, index: usize, failure: Failure, text: String) {
        let row = &self.window[at].rows[index];
        let (id, topic, has_key) = (row.id, Arc::clone(&row.topic), row.key.is_some());
        let refusal = Refusal { failure, class: failure.class(), text };
        let known = self.topics.get(&topic);
        let has_order = has_key && known.blocks();
        let verdict = verdict::own_fault(failure, History::default(), limits(known));
        if has_order && matches!(verdict, Verdict::Dead(_)) {
            // Were it dead now, later rows of its key would go before that is written: should we end between the two, and the next
            // leader find the row fit, the key would be out of order. So it holds its key, and dies where all deferred rows do.
            self.put_off(at, index, Reason::Retry, Some(0), Some(suspect()), false);
            return;
        }
        self.note_attempt(at, id, &refusal);
        match verdict {
            Verdict::Dead(reason) if self.may_die(&topic) => {
                let death = self.death(id, &topic, reason, &refusal.text, 1);
                self.window[at].set(index, Fate::Dead(Box::new(death)));
            }
            // Too many have died: it is looked at again when its topic is.
            Verdict::Dead(_) => self.put_off(at, index, Reason::Retry, Some(PARKED), Some(refusal), true),
            _ => {
                if let Some(alike) = self.remarks.make(&topic, Remark::Refused, Instant::now()) {
                    let reason = &refusal.text;
                    tracing::error!(
                        id,
                        topic = &*topic,
                        reason,
                        alike,
                        "outbox row is refused, it is tried again"
                    );
                }
                let delay = self.backoff(&topic, 1);
                self.put_off(at, index, Reason::Retry, Some(millis(delay)), Some(refusal), true);
            }
        }
    }

    /// The row's topic cannot be published to.
    pub(super) fn put_off_sick(&mut self, at: usize, index: usize, refusal: Refusal) {
        let row = &self.window[at].rows[index];
        let (id, topic) = (row.id, Arc::clone(&row.topic));
        self.note_attempt(at, id, &refusal);
        self.sicken(&topic, &refusal);
        self.park(at, index, refusal);
    }

    /// Its time is over, and the policy keeps such rows.
    pub(super) fn bury_expired(&mut self, at: usize, index: usize) {
        let row = &self.window[at].rows[index];
        let (id, topic) = (row.id, Arc::clone(&row.topic));
        let death = self.death(id, &topic, verdict::Reason::Expired, EXPIRED, 0);
        self.window[at].set(index, Fate::Dead(Box::new(death)));
    }

    /// The dead letter that a row becomes, said once for many.
    pub(super) fn death(
        &mut self,
        id: i64,
        name: &Arc<str>,
        reason: verdict::Reason,
        text: &str,
        attempts: i32,
    ) -> Death {
        if let Some(alike) = self.remarks.make(name, Remark::Dead, Instant::now()) {
            tracing::error!(
                id,
                topic = &**name,
                reason = reason.as_str(),
                error = text,
                attempts,
                alike,
                "outbox row is a dead letter, somebody has to decide about it"
            );
        }
        Death {
            id,
            class: reason.as_str(),
            fingerprint: verdict::fingerprint(reason, text),
            error: verdict::scrub(text),
            attempts,
            // Not onto the very topic that would not take it.
            copy: self.topics.get(name).policy.dead_letter_topic.clone().filter(|copy| copy != name),
        }
    }

    /// Whether another row of the topic may die in this minute. If not the topic stands, and that is said.
    pub(super) fn may_die(&mut self, name: &Arc<str>) -> bool {
        let now = Instant::now();
        let topic = self.topics.get(name);
        if now.duration_since(topic.dying_since) >= Duration::from_secs(60) {
            (topic.dying_since, topic.deaths) = (now, 0);
        }
        if topic.deaths < topic.policy.dead_per_minute {
            topic.deaths += 1;
            return true;
        }
        if !std::mem::replace(&mut topic.is_dying, true) {
            let dead_per_minute = topic.policy.dead_per_minute;
            tracing::error!(
                topic = &**name,
                dead_per_minute,
                "rows of this topic die too fast, it stands still for the rest of the minute"
            );
        }
        false
    }

    fn note_attempt(&mut self, at: usize, id: i64, refusal: &Refusal) {
        let error = verdict::scrub(&refusal.text);
        self.window[at].attempts.push(Attempt { id, class: refusal.class, error });
    }

    pub(super) fn sicken(&mut self, topic: &Arc<str>, refusal: &Refusal) {
        if self.topics.sicken(topic, refusal.clone()) {
            say_sick(topic, refusal);
        }
        self.lane_for_sick(topic);
    }

    pub(super) fn count_refusal(&mut self, topic: &Arc<str>, refusal: &Refusal) {
        self.term.metrics.kafka_error(KafkaErrorClass::named(refusal.class));
        let result = match refusal.failure {
            Failure::Unknown => AttemptResult::Unknown,
            _ if refusal.class == "throttled" => AttemptResult::Throttled,
            _ => AttemptResult::Rejected,
        };
        self.topics.get(topic).metrics.attempts(result, 1);
    }

    pub(super) fn backoff(&mut self, topic: &Arc<str>, tries: u32) -> Duration {
        self.topics.get(topic).policy.backoff.delay(tries, rand::random())
    }
}

/// Why a row is dead whose time was over.
pub(super) const EXPIRED: &str = "its expires_at had passed before it could be sent";

/// The class of a row that is put off only to go alone.
const SUSPECT: &str = "suspect";

pub(super) fn suspect() -> Refusal {
    Refusal {
        failure: Failure::Refused,
        class: SUSPECT,
        text: "goes alone, because it may be refused".to_owned(),
    }
}

/// Why a row waits whose topic has a lane that stands.
pub(super) fn standing(cause: &str) -> Refusal {
    Refusal {
        failure: Failure::Topic(TopicTrouble::Stalled),
        class: "standing",
        text: format!("its topic stands still: {cause}"),
    }
}

/// No row of the topic goes: it is sick, paused, or its rows die too fast.
pub(super) fn stands(topic: &Topic) -> bool {
    topic.paused || topic.is_dying || matches!(topic.standing, Standing::Sick { .. })
}

/// What the topic's policy allows a row of it.
pub(super) fn limits(topic: &Topic) -> Limits {
    Limits { attempts: topic.policy.attempts, age: topic.policy.age }
}

pub(super) fn say_sick(topic: &str, refusal: &Refusal) {
    tracing::error!(topic, reason = refusal.text, "topic cannot be published to, its rows wait for it");
}
