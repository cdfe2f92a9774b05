//! What becomes of a row: from a failure, the way it went, and its history to a verdict. Small pure tables.
//!
//! Must not await, log, read a clock or draw random numbers. `kafka::classify` turns broker codes into failures.

use std::time::Duration;

/// What a report or a refusal says, without the broker's vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The broker (or librdkafka) will not take the record. In company nobody knows whose fault it was.
    Refused,
    /// As before, because the record, or the batch it went in, is too large.
    TooLarge,
    /// The topic cannot be published to: every row of it fares the same.
    Topic(TopicTrouble),
    /// Surely not written, and not this row's fault.
    NotWritten,
    /// May or may not be written.
    Unknown,
}

/// Why no row of a topic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicTrouble {
    /// It is not there.
    Missing,
    /// We may not write to it.
    Forbidden,
    /// Its clock bounds refuse our timestamps.
    Timestamp,
    /// A partition has no leader.
    Leaderless,
    /// It confirms nothing while other topics do.
    Stalled,
}

impl TopicTrouble {
    /// The cause of the topic's lane.
    pub fn cause(self) -> &'static str {
        match self {
            TopicTrouble::Missing => "missing",
            TopicTrouble::Forbidden => "forbidden",
            TopicTrouble::Timestamp => "timestamp",
            TopicTrouble::Leaderless => "leaderless",
            TopicTrouble::Stalled => "stalled",
        }
    }
}

impl Failure {
    /// The word for `outbox.deferred.class`, `outbox.attempt.class` and the logs.
    pub fn class(self) -> &'static str {
        match self {
            Failure::Refused | Failure::TooLarge => "record",
            Failure::Topic(TopicTrouble::Forbidden) => "authorization",
            Failure::Topic(_) => "topic",
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
    /// Settled before, tried once, never again.
    Once,
    /// A copy of a dead letter: as `Alone`, and nobody's order.
    Copy,
}

/// What a row has been through, the failure that is being judged included if it is the row's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Attempts that failed by the row's own fault before this one.
    pub attempts: u32,
    /// Time since the first of them.
    pub age: Duration,
}

/// How much of it a policy allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts that fail by the row's own fault.
    pub attempts: u32,
    /// Time since the first of them.
    pub age: Duration,
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
    /// It waits until its topic works again.
    Park(TopicTrouble),
    /// It has been tried often or long enough: a dead letter.
    Dead(Reason),
    /// It is given up and counted.
    Drop,
}

/// Why a row is dead, as `outbox.dead_letter.reason_class` and the metrics spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Larger than its topic or `relay.max_row_bytes` allows.
    TooLarge,
    /// Kafka will not take it.
    Refused,
    /// Its `expires_at` had passed, and the policy keeps such rows.
    Expired,
    /// An operator wanted it out of the way of its key.
    Skipped,
}

impl Reason {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::TooLarge => "too_large",
            Reason::Refused => "refused",
            Reason::Expired => "expired",
            Reason::Skipped => "skipped",
        }
    }
}

/// The table. Nothing in it turns a failure into a success.
pub fn decide(failure: Failure, route: Route, history: History, limits: Limits) -> Verdict {
    match (failure, route) {
        (_, Route::Once) => Verdict::Drop,
        (Failure::Refused | Failure::TooLarge, Route::Main) => Verdict::Suspect,
        (Failure::Refused | Failure::TooLarge, Route::Alone | Route::Copy) => {
            own_fault(failure, history, limits)
        }
        (Failure::Topic(trouble), _) => Verdict::Park(trouble),
        (Failure::NotWritten | Failure::Unknown, Route::Main) => Verdict::SendAgain,
        (Failure::NotWritten | Failure::Unknown, Route::Alone | Route::Copy) => {
            Verdict::PutOff { spent: false }
        }
    }
}

/// The row itself was at fault, for certain: another try, or none.
pub fn own_fault(failure: Failure, history: History, limits: Limits) -> Verdict {
    if history.attempts.saturating_add(1) < limits.attempts && history.age < limits.age {
        return Verdict::PutOff { spent: true };
    }
    Verdict::Dead(match failure {
        Failure::TooLarge => Reason::TooLarge,
        _ => Reason::Refused,
    })
}

/// The longest error text that is kept.
const ERROR_CHARS: usize = 500;

/// An error as it may be stored and shown: one line without control characters, of bounded length. Nothing of it comes
/// from a payload: the texts are librdkafka's and ours.
pub fn scrub(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(ERROR_CHARS).collect()
}

