//! Work that piles up: what an alert would be about, before it is one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::report::Group;
use super::{Deadline, said};
use crate::config::Config;
use crate::relay::clean::slot_width;
use crate::store::clean::{self, Slot};
use crate::store::inspect::{self, Overview};
use crate::store::{Session, StoreError};

pub const CHECKS: &[&str] = &["deferred rows", "dead letters", "old rows"];

/// Looks at it.
pub async fn look(config: &Config, session: &mut Session, deadline: &Deadline) -> Group {
    let mut group = Group::new("work", CHECKS);
    match deadline.within_time(read(session)).await {
        Some(Ok((overview, slots))) => {
            deferred(config, &overview, &mut group);
            letters(&overview, &mut group);
            old_rows(config, &slots, &mut group);
        }
        Some(Err(error)) => {
            group.fail("deferred rows", said(&error), "see what the server's log says about it")
        }
        None => group.fail(
            "deferred rows",
            format!("they cannot be counted within {}", deadline.shown()),
            "give it more time with --timeout",
        ),
    }
    group.finish()
}

async fn read(session: &mut Session) -> Result<(Overview, Vec<Slot>), StoreError> {
    Ok((inspect::overview(session).await?, clean::slots(session).await?))
}

fn deferred(config: &Config, overview: &Overview, group: &mut Group) {
    let (rows, most) = (overview.retrying + overview.behind, config.retry.deferred_max as i64);
    let found = format!("{rows} of retry.deferred_max = {most}");
    // Four fifths: time to look at it before reading stops for all.
    if rows >= most - most / 5 {
        group.warn(
            "deferred rows",
            format!("{found}; at the limit nothing is read any more"),
            "outbox-relay keys list and select * from outbox.backlog show what waits and why; repair that, or raise the limit",
        );
    } else {
        group.pass("deferred rows", found);
    }
}

fn letters(overview: &Overview, group: &mut Group) {
    let Overview { dead_letters, causes, .. } = overview;
    match dead_letters {
        0 => group.pass("dead letters", "none"),
        letters => group.warn(
            "dead letters",
            format!("{letters} of {causes} causes wait for somebody to decide"),
            "outbox-relay dlq groups, then dlq requeue or dlq discard",
        ),
    }
}

fn old_rows(config: &Config, slots: &[Slot], group: &mut Group) {
    let published = config.retention.published;
    // A slot goes when its newest row is old enough, a round after that, and it holds a width of rows.
    let most = published + 2 * slot_width(published) + 2 * config.retention.every;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let filled = slots.iter().filter(|slot| slot.first_id.is_some());
    let oldest = filled.clone().map(|slot| slot.oldest).min_by(f64::total_cmp);
    let age = oldest.map(|oldest| now.saturating_sub(Duration::from_secs_f64(oldest.max(0.0))));
    match age {
        Some(age) if filled.clone().any(|slot| slot.age > most) => group.warn(
            "old rows",
            format!("the oldest is {} old, retention.published is {}", seconds(age), seconds(published)),
            "see that a relay runs, and what it waits for: a lane (outbox-relay topics list), an open transaction or a backup",
        ),
        Some(age) => group.pass("old rows", format!("the oldest is {} old", seconds(age))),
        None => group.pass("old rows", "there is none"),
    }
}

fn seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}
