//! Log lines about single rows: the first of its kind at once, the others as a number in the next line.
//!
//! A refused topic has as many rows as its services write; a line for each would drown what an operator looks for.
//! Each row is in `outbox.deferred` and in the metrics anyway. Reads no clock: `now` comes in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long further remarks of a kind about a topic are only counted.
const PERIOD: Duration = Duration::from_secs(10);

/// What is remarked about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Remark {
    /// Kafka will not take it, for certain.
    Refused,
    /// It was refused in company and goes alone.
    Suspect,
    /// It was put off before and failed again.
    FailedAgain,
    /// It is a dead letter now.
    Dead,
    /// It is a dead letter's copy, and failed.
    CopyFailed,
    /// It is a dead letter's copy that will never go.
    CopyRefused,
    /// Its topic is at-most-once, and it is too large.
    OnceOversize,
    /// Rows of an at-most-once topic, a batch of them, are lost.
    OnceLost,
}

/// Who has been spoken about, and when.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    made: HashMap<(Arc<str>, Remark), (Instant, u64)>,
}

impl Remarks {
    /// `Some` if the remark is to be made now, with the number of rows about which it was not made since the last one.
    pub fn make(&mut self, topic: &Arc<str>, remark: Remark, now: Instant) -> Option<u64> {
        let key = (Arc::clone(topic), remark);
        match self.made.get_mut(&key) {
            Some((at, unsaid)) if now.duration_since(*at) < PERIOD => {
                *unsaid += 1;
                None
            }
            Some((at, unsaid)) => {
                *at = now;
                Some(std::mem::take(unsaid))
            }
            None => {
                self.made.insert(key, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_remarks_of_a_kind_are_two_lines() {
        let (orders, users): (Arc<str>, Arc<str>) = (Arc::from("orders"), Arc::from("users"));
        let (mut remarks, start) = (Remarks::default(), Instant::now());
        assert_eq!(remarks.make(&orders, Remark::Refused, start), Some(0));
        for _ in 0..999 {
            assert_eq!(remarks.make(&orders, Remark::Refused, start + PERIOD / 2), None);
        }
        assert_eq!(remarks.make(&users, Remark::Refused, start), Some(0));
        assert_eq!(remarks.make(&orders, Remark::Suspect, start), Some(0));
        assert_eq!(remarks.make(&orders, Remark::Refused, start + PERIOD), Some(999));
        assert_eq!(remarks.make(&orders, Remark::Refused, start + 2 * PERIOD), Some(0));
    }
}
