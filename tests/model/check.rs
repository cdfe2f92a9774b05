//! What must hold when a schedule has drained: the promises, judged against what the services did.
//!
//! It looks at the log that a consumer saw, the truth of the writers and the final tables, never into a relay.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::schedule::{Report, Schedule};
use crate::truth::End;

/// Judges a schedule.
pub fn check(schedule: &mut Schedule, drained: bool) -> Report {
    let mut problems: Vec<String> =
        schedule.broken.drain(..).chain(schedule.postgres.broken.drain(..)).collect();
    schedule.postgres.flush_all();
    let mut seen: BTreeMap<u128, usize> = BTreeMap::new();
    let mut last: HashMap<(Arc<str>, Box<[u8]>), u128> = HashMap::new();
    let (mut duplicates, mut hash) = (0, 0xcbf2_9ce4_8422_2325_u64);
    let (mut newest, mut stale) = (0, HashMap::<i64, usize>::new());
    for (offset, record) in schedule.kafka.log.iter().enumerate() {
        hash = (hash ^ (record.event as u64 + (record.epoch as u64) * 10_000)).wrapping_mul(0x0100_0000_01b3);
        newest = newest.max(record.epoch);
        if record.epoch < newest {
            *stale.entry(record.epoch).or_default() += 1;
        }
        if seen.contains_key(&record.event) {
            duplicates += 1;
            continue;
        }
        seen.insert(record.event, offset);
        let event = schedule.truth.of(record.event);
        if event.end != End::Committed {
            problems.push(format!("phantom: event {} ({:?}) is in the topic", record.event, event.end));
        }
        // A row that somebody has to decide about has left its key's order.
        let is_dead = schedule.postgres.visible.dead.contains(&record.id);
        if let Some(key) =
            record.key.clone().filter(|_| event.in_turn && !is_dead && event.end == End::Committed)
        {
            let before = last.insert((Arc::clone(&record.topic), key), record.event);
            if let Some(before) = before.filter(|before| *before > record.event) {
                problems.push(format!(
                    "reordered: event {} (id {}) appears behind event {before}",
                    record.event, record.id
                ));
            }
        }
    }
    let tables = &schedule.postgres.visible;
    let mut accounted: HashMap<i64, usize> = HashMap::new();
    for id in tables.ledger.iter().flat_map(|row| row.published.iter().chain(&row.dead)) {
        *accounted.entry(*id).or_default() += 1;
    }
    for (event, number) in schedule.truth.events.iter().zip(1u128..) {
        if event.end != End::Committed {
            continue;
        }
        let (id, is_dead) = (event.id, tables.dead.contains(&event.id));
        if !is_dead && !seen.contains_key(&number) {
            problems.push(format!("lost: event {number} (id {id}) is not in the topic"));
        }
        if is_dead && event.refused_until == 0 && !event.odd {
            problems.push(format!("dead: event {number} (id {id}) was never refused"));
        }
        match accounted.remove(&id) {
            Some(1) => {}
            times => problems.push(format!(
                "ledger: event {number} (id {id}) is accounted for {} times",
                times.unwrap_or(0)
            )),
        }
    }
    if let Some(id) = accounted.keys().next() {
        problems.push(format!("ledger: id {id} is accounted for and was never committed"));
    }
    let window = schedule.plan.window();
    for (epoch, records) in stale.into_iter().filter(|(_, records)| *records > window) {
        problems.push(format!(
            "{records} records of epoch {epoch} came behind a newer one, the window is {window}"
        ));
    }
    let replaced: usize = schedule.relays.iter().map(|relay| relay.replaced + relay.crashes).sum();
    let breaks = schedule.postgres.takeovers.saturating_sub(1)
        + schedule.postgres.crashes
        + schedule.removals
        + replaced;
    let bound = breaks * window + schedule.postgres.lost_marks;
    if duplicates > bound {
        problems.push(format!("{duplicates} duplicates, the bound for {breaks} breaks is {bound}"));
    }
    if !drained {
        problems.push("rows are still pending long after everything healed".to_owned());
    }
    Report {
        problems,
        counts: [
            schedule.truth.events.len(),
            schedule.kafka.log.len(),
            duplicates,
            tables.dead.len(),
            schedule.postgres.crashes,
            schedule.postgres.takeovers,
        ],
        hash,
    }
}
