//! The broker's vocabulary in ours: from an error code to what it means for a row. One table.
//!
//! An unknown code is a refusal: the record goes alone next, and if it fails alone it is put off with backoff. It is
//! never a success, and never repeated without a wait.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::status::Persistence;
use super::{NotTaken, Refusal};
use crate::verdict::{Failure, TopicTrouble};

/// What a code in a delivery report or at the hand-over means for the row.
pub(super) fn failure(code: Code) -> Failure {
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        // What librdkafka had queued when the topic vanished.
        | Code::UnknownPartition => Failure::Topic(TopicTrouble::Missing),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            Failure::Topic(TopicTrouble::Forbidden)
        }
        // The topic's clock bounds, not the row, refuse a timestamp.
        Code::InvalidTimestamp => Failure::Topic(TopicTrouble::Timestamp),
        // The bad company of a refused record, and what a dying producer gives back unsent.
        Code::InvalidDifferentRecord
        | Code::GaplessGuarantee
        | Code::PurgeQueue
        | Code::OutOfOrderSequenceNumber
        | Code::Fatal => Failure::NotWritten,
        Code::PurgeInflight
        | Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::ProducerFenced
        | Code::Fenced
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::NotLeaderForPartition
        | Code::LeaderNotAvailable
        | Code::ThrottlingQuotaExceeded
        | Code::Authentication
        | Code::SaslAuthenticationFailed => Failure::Unknown,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Failure::TooLarge,
        _ => Failure::Refused,
    }
}

/// The label `class` of `outbox_kafka_errors_total`.
pub(super) fn class(code: Code) -> &'static str {
    match code {
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut => "unreachable",
        Code::ThrottlingQuotaExceeded => "throttled",
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => "authentication",
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => "authorization",
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::InvalidTimestamp => "topic",
        Code::Fatal | Code::GaplessGuarantee | Code::Fenced | Code::ProducerFenced => "fatal",
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidMessage
        | Code::InvalidRecord
        | Code::InvalidDifferentRecord
        | Code::PolicyViolation
        | Code::MessageBatchTooLarge
        | Code::InvalidTopic => "record",
        _ => "other",
    }
}

/// The same with what librdkafka knows about whether the record was written. Nothing of it makes a failure a success: even
/// what was written all the same is sent again, for its offset is not known; it has the same event id.
fn failure_of(code: Code, persistence: Persistence) -> Failure {
    match (failure(code), persistence) {
        (Failure::Unknown, Persistence::Not) => Failure::NotWritten,
        (Failure::NotWritten, Persistence::Possibly | Persistence::Written) => Failure::Unknown,
        (failure, _) => failure,
    }
}

/// What a delivery report says.
pub(super) fn reported(code: Code, persistence: Persistence) -> Refusal {
    Refusal { failure: failure_of(code, persistence), ..refusal(code) }
}

pub(super) fn refusal(code: Code) -> Refusal {
    Refusal { failure: failure(code), class: class(code), text: code.to_string() }
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
    use super::*;

    #[track_caller]
    fn check(code: Code, expected_failure: Failure, expected_class: &str) {
        assert_eq!((failure(code), class(code)), (expected_failure, expected_class));
    }

    #[test]
    fn codes_mean_what_the_table_says() {
        check(Code::MessageSizeTooLarge, Failure::TooLarge, "record");
        check(Code::InvalidRecord, Failure::Refused, "record");
        check(Code::InvalidDifferentRecord, Failure::NotWritten, "record");
        check(Code::GaplessGuarantee, Failure::NotWritten, "fatal");
        check(Code::PurgeQueue, Failure::NotWritten, "other");
        check(Code::PurgeInflight, Failure::Unknown, "other");
        check(Code::MessageTimedOut, Failure::Unknown, "unreachable");
        check(Code::UnknownTopicOrPartition, Failure::Topic(TopicTrouble::Missing), "topic");
        check(Code::TopicAuthorizationFailed, Failure::Topic(TopicTrouble::Forbidden), "authorization");
        check(Code::InvalidTimestamp, Failure::Topic(TopicTrouble::Timestamp), "topic");
        check(Code::UnknownPartition, Failure::Topic(TopicTrouble::Missing), "topic");
        check(Code::SaslAuthenticationFailed, Failure::Unknown, "authentication");
    }

    #[track_caller]
    fn told(code: Code, persistence: Persistence, expected: Failure) {
        assert_eq!(reported(code, persistence).failure, expected);
    }

    #[test]
    fn what_was_surely_not_written_is_told_from_what_may_be() {
        told(Code::MessageTimedOut, Persistence::Not, Failure::NotWritten);
        told(Code::MessageTimedOut, Persistence::Possibly, Failure::Unknown);
        told(Code::MessageTimedOut, Persistence::Written, Failure::Unknown);
        told(Code::PurgeInflight, Persistence::Possibly, Failure::Unknown);
        told(Code::PurgeQueue, Persistence::Not, Failure::NotWritten);
        told(Code::BrokerTransportFailure, Persistence::Not, Failure::NotWritten);
        told(Code::OutOfOrderSequenceNumber, Persistence::Possibly, Failure::Unknown);
        // A refusal is one whatever librdkafka thinks of the record.
        told(Code::InvalidRecord, Persistence::Possibly, Failure::Refused);
        told(Code::MessageSizeTooLarge, Persistence::Not, Failure::TooLarge);
        told(Code::TopicAuthorizationFailed, Persistence::Not, Failure::Topic(TopicTrouble::Forbidden));
    }

    #[test]
    fn an_unknown_code_is_a_refusal() {
        check(Code::Unknown, Failure::Refused, "other");
        check(Code::UnsupportedCompressionType, Failure::Refused, "other");
    }
}
