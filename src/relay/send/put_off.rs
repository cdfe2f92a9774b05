//! The sender's rows that do not go now: why, for how long, and what that means for their keys and topics.

use std::sync::Arc;
use std::time::Instant;

use super::{Sender, millis};
use crate::kafka::Refusal;
use crate::metrics::{AttemptResult, KafkaErrorClass};
use crate::relay::batch::Fate;
use crate::relay::remarks::Remark;
use crate::store::settle::{Deferral, Reason};
use crate::verdict::Failure;

impl Sender<'_> {
    /// The row waits, and so does its key unless it is merely scheduled.
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
        if reason != Reason::Scheduled {
            self.keys.wait(&row.topic, row.key.as_deref(), 1);
        }
        let deferral = Deferral {
            id: row.id,
            reason,
            delay_ms,
            attempts: i32::from(spent),
            tries: i32::from(refusal.as_ref().is_some_and(|r| r.class != SUSPECT)),
            class: refusal.as_ref().map(|r| r.class),
            error: refusal.map(|r| r.text),
            passable: false,
        };
        batch.set(index, Fate::PutOff(Box::new(deferral)));
        self.deferred.send_modify(|rows| match reason {
            Reason::Scheduled => rows.scheduled += 1,
            Reason::Retry | Reason::Behind => rows.waiting += 1,
        });
    }

    /// The row itself is at fault, for certain.
    pub(super) fn put_off_unfit(&mut self, at: usize, index: usize, text: String) {
        let row = &self.window[at].rows[index];
        if let Some(alike) = self.remarks.make(&row.topic, Remark::Refused, Instant::now()) {
            tracing::error!(
                id = row.id,
                topic = &*row.topic,
                reason = text,
                alike,
                "outbox row is refused, it is tried again"
            );
        }
        let delay = self.term.backoff().delay(1, rand::random());
        let refusal = Refusal { failure: Failure::Refused, class: Failure::Refused.class(), text };
        self.put_off(at, index, Reason::Retry, Some(millis(delay)), Some(refusal), true);
    }

    /// The row's topic is missing or forbidden.
    pub(super) fn put_off_sick(&mut self, at: usize, index: usize, refusal: Refusal) {
        let topic = Arc::clone(&self.window[at].rows[index].topic);
        self.sicken(&topic, &refusal);
        let delay = self.term.backoff().delay(1, rand::random());
        self.put_off(at, index, Reason::Retry, Some(millis(delay)), Some(refusal), false);
    }

    pub(super) fn sicken(&mut self, topic: &Arc<str>, refusal: &Refusal) {
        if self.topics.sicken(topic, refusal.clone()) {
            say_sick(topic, refusal);
        }
    }

    pub(super) fn count_refusal(&mut self, topic: &Arc<str>, refusal: &Refusal) {
        self.term.metrics.kafka_error(KafkaErrorClass::named(refusal.class));
        let result = match refusal.failure {
            Failure::Unknown => AttemptResult::Unknown,
            _ => AttemptResult::Rejected,
        };
        self.topics.get(topic).metrics.attempts(result, 1);
    }
}

/// The class of a row that is put off only to go alone.
const SUSPECT: &str = "suspect";

pub(super) fn suspect() -> Refusal {
    Refusal {
        failure: Failure::Refused,
        class: SUSPECT,
        text: "goes alone, because it may be refused".to_owned(),
    }
}

pub(super) fn say_sick(topic: &str, refusal: &Refusal) {
    tracing::error!(topic, reason = refusal.text, "topic cannot be published to, its rows are put off");
}
