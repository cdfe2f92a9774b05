//! Leadership: follow, take over, lead, step down.
//!
//! ```text
//!            beat still for a whole ttl, or the holder resigned
//!   follow ───────────────────────────────────────────────────> lead
//!     ^                                                           │
//!     └───── trust ran out, lease lost, server forgot, drained ───┘
//! ```
//!
//! The lease is a row in the database that it guards; its **epoch** grows with every takeover and fences old holders.
//! Nobody compares wall clocks. A candidate takes over when the beat has stood still for a whole ttl on its own
//! monotonic clock, counted only between reads that succeeded. The leader trusts its lease for a ttl less a margin from
//! *before* it sent the renewal, so its trust ends before anybody can take over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::health::Loop;
use crate::metrics::Operation;
use crate::relay::{Term, TermEnd};
use crate::store::lease::{self, Lease};
use crate::store::{Session, StoreError};

/// Until when the lease may be believed in. Written by the beat, read by everybody who hands something out.
#[derive(Debug)]
pub struct Trust {
    begun: Instant,
    /// Milliseconds after `begun`.
    until_ms: AtomicU64,
    window: Duration,
}

impl Trust {
    /// Trust from `sent_at`, when the statement that took the lease was sent.
    pub fn from(sent_at: Instant, ttl: Duration) -> Trust {
        // The margin covers clocks that tick at different rates, and the way from the last look to the wire.
        let trust = Trust { begun: sent_at, until_ms: AtomicU64::new(0), window: ttl - ttl / 10 };
        trust.extend(sent_at);
        trust
    }

    /// A renewal that was sent at `sent_at` succeeded.
    pub fn extend(&self, sent_at: Instant) {
        let until = sent_at.duration_since(self.begun) + self.window;
        self.until_ms.fetch_max(until.as_millis() as u64, Ordering::AcqRel);
    }

    /// The lease may be believed in.
    pub fn holds(&self) -> bool {
        Instant::now() < self.until()
    }

    /// When trust runs out unless the beat is raised.
    pub fn until(&self) -> Instant {
        if crate::crash_point::bug("no_fencing") {
            return self.begun + 1000 * self.window;
        }
        self.begun + Duration::from_millis(self.until_ms.load(Ordering::Acquire))
    }
}

/// What a candidate has seen of the beat: pure bookkeeping, `now` comes in.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Option<(i64, i64)>,
    still_for: Duration,
    last_read: Option<Instant>,
}

impl Watch {
    /// A read succeeded at `now`. Returns for how long the beat has stood still.
    pub fn read(&mut self, lease: &Lease, now: Instant) -> Duration {
        let current = (lease.epoch, lease.beat);
        if self.seen == Some(current) {
            self.still_for += self.last_read.map_or(Duration::ZERO, |at| now.duration_since(at));
        } else {
            self.seen = Some(current);
            self.still_for = Duration::ZERO;
        }
        self.last_read = Some(now);
        self.still_for
    }

    /// A read failed: what happens until the next one that succeeds does not count.
    pub fn failed(&mut self) {
        self.last_read = None;
    }
}

/// Why a candidate may take the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody holds it.
    Vacant,
    /// We held it before and lost our memory of it; nobody else has taken it.
    Ours,
    /// Its holder's beat has stood still for a whole ttl.
    Silent,
}

/// Whether the lease may be taken, and why. Pure.
pub fn claim(lease: &Lease, me: Uuid, still_for: Duration, ttl: Duration) -> Option<Claim> {
    match lease.holder {
        None => Some(Claim::Vacant),
        Some(holder) if holder == me => Some(Claim::Ours),
        Some(_) if still_for >= ttl => Some(Claim::Silent),
        Some(_) => None,
    }
}

/// Raises the beat every ttl / 3 until the term ends. Never returns while the lease is ours and trusted.
pub async fn beat(term: Term, holder: Uuid, ttl: Duration) -> TermEnd {
    let (trust, metrics) = (&term.trust, &term.metrics);
    let running = term.health.running(Loop::Lead);
    let mut session: Option<Session> = None;
    let mut due = tokio::time::interval(ttl / 3);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        running.tick();
        crate::crash_point::work("beat");
        let raised = async {
            due.tick().await;
            let sent_at = Instant::now();
            if session.is_none() {
                session = Some(term.server.connect("beat").await?);
            }
            lease::raise_beat(session.as_mut().expect("it was opened above"), holder, term.epoch).await?;
            metrics.database_seconds(Operation::Beat, sent_at.elapsed().as_secs_f64());
            Ok::<Instant, StoreError>(sent_at)
        };
        let raised = tokio::select! {
            raised = raised => raised,
            () = tokio::time::sleep_until(trust.until().into()) => return TermEnd::TrustRanOut,
        };
        match raised {
            Ok(sent_at) => {
                trust.extend(sent_at);
                metrics.lease_expiry_timestamp.set(unix_seconds(trust.until()));
            }
            Err(error) => {
                session = None;
                metrics.database_error(Operation::Beat);
                if error.ends_the_term() {
                    return error.into();
                }
                tracing::warn!(
                    error = crate::telemetry::chain(&error),
                    "the beat could not be raised, trying again"
                );
                due.reset_after((ttl / 20).min(Duration::from_millis(200)));
            }
        }
    }
}

/// A point of the monotonic clock as a Unix time, for people.
fn unix_seconds(at: Instant) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    now + at.saturating_duration_since(Instant::now()).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<Uuid>, epoch: i64, beat: i64) -> Lease {
        Lease {
            holder,
            holder_name: None,
            epoch,
            beat,
            system_identifier: None,
            database_oid: None,
            kafka_cluster_id: None,
            timeline: None,
        }
    }

    #[test]
    fn only_time_between_reads_that_succeed_counts() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut watch = Watch::default();
        let held = lease(Some(Uuid::nil()), 3, 7);
        assert_eq!(watch.read(&held, start), Duration::ZERO);
        assert_eq!(watch.read(&held, start + second), second);
        watch.failed();
        assert_eq!(watch.read(&held, start + 9 * second), second);
        assert_eq!(watch.read(&held, start + 10 * second), 2 * second);
        assert_eq!(watch.read(&lease(Some(Uuid::nil()), 3, 8), start + 11 * second), Duration::ZERO);
        assert_eq!(watch.read(&lease(Some(Uuid::nil()), 4, 8), start + 12 * second), Duration::ZERO);
    }

    #[test]
    fn a_lease_is_taken_when_vacant_ours_or_silent() {
        let (me, other, ttl) = (Uuid::from_u128(1), Uuid::from_u128(2), Duration::from_secs(5));
        let check = |holder, still_for, expected| {
            assert_eq!(claim(&lease(holder, 1, 1), me, still_for, ttl), expected);
        };
        check(None, Duration::ZERO, Some(Claim::Vacant));
        check(Some(me), Duration::ZERO, Some(Claim::Ours));
        check(Some(other), ttl, Some(Claim::Silent));
        check(Some(other), ttl - Duration::from_millis(1), None);
    }

    #[test]
    fn trust_ends_before_a_ttl_has_passed_since_the_renewal_was_sent() {
        let ttl = Duration::from_secs(10);
        let trust = Trust::from(Instant::now(), ttl);
        assert!(trust.holds());
        assert!(trust.until() <= Instant::now() + Duration::from_secs(9));
        let long_ago = Trust::from(Instant::now() - ttl, ttl);
        assert!(!long_ago.holds());
        long_ago.extend(Instant::now());
        assert!(long_ago.holds());
    }
}
