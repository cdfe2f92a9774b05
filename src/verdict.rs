//! What becomes of a row: from a failure and the way it went to a verdict. One small pure table.
//!
//! Must not await, log, read a clock or draw random numbers. `kafka::classify` turns broker codes into failures.

/// What a report or a refusal says, without the broker's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The broker (or librdkafka) will not take the record. In company nobody knows whose fault it was.
    Refused,
    /// As before, because the record, or the batch it went in, is too large.
    TooLarge,
    /// The topic is missing or forbidden: every row of it fares the same.
    Topic,
    /// Surely not written, and not this row's fault.
    NotWritten,
    /// May or may not be written.
    Unknown,
}

impl Failure {
    /// The word for `outbox.deferred.class` and the logs.
    pub fn class(self) -> &'static str {
        match self {
            Failure::Refused | Failure::TooLarge => "record",
            Failure::Topic => "topic",
            Failure::NotWritten => "not_written",
            Failure::Unknown => "unknown",
        }
    }
}

/// How the row was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// With others, pipelined.
    Main,
    /// In a protocol batch of its own, one in flight per key.
    Alone,
}

/// What happens to the row next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes out again at once, in order: it was in bad company.
    SendAgain,
    /// It is put off without a wait and then goes alone: only a record that fails alone is a culprit.
    Suspect,
    /// It is put off with backoff. `spent` says whether the try counts as the row's own failure.
    PutOff {
        /// The row itself was at fault.
        spent: bool,
    },
}

/// The table. Nothing in it turns a failure into a success.
pub fn decide(failure: Failure, route: Route) -> Verdict {
    match (failure, route) {
        (Failure::Refused | Failure::TooLarge, Route::Main) => Verdict::Suspect,
        (Failure::Refused | Failure::TooLarge, Route::Alone) => Verdict::PutOff { spent: true },
        (Failure::Topic, _) => Verdict::PutOff { spent: false },
        (Failure::NotWritten | Failure::Unknown, Route::Main) => Verdict::SendAgain,
        (Failure::NotWritten | Failure::Unknown, Route::Alone) => Verdict::PutOff { spent: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(failure: Failure, route: Route, expected: Verdict) {
        assert_eq!(decide(failure, route), expected);
    }

    #[test]
    fn only_a_record_that_fails_alone_is_charged() {
        check(Failure::Refused, Route::Main, Verdict::Suspect);
        check(Failure::Refused, Route::Alone, Verdict::PutOff { spent: true });
        check(Failure::TooLarge, Route::Main, Verdict::Suspect);
        check(Failure::TooLarge, Route::Alone, Verdict::PutOff { spent: true });
        check(Failure::Topic, Route::Main, Verdict::PutOff { spent: false });
        check(Failure::Topic, Route::Alone, Verdict::PutOff { spent: false });
        check(Failure::NotWritten, Route::Main, Verdict::SendAgain);
        check(Failure::NotWritten, Route::Alone, Verdict::PutOff { spent: false });
        check(Failure::Unknown, Route::Main, Verdict::SendAgain);
        check(Failure::Unknown, Route::Alone, Verdict::PutOff { spent: false });
    }
}
