//! From a row to a record, and the rules of the plan that the pure modules are asked with.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::backoff::Backoff;
use outbox_relay::message::{OutboxRow, TopicFacts};
use outbox_relay::store::settle::Death;
use outbox_relay::verdict::{self, Failure, Limits};

use crate::bugs::{Bug, Plan};
use crate::kafka::{Message, PARTITIONS, Record, Tag};
use crate::relay::{Lead, Site};

/// Waits between the tries of a row.
pub const BACKOFF: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_millis(400) };

/// Trust in the lease ends before anybody else can have it.
pub fn still_leads(lead: &Lead, site: &mut Site) {
    let epoch = site.postgres.visible.epoch;
    if epoch != lead.epoch {
        site.broken.push(format!("a relay hands over under epoch {} while it is {epoch}", lead.epoch));
    }
}

/// The record of a row.
pub fn message(row: &OutboxRow, tag: Tag, partition: i32, lead: &Lead) -> Message {
    let record = Record {
        event: row.event_id.as_u128(),
        id: row.id,
        topic: Arc::clone(&row.topic),
        key: row.key.clone(),
        epoch: lead.epoch,
    };
    Message { tag, record: Rc::new(record), partition }
}

/// What is known of every topic.
pub fn facts(plan: &Plan) -> TopicFacts {
    TopicFacts {
        partitions: PARTITIONS,
        max_message_bytes: Some(10_000),
        narrow: false,
        compacted: false,
        compressed: plan.compresses,
        batch_size: 5_000,
    }
}

pub fn limits(plan: &Plan) -> Limits {
    Limits { attempts: plan.attempts, age: Duration::from_secs(86_400) }
}

/// The dead letter that a row becomes.
pub fn death(id: i64, reason: verdict::Reason, attempts: i32) -> Death {
    Death {
        id,
        class: reason.as_str(),
        fingerprint: verdict::fingerprint(reason, ""),
        error: String::new(),
        attempts,
        copy: None,
    }
}

/// Of the seeded bugs: a failure that is not seen as one.
pub fn taken_for_success(failure: Failure, plan: &Plan) -> bool {
    match failure {
        Failure::Unknown => plan.has(Bug::TimeoutIsSuccess),
        Failure::Refused | Failure::TooLarge => plan.has(Bug::SwallowsError),
        _ => false,
    }
}
