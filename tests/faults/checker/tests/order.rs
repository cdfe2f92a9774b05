//! Order per key: by first appearance, across retries, in one partition.

use super::super::{Delivery, State};
use super::Story;

/// Rows 1, 2, 3 are versions 1, 2, 3 of key `a`; their records come in this order, with a fault in between that
/// explains copies.
fn sequence(ids: &[i64]) -> Story {
    let mut story = Story::new();
    for version in 1..=3 {
        story.row("a", version);
    }
    story.fault("broker killed");
    story.history.bounds.slack = 100_000_000;
    story.history.replacements = vec![story.now; 5];
    for id in ids {
        if story.history.table[id] == State::Pending {
            story.deliver(*id);
        } else {
            story.append(*id);
        }
    }
    story
}

#[test]
fn first_appearances_come_in_the_order_of_turns() {
    sequence(&[1, 2, 3]).holds();
    sequence(&[2, 1, 3]).breaks(&[
        "reordered: key a: version 2 (row 2) at orders/0@0 came before version 1 (row 1) at orders/0@1",
    ]);
    sequence(&[3, 1, 2]).breaks(&["version 1 (row 1)", "version 2 (row 2)"]);
}

#[test]
fn copies_do_not_break_the_order_but_a_first_record_behind_a_later_one_does() {
    sequence(&[1, 2, 1, 2, 3]).holds();
    sequence(&[1, 2, 3, 2, 3, 1]).holds();
    // A retry that lets a later row of the key pass: 3 came, then 2, then both again in order.
    sequence(&[1, 3, 2, 3])
        .breaks(&["version 3 (row 3) at orders/0@1 came before version 2 (row 2) at orders/0@2"]);
}

#[test]
fn a_row_that_still_waits_has_been_passed_already() {
    let mut story = sequence(&[1, 3]);
    story.state(2, State::Deferred);
    story.history.bounds.pending_after = 1_000_000_000;
    story.history.table_at = story.now;
    story.breaks(&[
        "version 3 (row 3) at orders/0@1 came before version 2 (row 2), which still waits",
        "too early",
    ]);
    // Its twin died, so that the later one was free.
    story.state(2, State::Dead);
    story.holds();
    // At-most-once rows may be given up at any time.
    story.state(2, State::Pending);
    story.edit(2).delivery = Delivery::AtMostOnce;
    story.breaks(&["too early"]);
}

#[test]
fn at_most_once_rows_leave_gaps_but_keep_their_order() {
    let once = |ids: &[i64]| {
        let mut story = sequence(ids);
        for id in 1..=3 {
            story.edit(id).delivery = Delivery::AtMostOnce;
            if story.history.table[&id] == State::Pending {
                story.state(id, State::Dropped);
            }
        }
        story
    };
    assert_eq!(once(&[1, 3]).holds().counts.at_most_once_lost, 1);
    once(&[3, 1]).breaks(&["reordered: key a"]);
    // One that counts as lost has left the order, although it came: its request was given up, and read later.
    let mut late = once(&[3, 1]);
    late.state(1, State::Dropped);
    late.holds();
    late.edit(1).delivery = Delivery::AtLeastOnce;
    late.breaks(&["reordered: key a"]);
}

#[test]
fn other_keys_other_topics_and_rows_without_key_have_no_order() {
    let mut story = sequence(&[3, 2, 1]);
    story.breaks(&["reordered", "reordered"]);
    for (id, key) in [(1, "x"), (2, "y"), (3, "z")] {
        story.edit(id).key = Some(key.into());
        story.history.records[3 - id as usize].key = Some(key.into());
    }
    story.holds();
    for id in 1..=3 {
        story.edit(id).key = None;
        story.history.records[3 - id as usize].key = None;
    }
    story.holds();

    let mut story = sequence(&[2, 1, 3]);
    story.history.unordered.insert("orders".into());
    story.holds();
    let mut story = sequence(&[2, 1, 3]);
    story.history.requeued.insert(super::event(1));
    story.holds();

    let mut story = sequence(&[2, 3]);
    story.edit(1).topic = "other".into();
    story.topic = "other".into();
    story.deliver(1);
    story.holds();
}

#[test]
fn an_empty_key_is_a_key() {
    let mut story = sequence(&[2, 1, 3]);
    for id in 1..=3 {
        story.edit(id).key = Some(Vec::new());
        story.history.records[id as usize - 1].key = Some(Vec::new());
    }
    story.breaks(&["reordered: key "]);
}

#[test]
fn a_key_in_two_partitions_is_told_once() {
    let mut story = sequence(&[1]);
    story.partition = 1;
    story.deliver(2);
    story.partition = 0;
    story.deliver(3);
    story.breaks(&["scattered: key a of orders is in partitions 0 and 1"]);
}

#[test]
fn the_same_version_twice_is_the_harnesss_fault() {
    let mut story = sequence(&[1, 2, 3]);
    story.edit(3).version = 2;
    story.breaks(&["unsound history: key a of orders has version 2 twice"]);
}
