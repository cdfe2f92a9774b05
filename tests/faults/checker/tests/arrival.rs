//! Lost, phantom, altered; and histories that show nothing.

use std::collections::HashSet;

use super::super::{Delivery, Expectation, Kind, Record, Removed, State};
use super::{S, Story, event};

#[test]
fn a_history_where_all_went_well_holds() {
    let verdict = Story::well(3).holds();
    let counts = verdict.counts;
    assert_eq!((counts.rows, counts.records, counts.duplicates, counts.pending), (3, 3, 0, 0));
}

#[test]
fn a_committed_row_that_is_nowhere_is_lost() {
    let mut story = Story::well(1);
    let id = story.row("a", 2);
    story.state(id, State::Gone);
    story.breaks(&[
        "lost: row 2 (orders, key a, version 2, event 00000000-0000-0000-0000-000000000002) is in no topic; the database says Gone",
        "published without record: row 2",
    ]);
    story.history.table.remove(&id);
    story.breaks(&["the database does not know it"]);
    // Its twin was rolled back.
    story.edit(id).committed = false;
    assert_eq!(story.holds().counts.rolled_back, 1);
}

#[test]
fn dead_and_expired_rows_are_not_lost_but_only_at_most_once_rows_may_be_dropped() {
    let mut story = Story::well(1);
    let id = story.row("a", 2);
    story.state(id, State::Dead);
    assert_eq!(story.holds().counts.dead, 1);
    story.state(id, State::Expired);
    assert_eq!(story.holds().counts.expired, 1);
    story.state(id, State::Dropped);
    story.breaks(&["lost: row 2"]);
    story.edit(id).delivery = Delivery::AtMostOnce;
    assert_eq!(story.holds().counts.at_most_once_lost, 1);
}

#[test]
fn what_was_rolled_back_or_never_inserted_is_a_phantom() {
    let mut story = Story::well(1);
    let id = story.row("a", 2);
    story.deliver(id);
    story.holds();
    story.edit(id).committed = false;
    story.breaks(&["phantom: orders/0@1 is row 2, which was rolled back"]);
    story.edit(id).committed = true;
    let record = story.append(id);
    record.event = Some(event(77));
    story.breaks(&[
        "phantom: orders/0@2 has event 00000000-0000-0000-0000-00000000004d, which nobody inserted",
    ]);
    story.history.records[2].event = None;
    story.breaks(&["phantom: orders/0@2 has no event id"]);
}

#[test]
fn every_part_of_a_record_is_compared() {
    let changed = |change: &dyn Fn(&mut Record), word: &str| {
        let mut story = Story::well(1);
        change(&mut story.history.records[0]);
        let line = format!("altered: {}/0@0 has another {word} than row 1", story.history.records[0].topic);
        story.breaks(&[&line]);
    };
    changed(&|record| record.digest += 1, "Content");
    changed(&|record| record.key = None, "Key");
    changed(&|record| record.key = Some(Vec::new()), "Key");
    changed(&|record| record.topic = "other".into(), "Topic");
    changed(&|record| record.seq = Some(2), "Seq");
    let mut story = Story::well(1);
    story.history.records[0].seq = None;
    story.holds();
}

#[test]
fn an_altered_copy_is_found_as_well() {
    let mut story = Story::well(1);
    story.fault("cut");
    story.takeover(2);
    story.append(1);
    story.holds();
    story.append(1).digest = 0;
    story.breaks(&["altered: orders/0@2 has another Content"]);
}

/// Three records, of which the first two are taken away after somebody has read them.
fn removed() -> Story {
    let mut story = Story::well(3);
    story.history.seen = story.history.records.clone();
    story.history.records.drain(..2);
    story.history.expectation = Expectation::Removed;
    story.history.removed = vec![Removed::Offsets { topic: "orders".into(), partition: 0, offsets: 0..2 }];
    story
}