/// Equal for rows that died of the same cause, whatever their sizes and numbers were.
pub fn fingerprint(reason: Reason, error: &str) -> String {
    let mut of_number = false;
    let shape = reason.as_str().chars().chain(" ".chars()).chain(error.chars()).filter_map(|c| {
        let digit = c.is_ascii_digit();
        let repeated = std::mem::replace(&mut of_number, digit) && digit;
        (!repeated).then_some(if digit { '#' } else { c })
    });
    // FNV-1a: stable over releases and machines.
    let hash = shape.fold(0xcbf2_9ce4_8422_2325_u64, |hash, c| {
        (hash ^ u64::from(u32::from(c))).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { attempts: 3, age: Duration::from_secs(60) };

    #[track_caller]
    fn check(failure: Failure, route: Route, expected: Verdict) {
        assert_eq!(decide(failure, route, History::default(), LIMITS), expected);
    }

    #[test]
    fn only_a_record_that_fails_alone_is_charged() {
        let (spent, free) = (Verdict::PutOff { spent: true }, Verdict::PutOff { spent: false });
        check(Failure::Refused, Route::Main, Verdict::Suspect);
        check(Failure::Refused, Route::Alone, spent);
        check(Failure::Refused, Route::Once, Verdict::Drop);
        check(Failure::TooLarge, Route::Main, Verdict::Suspect);
        check(Failure::TooLarge, Route::Alone, spent);
        check(Failure::TooLarge, Route::Once, Verdict::Drop);
        check(Failure::NotWritten, Route::Main, Verdict::SendAgain);
        check(Failure::NotWritten, Route::Alone, free);
        check(Failure::NotWritten, Route::Once, Verdict::Drop);
        check(Failure::Unknown, Route::Main, Verdict::SendAgain);
        check(Failure::Unknown, Route::Alone, free);
        check(Failure::Unknown, Route::Once, Verdict::Drop);
        for trouble in [
            TopicTrouble::Missing,
            TopicTrouble::Forbidden,
            TopicTrouble::Timestamp,
            TopicTrouble::Leaderless,
            TopicTrouble::Stalled,
        ] {
            check(Failure::Topic(trouble), Route::Main, Verdict::Park(trouble));
            check(Failure::Topic(trouble), Route::Alone, Verdict::Park(trouble));
            check(Failure::Topic(trouble), Route::Once, Verdict::Drop);
        }
    }

    #[track_caller]
    fn after(attempts: u32, age_secs: u64, failure: Failure, expected: Verdict) {
        let history = History { attempts, age: Duration::from_secs(age_secs) };
        assert_eq!(decide(failure, Route::Alone, history, LIMITS), expected);
    }

    #[test]
    fn a_row_dies_of_its_own_faults_only() {
        let again = Verdict::PutOff { spent: true };
        after(0, 0, Failure::Refused, again);
        after(1, 59, Failure::Refused, again);
        after(2, 0, Failure::Refused, Verdict::Dead(Reason::Refused));
        after(2, 0, Failure::TooLarge, Verdict::Dead(Reason::TooLarge));
        after(0, 60, Failure::TooLarge, Verdict::Dead(Reason::TooLarge));
        after(u32::MAX, u64::MAX, Failure::Refused, Verdict::Dead(Reason::Refused));
        // However often and for however long.
        after(u32::MAX, u64::MAX, Failure::Unknown, Verdict::PutOff { spent: false });
        after(u32::MAX, u64::MAX, Failure::NotWritten, Verdict::PutOff { spent: false });
        let missing = TopicTrouble::Missing;
        after(u32::MAX, u64::MAX, Failure::Topic(missing), Verdict::Park(missing));
    }

    #[test]
    fn the_same_cause_has_the_same_fingerprint() {
        let of = |text| fingerprint(Reason::TooLarge, text);
        assert_eq!(of("record of 150 bytes is above 100"), of("record of 9 bytes is above 20000"));
        assert_ne!(of("record of 150 bytes is above 100"), of("record is above 100"));
        assert_ne!(fingerprint(Reason::Refused, "x"), fingerprint(Reason::TooLarge, "x"));
    }

    #[test]
    fn errors_are_one_line_of_bounded_length() {
        assert_eq!(scrub("a\0b\nc"), "a b c");
        assert_eq!(scrub(&"ä".repeat(1000)).chars().count(), ERROR_CHARS);
    }
}
