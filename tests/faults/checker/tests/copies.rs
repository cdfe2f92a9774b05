//! Copies and stale epochs.

use super::super::{Delivery, Fault, Kind};
use super::{S, Story};

/// Five rows are delivered, then something breaks and a new leader comes.
fn broken() -> Story {
    let mut story = Story::well(5);
    story.fault("killed");
    story.takeover(2);
    story
}

#[test]
fn without_a_fault_there_is_no_copy() {
    let mut story = Story::well(2);
    story.append(2);
    story.breaks(&[
        "duplicate outside of every fault: row 2 (event 00000000-0000-0000-0000-000000000002) is at orders/0@1, again at orders/0@2 after 5.000 s",
    ]);
    // A takeover alone is no fault.
    let mut story = Story::well(2);
    story.takeover(2);
    story.append(2);
    story.breaks(&["duplicate outside"]);
}

#[test]
fn a_fault_explains_copies_from_its_beginning_to_its_heal_and_the_slack() {
    let mut story = broken();
    story.append(5);
    assert_eq!(story.holds().counts.duplicates, 1);
    let Fault { from, to, .. } = story.history.faults[0];
    let slack = story.history.bounds.slack;
    let at = |at, holds| {
        let mut story = broken();
        story.append(5).at = at;
        if holds {
            story.holds()
        } else {
            story.breaks(&["duplicate outside"])
        };
    };
    at(to + slack, true);
    at(to + slack + 1, false);
    // Kafka rounds down to milliseconds.
    at(from - 1_000, true);
    at(from - 1_001, false);
}

#[test]
fn no_more_than_a_window_comes_again_for_each_takeover_and_each_replaced_producer() {
    let mut story = broken();
    story.append(4);
    story.append(5);
    assert_eq!(story.holds().intervals[0].copies, 2);
    story.append(5);
    story.breaks(&["too many duplicates: 3, at most 2, from 10.999 s to 17.000 s (killed)"]);

    // Each excuse adds its own.
    let mut replaced = broken();
    replaced.history.replacements.push(replaced.now);
    let mut undone = broken();
    undone.history.faults[0] = undone.history.faults[0].clone().undoing(1);
    for (mut story, bound) in [(replaced, 4), (undone, 3)] {
        let at = story.now;
        for _ in 0..bound {
            story.append(5).at = at;
        }
        story.holds();
        story.append(5).at = at;
        story.breaks(&[&format!("too many duplicates: {}, at most {bound}", bound + 1)]);
    }
}

#[test]
fn a_window_that_was_repeated_in_one_fault_excuses_nothing_in_another() {
    let mut story = broken();
    story.now += 100 * S;
    story.fault("cut");
    story.append(5);
    let verdict = story.breaks(&["too many duplicates: 1, at most 0"]);
    assert_eq!(verdict.intervals.len(), 2);
    // Faults that touch are one: nobody can say which of them it was.
    let first = story.history.faults[0].clone();
    story.history.faults.push(Fault::new("between", first.to, story.now));
    let verdict = story.holds();
    assert_eq!(verdict.intervals.len(), 1);
    assert_eq!((&*verdict.intervals[0].faults, verdict.intervals[0].bound), ("killed, between, cut", 2));
    story.history.faults[1].undone = 3;
    assert_eq!(story.holds().intervals[0].bound, 5);
}

#[test]
fn a_long_fault_hides_no_short_one_behind_it() {
    let mut story = broken();
    let Fault { from, .. } = story.history.faults[0];
    story.history.faults.push(Fault::new("long", from - S, story.now + 50 * S));
    story.append(5).at = story.now + 40 * S;
    assert_eq!(story.holds().intervals.len(), 1);
}

#[test]
fn a_record_of_an_at_most_once_row_never_comes_again() {
    let mut story = broken();
    story.append(5);
    story.edit(5).delivery = Delivery::AtMostOnce;
    let verdict = story.breaks(&["copy of an at-most-once row: row 5"]);
    assert_eq!(verdict.counts.duplicates, 0);
    story.history.requeued.insert(super::event(5));
    story.holds();
}

#[test]
fn a_deposed_leader_emits_one_window_at_most() {
    // Epoch 1 sends rows 1 to 3, epoch 2 row 4, then epoch 1 goes on.
    let stale = |records: usize| {
        let mut story = Story::new();
        for _ in 1..=8 {
            story.row("", 0);
        }
        for (id, epoch) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
            story.epoch = Some(epoch);
            story.deliver(id);
        }
        story.epoch = Some(1);
        for id in 5..5 + records as i64 {
            story.deliver(id);
        }
        story.epoch = Some(2);
        for id in 5 + records as i64..=8 {
            story.deliver(id);
        }
        story
    };
    stale(0).holds();
    stale(2).holds();
    stale(3).breaks(&["stale epoch: orders/0 has 3 records of epoch 1 after the first of 2, at most 2"]);

    // Two frozen leaders have a window each, and every partition is judged for itself.
    let mut story = stale(2);
    story.history.records[7].epoch = Some(3);
    let mut ids = Vec::new();
    for epoch in [2, 2] {
        ids.push(story.row("", 0));
        story.epoch = Some(epoch);
        story.deliver(*ids.last().expect("a row"));
    }
    story.holds();
    let id = story.row("", 0);
    story.partition = 1;
    story.deliver(id);
    story.holds();
    story.partition = 0;
    let id = story.row("", 0);
    story.deliver(id);
    story.breaks(&["stale epoch: orders/0 has 3 records of epoch 2 after the first of 3, at most 2"]);
    // Records that do not name their epoch say nothing.
    story.history.records.iter_mut().for_each(|record| record.epoch = None);
    story.holds();
}

#[test]
fn all_are_counted_and_the_first_are_kept() {
    let mut story = Story::well(1);
    for _ in 0..50 {
        story.append(1);
    }
    let verdict = super::judge(&story.history);
    assert_eq!((verdict.total(Kind::DuplicateOutside), verdict.findings.len()), (50, 20));
    let text = verdict.to_string();
    assert!(
        text.starts_with("broken: 1 rows, 51 records") && text.contains("DuplicateOutside: 50"),
        "{text}"
    );
    assert!(text.ends_with("  and 30 more\n"), "{text}");
}