#[test]
fn removed_records_are_excused_if_a_consumer_that_read_along_had_seen_them() {
    assert_eq!(removed().holds().counts.removed, 2);

    let mut story = removed();
    story.history.expectation = Expectation::Nothing;
    let verdict = story.breaks(&["lost: row 1", "lost: row 2", "published without", "published without"]);
    assert_eq!(verdict.total(Kind::Lost), 2);

    // Nobody has seen the second.
    let mut story = removed();
    story.history.seen.remove(1);
    story.breaks(&["lost: row 2", "published without record: row 2"]);

    // Only a new topic begins again, and it begins at 0.
    let mut story = removed();
    story.history.seen.swap(1, 2);
    story.breaks(&["unsound history: orders/0@1 was read after a later offset"]);

    // One more is missing than was removed.
    let mut story = removed();
    story.history.records.clear();
    story.breaks(&["lost: row 3", "published without record: row 3"]);

    // The fault did not happen.
    let mut story = removed();
    story.history.records = story.history.seen.clone();
    story.breaks(&["still there: orders/0@0", "still there: orders/0@1"]);
    let mut story = removed();
    story.history.records = story.history.seen.clone();
    story.history.removed.clear();
    story.breaks(&["unsound history: records were to be removed"]);
}

#[test]
fn a_topic_that_was_created_again_is_judged_by_events() {
    let mut story = removed();
    let events = HashSet::from([event(1), event(2)]);
    story.history.removed = vec![Removed::Events { topic: "orders".into(), events }];
    // The third is the first of the new topic.
    story.history.records[0].offset = 0;
    story.history.seen[2].offset = 0;
    story.state(3, State::Published { partition: 0, offset: Some(0) });
    assert_eq!(story.holds().counts.removed, 2);
    // An order that was broken before the topic went is still seen.
    story.history.seen.swap(0, 1);
    story.history.seen[0].offset = 0;
    story.history.seen[1].offset = 1;
    story.state(2, State::Published { partition: 0, offset: Some(0) });
    story.state(1, State::Published { partition: 0, offset: Some(1) });
    story.breaks(&[
        "reordered: key a: version 2 (row 2) at orders/0@0 came before version 1 (row 1) at orders/0@1",
    ]);
}

#[test]
fn commits_that_an_asynchronous_promotion_lost_are_excused_there_and_nowhere_else() {
    let mut story = Story::well(2);
    for id in [1, 2] {
        story.edit(id).lost_by_server = true;
        story.history.table.remove(&id);
    }
    story.history.records.remove(0);
    // Another row gets the id and the version of one that is gone.
    let id = story.row("a", 2);
    story.edit(id).id = 2;
    story.append(id).seq = Some(2);
    story.history.table.remove(&id);
    story.state(2, State::Published { partition: 0, offset: Some(2) });
    story.history.records[1].offset = 2;
    story.history.expectation = Expectation::AsynchronousPromotion;
    assert_eq!(story.holds().counts.lost_by_server, 1);
    story.history.expectation = Expectation::Nothing;
    let verdict = story.breaks(&[
        "the server lost committed row 1, which nobody expected",
        "the server lost committed row 2, which nobody expected",
        "lost: row 1",
        "unsound history: key a of orders has version 2 twice",
        "published without record: row 2",
    ]);
    assert_eq!(verdict.total(Kind::Lost), 1);
}

#[test]
fn a_history_that_shows_nothing_is_unsound() {
    Story::new().breaks(&["no row was committed"]);

    let mut story = Story::well(2);
    story.edit(2).event = event(1);
    story.history.records.pop();
    story.history.table.remove(&1);
    let lines = super::super::judge(&story.history).to_string();
    assert!(lines.contains("event 00000000-0000-0000-0000-000000000001 belongs to two rows"), "{lines}");

    let mut story = Story::well(2);
    story.edit(2).id = 1;
    story.history.records[1].seq = Some(1);
    let lines = super::super::judge(&story.history).to_string();
    assert!(lines.contains("two committed rows have id 1"), "{lines}");

    let mut story = Story::well(2);
    story.history.records[1].offset = 0;
    story.state(2, State::Published { partition: 0, offset: Some(0) });
    story.breaks(&["orders/0@0 was read after a later offset"]);

    let mut story = Story::well(1);
    story.fault("backwards");
    story.history.faults[0].to = story.history.faults[0].from - S;
    story.breaks(&["fault backwards was healed before it began"]);
}
