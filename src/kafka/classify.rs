//! The broker's vocabulary in ours: from an error code, and what librdkafka knows of the record, to what it means for a
//! row. One table; `codes.golden.txt` shows it code by code.
//!
//! An unknown code is a refusal: the record goes alone next, and if it fails alone it is put off with backoff, as often as
//! its policy allows. It is never a success, and never repeated without a wait.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::status::Persistence;
use super::{NotTaken, Refusal};
use crate::verdict::{Failure, TopicTrouble};

/// Whose trouble a code tells of.
enum Blame {
    /// The record's, or that of another one in its batch: it is not taken.
    Record(Failure),
    /// The topic's: all its rows fare alike.
    Topic(TopicTrouble),
    /// Nobody's: brokers, the network, our own producer. Whether the record was written, librdkafka knows.
    Nobody,
    /// Nobody's, and what librdkafka thinks of the record is no proof that it was not written.
    NobodyKnows,
}

/// The table: whose trouble it is, and the label `class` of `outbox_kafka_errors_total`. Codes that no producer meets
/// (those of consumers, groups, transactions and administration) are in its last row.
fn meaning(code: Code) -> (Blame, &'static str) {
    use Blame::{Nobody, NobodyKnows, Record, Topic};
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownTopicId
        // What librdkafka had queued when the topic vanished.
        | Code::UnknownPartition => (Topic(TopicTrouble::Missing), "topic"),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            (Topic(TopicTrouble::Forbidden), "authorization")
        }
        // The topic's clock bounds, not the row, refuse a timestamp.
        Code::InvalidTimestamp => (Topic(TopicTrouble::Timestamp), "topic"),

        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => (Record(Failure::TooLarge), "record"),
        Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTopic
        | Code::PolicyViolation => (Record(Failure::Refused), "record"),
        // In the company of a refused record.
        Code::InvalidDifferentRecord => (Nobody, "record"),

        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut
        | Code::BrokerNotAvailable
        | Code::UnknownBroker
        | Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::RebootstrapRequired => (Nobody, "unreachable"),
        // A broker that lost another one: librdkafka takes it for a plain refusal.
        Code::NetworkException => (NobodyKnows, "unreachable"),
        // A partition that moves, or lacks replicas.
        Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::KafkaStorageError
        | Code::ISRInsufficient
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend => (Nobody, "topic"),
        Code::ThrottlingQuotaExceeded => (Nobody, "throttled"),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::SSL
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed
        | Code::DelegationTokenExpired => (Nobody, "authentication"),

        // The end of a producer, and what it gives back.
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::UnknownProducerId
        | Code::OutOfOrderSequenceNumber => (Nobody, "fatal"),
        Code::PurgeQueue
        | Code::QueueFull
        | Code::Retry
        | Code::Interrupted
        | Code::CriticalSystemResource
        // A response that cannot be read says nothing about the record.
        | Code::BadMessage => (Nobody, "other"),
        Code::PurgeInflight
        // librdkafka makes it a success where idempotence is on. Without, the broker has the record, or had.
        | Code::DuplicateSequenceNumber => (NobodyKnows, "other"),

        _ => (Record(Failure::Refused), "other"),
    }
}

/// What a code means for the row.
///
/// A refusal stays one although an earlier try of librdkafka's may have been written: charged or not, the row keeps its
/// event id. `Written` comes with no error in librdkafka 2.12: the one code that implies it (a repeated sequence) is
/// reported as a success, and the flag that would set it is used for no code. Should it come, the row is sent again:
/// nothing makes a failure a success, for its place in the topic is not known.
fn failure(code: Code, persistence: Persistence) -> Failure {
    match (meaning(code).0, persistence) {
        (_, Persistence::Written) | (Blame::NobodyKnows, _) => Failure::Unknown,
        (Blame::Record(failure), _) => failure,
        (Blame::Topic(trouble), _) => Failure::Topic(trouble),
        (Blame::Nobody, Persistence::Not) => Failure::NotWritten,
        (Blame::Nobody, Persistence::Possibly) => Failure::Unknown,
    }
}

/// The label `class` of `outbox_kafka_errors_total`.
pub(super) fn class(code: Code) -> &'static str {
    meaning(code).1
}

/// What a delivery report says.
pub(super) fn reported(code: Code, persistence: Persistence) -> Refusal {
    Refusal { failure: failure(code, persistence), class: class(code), text: code.to_string() }
}

/// What is said before anything was sent: at the hand-over, or in a topic's metadata.
pub(super) fn refusal(code: Code) -> Refusal {
    reported(code, Persistence::Not)
}

