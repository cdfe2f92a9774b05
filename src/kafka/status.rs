//! Whether a record whose report is an error may have been written all the same.
//!
//! The one question that rdkafka does not answer itself: librdkafka keeps the answer in the message, and the binding has no
//! method for it. Everything else about a report is read through rdkafka. For tests there is one call more, as unsafe as
//! the first: it kills a producer.
#![allow(unsafe_code, reason = "calls of librdkafka's C interface, on what the caller holds")]

use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t as Status};
use rdkafka::message::BorrowedMessage;

/// Whether a record has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It was never sent, or the broker refused it.
    Not,
    /// It was sent, and nobody knows.
    Possibly,
    /// The broker has it.
    Written,
}

/// What librdkafka knows of this message.
pub(super) fn of(message: &BorrowedMessage<'_>) -> Persistence {
    // Sound: the pointer belongs to `message`, which outlives the call, and the call only reads a field of it.
    let status = unsafe { rd_kafka_message_status(message.ptr()) };
    match status {
        Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persistence::Not,
        Status::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED => Persistence::Possibly,
        Status::RD_KAFKA_MSG_STATUS_PERSISTED => Persistence::Written,
    }
}

/// Gives the producer a fatal error, as if a broker had lost track of its sequence numbers.
#[cfg(debug_assertions)]
pub(super) fn kill<C: rdkafka::ClientContext>(client: &rdkafka::client::Client<C>) {
    let error = rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // Sound: the client outlives the call, and librdkafka copies the text.
    unsafe {
        rdkafka::bindings::rd_kafka_test_fatal_error(
            client.native_ptr(),
            error,
            c"the test kills this producer".as_ptr(),
        );
    }
}
