//! Policies of topics (temporary, replaced by the branch that reads them from the configuration).

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    Block,
    Skip,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    AtLeastOnce,
    AtMostOnce,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExpiry {
    Drop,
    DeadLetter,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub on_failure: OnFailure,
    pub delivery: Delivery,
    pub on_expiry: OnExpiry,
    pub attempts: u32,
    pub age: Duration,
    pub backoff: Backoff,
    pub rate: Option<u32>,
    pub dead_per_minute: u32,
    pub dead_letter_topic: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Policies {
    default: Policy,
}

impl Policies {
    pub fn temporary() -> Policies {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };
        Policies {
            default: Policy {
                on_failure: OnFailure::Block,
                delivery: Delivery::AtLeastOnce,
                on_expiry: OnExpiry::Drop,
                attempts: 10,
                age: Duration::from_secs(86400),
                backoff,
                rate: None,
                dead_per_minute: 100,
                dead_letter_topic: None,
            },
        }
    }

    pub fn of(&self, _topic: &str) -> Policy {
        self.default.clone()
    }
}
