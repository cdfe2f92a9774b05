//! How many records a second go: for all topics, and for each that has a rate.
//!
//! Owns the token buckets (crate governor). Reads governor's clock, decides nothing about rows.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota};

/// The buckets.
pub(super) struct Rates {
    all: Option<Bucket>,
    topics: HashMap<Arc<str>, Bucket>,
    /// The bucket of all topics is empty.
    used_up: bool,
    /// Somebody was turned away, and may look again then.
    look_again: Option<Instant>,
}

struct Bucket {
    rate: u32,
    limiter: DefaultDirectRateLimiter,
}

/// An empty bucket is looked at again after so long.
const NAP: Duration = Duration::from_millis(10);

impl Bucket {
    /// A tenth of a second's worth may go at once.
    fn new(rate: u32) -> Option<Bucket> {
        let per_second = NonZeroU32::new(rate)?;
        let burst = NonZeroU32::new((rate / 10).max(1))?;
        let limiter = DefaultDirectRateLimiter::direct(Quota::per_second(per_second).allow_burst(burst));
        Some(Bucket { rate, limiter })
    }

    fn take(&self) -> bool {
        self.limiter.check().is_ok()
    }
}

impl Rates {
    /// `all` records a second for all topics together; `None` is no limit.
    pub fn new(all: Option<u32>) -> Rates {
        Rates { all: all.and_then(Bucket::new), topics: HashMap::new(), used_up: false, look_again: None }
    }

    /// Records a second for all topics together.
    pub fn all(&self) -> Option<u32> {
        self.all.as_ref().map(|bucket| bucket.rate)
    }

    /// Another rate for all topics together.
    pub fn set_all(&mut self, all: Option<u32>) {
        if self.all() != all {
            self.all = all.and_then(Bucket::new);
            self.used_up = false;
        }
    }

    /// It is time to look again.
    pub fn refill(&mut self) {
        (self.used_up, self.look_again) = (false, None);
    }

    /// Nothing of any topic goes now.
    pub fn is_used_up(&self) -> bool {
        self.used_up
    }

    /// When to look again, if somebody was turned away.
    pub fn next(&self) -> Option<Instant> {
        self.look_again
    }

    /// Whether a record of this topic may go now, by the rate of all topics and its own; if so, it has used up its share.
    pub fn take(&mut self, topic: &Arc<str>, rate: Option<u32>) -> bool {
        let goes = !self.used_up && self.take_both(topic, rate);
        if !goes {
            self.look_again.get_or_insert_with(|| Instant::now() + NAP);
        }
        goes
    }

    fn take_both(&mut self, topic: &Arc<str>, rate: Option<u32>) -> bool {
        if let Some(rate) = rate {
            let known = self.topics.get(topic).is_some_and(|bucket| bucket.rate == rate);
            if !known {
                let Some(bucket) = Bucket::new(rate) else { return false };
                self.topics.insert(Arc::clone(topic), bucket);
            }
            if !self.topics[topic].take() {
                return false;
            }
        }
        self.used_up = self.all.as_ref().is_some_and(|bucket| !bucket.take());
        !self.used_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_a_tenth_of_a_second_go_at_once() {
        let (orders, users): (Arc<str>, Arc<str>) = (Arc::from("orders"), Arc::from("users"));
        let mut rates = Rates::new(None);
        let went = (0..1000).filter(|_| rates.take(&orders, Some(100))).count();
        assert!((10..100).contains(&went), "{went}");
        assert!((0..1000).all(|_| rates.take(&users, None)), "others are not limited");
        rates.set_all(Some(50));
        let went = (0..1000).filter(|_| rates.take(&users, None)).count();
        assert!((5..50).contains(&went), "{went}");
        assert!(rates.is_used_up());
        assert!(rates.next().is_some());
        rates.refill();
        assert!(!rates.is_used_up() && rates.next().is_none());
        assert!(!Rates::new(None).take(&orders, Some(0)), "a rate of nothing is a pause");
    }
}
