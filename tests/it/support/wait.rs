//! Waiting for what will happen, with a deadline: the one place where a test pauses.

use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// For waits that have no deadline of their own: long enough for two busy cores, short enough for a person.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Looks until `holds` answers true; panics at the caller's line when it has not done so `within` this time.
#[track_caller]
pub fn eventually(
    within: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    wait_for(within, what, async move || holds().await.then_some(()))
}

/// Looks until `find` finds something, and returns it; panics at the caller's line when the time is over.
#[track_caller]
pub fn wait_for<T>(
    within: Duration,
    what: &str,
    mut find: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + within;
        let mut looks = interval(STEP);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Some(found) = find().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{caller}: not within {within:?}: {what}");
        }
    }
}