/// What an error at the hand-over means.
pub(super) fn not_taken(error: KafkaError) -> NotTaken {
    match error {
        KafkaError::MessageProduction(Code::QueueFull) => NotTaken::Full,
        KafkaError::MessageProduction(Code::Fatal) => NotTaken::Dead,
        // Only a row that names its partition meets this one here; other rows of the topic do not suffer from it.
        KafkaError::MessageProduction(code @ Code::UnknownPartition) => {
            NotTaken::Refused(Refusal { failure: Failure::Refused, class: "record", text: code.to_string() })
        }
        KafkaError::MessageProduction(code) => NotTaken::Refused(refusal(code)),
        other => {
            NotTaken::Refused(Refusal { failure: Failure::Refused, class: "other", text: other.to_string() })
        }
    }
}

/// An error of a request that is about no row, told by the connection's `trouble` if there is any.
pub(super) fn request_error(
    what: &'static str,
    error: &KafkaError,
    trouble: Option<&(Code, String)>,
) -> super::KafkaError {
    let class_of = |error: &KafkaError| error.rdkafka_error_code().map_or("other", class);
    let (class, text) = match trouble {
        Some((code, reason)) if class_of(error) == "unreachable" => (class(*code), reason.clone()),
        _ => (class_of(error), error.to_string()),
    };
    let advice = match class {
        "authentication" => "; check sasl.*, ssl.* and security.protocol in [kafka.properties]",
        "unreachable" => "; check kafka.brokers",
        _ => "",
    };
    super::KafkaError { what, text: text + advice, class }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    #[track_caller]
    fn check(code: Code, not: Failure, possibly: Failure, expected_class: &str) {
        let found = (failure(code, Persistence::Not), failure(code, Persistence::Possibly), class(code));
        assert_eq!(found, (not, possibly, expected_class));
    }

    #[test]
    fn codes_mean_what_the_table_says() {
        use Failure::{NotWritten, Refused, TooLarge, Unknown};
        let missing = Failure::Topic(TopicTrouble::Missing);
        let forbidden = Failure::Topic(TopicTrouble::Forbidden);
        let timestamp = Failure::Topic(TopicTrouble::Timestamp);
        check(Code::MessageSizeTooLarge, TooLarge, TooLarge, "record");
        check(Code::InvalidRecord, Refused, Refused, "record");
        check(Code::InvalidDifferentRecord, NotWritten, Unknown, "record");
        check(Code::MessageTimedOut, NotWritten, Unknown, "unreachable");
        check(Code::BrokerTransportFailure, NotWritten, Unknown, "unreachable");
        check(Code::PurgeQueue, NotWritten, Unknown, "other");
        check(Code::PurgeInflight, Unknown, Unknown, "other");
        check(Code::GaplessGuarantee, NotWritten, Unknown, "fatal");
        check(Code::OutOfOrderSequenceNumber, NotWritten, Unknown, "fatal");
        check(Code::UnknownTopicOrPartition, missing, missing, "topic");
        check(Code::UnknownPartition, missing, missing, "topic");
        check(Code::TopicAuthorizationFailed, forbidden, forbidden, "authorization");
        check(Code::InvalidTimestamp, timestamp, timestamp, "topic");
        check(Code::SaslAuthenticationFailed, NotWritten, Unknown, "authentication");
        check(Code::ThrottlingQuotaExceeded, NotWritten, Unknown, "throttled");
        check(Code::DuplicateSequenceNumber, Unknown, Unknown, "other");
        // Codes without a row of their own.
        check(Code::Unknown, Refused, Refused, "other");
        check(Code::UnsupportedCompressionType, Refused, Refused, "other");
        check(Code::NoError, Refused, Refused, "other");
    }

    /// All codes that librdkafka has names for.
    fn codes() -> impl Iterator<Item = (i32, Code)> {
        (-200..=130).filter_map(|number| Some((number, RDKafkaRespErr::try_from(number).ok()?.into())))
    }

    #[test]
    fn every_code_has_its_row() {
        let word = |failure| match failure {
            Failure::Refused => "refused",
            Failure::TooLarge => "too large",
            Failure::NotWritten => "not written",
            Failure::Unknown => "unknown",
            Failure::Topic(trouble) => trouble.cause(),
        };
        let row = |(number, code)| {
            let [not, possibly] = [Persistence::Not, Persistence::Possibly].map(|p| word(failure(code, p)));
            format!(
                "{number:>4} {code:<35} {:<14} {not:<11} {possibly}",
                class(code),
                code = format!("{code:?}")
            )
        };
        let found: Vec<String> = codes().map(row).collect();
        let golden: Vec<&str> =
            include_str!("codes.golden.txt").lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(found, golden, "a code is new, or means something else by now:\n{}\n", found.join("\n"));
    }

    #[test]
    fn nothing_that_may_have_been_written_counts_as_not_written() {
        for (_, code) in codes() {
            assert_ne!(failure(code, Persistence::Possibly), Failure::NotWritten, "{code:?}");
            assert_eq!(failure(code, Persistence::Written), Failure::Unknown, "{code:?}");
        }
    }
}
