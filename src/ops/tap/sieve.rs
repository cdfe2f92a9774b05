//! Which of the published messages are shown: every nth, so many a second, so many at all. Pure; time comes in.

use std::time::{Duration, Instant};

/// Counts what goes by.
#[derive(Debug)]
pub struct Sieve {
    sample: u64,
    rate: Option<u32>,
    limit: Option<u64>,
    seen: u64,
    taken: u64,
    /// The second that is being counted, and how many were taken in it.
    second: Option<(Instant, u32)>,
    passed: i64,
}

impl Sieve {
    /// Every `sample`th, at most `rate` a second, `limit` in all.
    pub fn new(sample: u64, rate: Option<u32>, limit: Option<u64>) -> Sieve {
        Sieve { sample, rate, limit, seen: 0, taken: 0, second: None, passed: 0 }
    }

    /// Whether this one is shown.
    pub fn takes(&mut self, now: Instant) -> bool {
        if self.is_done() {
            return false;
        }
        self.seen += 1;
        if !(self.seen - 1).is_multiple_of(self.sample) {
            return false;
        }
        if let Some(rate) = self.rate {
            let counted = match self.second {
                Some((began, counted)) if now.duration_since(began) < Duration::from_secs(1) => counted,
                _ => {
                    self.second = Some((now, 0));
                    0
                }
            };
            if counted >= rate {
                self.passed += 1;
                return false;
            }
            self.second = self.second.map(|(began, _)| (began, counted + 1));
        }
        self.taken += 1;
        true
    }

    /// The limit is reached.
    pub fn is_done(&self) -> bool {
        self.limit.is_some_and(|limit| self.taken >= limit)
    }

    /// How many the rate kept back since this was last asked.
    pub fn take_passed(&mut self) -> i64 {
        std::mem::take(&mut self.passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mut sieve: Sieve, offered: usize, expected: &[usize], passed: i64) {
        let now = Instant::now();
        let taken: Vec<usize> = (0..offered).filter(|_| sieve.takes(now)).collect();
        assert_eq!(taken, expected);
        assert_eq!(sieve.take_passed(), passed);
    }

    #[test]
    fn every_nth_is_taken_until_the_limit() {
        check(Sieve::new(1, None, None), 4, &[0, 1, 2, 3], 0);
        check(Sieve::new(3, None, None), 8, &[0, 3, 6], 0);
        check(Sieve::new(3, None, Some(2)), 20, &[0, 3], 0);
        check(Sieve::new(1, Some(2), None), 5, &[0, 1], 3);
        check(Sieve::new(2, Some(2), Some(9)), 9, &[0, 2], 3);
    }

    #[test]
    fn the_next_second_has_a_rate_of_its_own() {
        let (mut sieve, now) = (Sieve::new(1, Some(1), Some(2)), Instant::now());
        assert!(sieve.takes(now) && !sieve.takes(now + Duration::from_millis(999)));
        assert!(!sieve.is_done());
        assert!(sieve.takes(now + Duration::from_secs(1)) && sieve.is_done());
    }
}
