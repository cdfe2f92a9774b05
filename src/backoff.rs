//! When to try again: pure arithmetic.
//!
//! Must not await, log, read a clock or draw random numbers: the jitter comes in as an argument.

use std::time::Duration;

/// Exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first delay.
    pub base: Duration,
    /// Upper bound of every delay.
    pub max: Duration,
}

impl Backoff {
    /// Delay before the next try after `tries` failed ones (1 = the first has failed).
    ///
    /// `jitter` is a random number in `0.0..1.0`. The delay is spread over the whole interval, so that rows which
    /// failed together do not come back together.
    pub fn delay(&self, tries: u32, jitter: f64) -> Duration {
        let doublings = tries.saturating_sub(1).min(31);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tries: u32, jitter: f64, expected_ms: u64) {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };
        assert_eq!(backoff.delay(tries, jitter), Duration::from_millis(expected_ms));
    }

    #[test]
    fn delays_double_up_to_the_maximum_and_are_spread_over_the_interval() {
        check(0, 1.0, 1_000);
        check(1, 1.0, 1_000);
        check(2, 1.0, 2_000);
        check(3, 0.5, 2_000);
        check(9, 1.0, 256_000);
        check(10, 1.0, 300_000);
        check(u32::MAX, 1.0, 300_000);
        check(5, 0.0, 0);
    }
}
