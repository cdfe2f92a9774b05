//! Kafka: the only place that names rdkafka.
//!
//! Owns producers, the broker's error codes and the facts about topics. Knows nothing of Postgres, and decides
//! nothing about a row's future: it says what happened ([`Report`], [`Refusal`]), `verdict` says what follows.

mod auditor;
mod callbacks;
mod classify;
mod configuration;
mod consumer;
pub mod examine;
mod mock;
mod own_topic;
mod producer;
mod publisher;
mod readback;
mod settings;
mod status;
mod topics;
mod vitals;

pub use auditor::{Auditor, Found, Marks, Stretch};
pub use configuration::TopicConfiguration;
pub use consumer::{Consumer, Record};
pub use mock::MockKafka;
pub use own_topic::OwnTopic;
pub use producer::{Inbox, Producer};
pub use publisher::{Publisher, Stamp};
pub use readback::{At, ReadBack, Reader};
pub use settings::KafkaSettings;
pub use topics::{TopicSettings, TopicState, Topics};
pub use vitals::Pulse;

use crate::receipt::Receipt;
use crate::verdict::Failure;

/// A delivery report: what became of one record that was handed over.
#[derive(Debug)]
pub struct Report {
    /// The number given at the hand-over.
    pub opaque: usize,
    /// Which producer it came from.
    pub generation: u32,
    /// Where the record is, or why it is not.
    pub result: Result<Receipt, Box<Refusal>>,
}

/// What the main producer knows of the brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// At least one broker is connected.
    pub connected: bool,
    /// All of them are out of reach.
    pub all_down: bool,
    /// A quota holds us back.
    pub throttled: bool,
    /// A broker refuses our login.
    pub refused_login: bool,
}

/// A record that was not confirmed.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What it means.
    pub failure: Failure,
    /// The label of `outbox_kafka_errors_total`.
    pub class: &'static str,
    /// The broker's or librdkafka's words.
    pub text: String,
}

/// Why a record was not taken at the hand-over itself.
#[derive(Debug)]
pub enum NotTaken {
    /// librdkafka's queue is full; the window should have prevented it. Try again after the next report.
    Full,
    /// This producer is dead and has to be replaced.
    Dead,
    /// It will not take this record.
    Refused(Refusal),
}

/// The version of librdkafka.
pub fn client_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// Kafka cannot be used or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {text}")]
pub struct KafkaError {
    /// Verb and object.
    pub what: &'static str,
    /// librdkafka's words.
    pub text: String,
    /// The label of `outbox_kafka_errors_total`.
    pub class: &'static str,
}
