//! The tables, the metrics, and how large a history may be.

use std::sync::Arc;

use super::super::{Delivery, State};
use super::{S, Story};

#[test]
fn a_mark_without_its_record_is_found() {
    let mut story = Story::well(2);
    story.state(2, State::Published { partition: 0, offset: None });
    story.holds();
    story.state(2, State::Gone);
    story.holds();
    story.state(2, State::Published { partition: 1, offset: None });
    story.breaks(&["published without record: row 2 (event 00000000-0000-0000-0000-000000000002) is Published { partition: 1, offset: None }, but its record is at orders/0@1"]);
    story.state(2, State::Published { partition: 0, offset: Some(0) });
    story.breaks(&["but its record is at orders/0@1"]);
    // Marked before the confirm, and never sent.
    story.state(2, State::Published { partition: 0, offset: Some(1) });
    story.history.records.pop();
    story.breaks(&["lost: row 2", "published without record: row 2"]);
}

#[test]
fn a_receipt_may_lead_to_any_copy() {
    let mut story = Story::well(2);
    story.fault("cut");
    story.takeover(2);
    story.deliver(2);
    story.holds();
    story.state(2, State::Published { partition: 0, offset: Some(1) });
    story.holds();
    story.state(2, State::Published { partition: 0, offset: Some(3) });
    story.breaks(&["published without record: row 2"]);
}

#[test]
fn an_at_most_once_row_that_is_marked_is_there() {
    let mut story = Story::well(2);
    story.edit(2).delivery = Delivery::AtMostOnce;
    story.holds();
    story.history.records.pop();
    story.breaks(&["published without record: row 2"]);
    story.state(2, State::Dropped);
    story.holds();
}

#[test]
fn a_row_that_was_passed_by_is_lost_at_once_and_not_merely_late() {
    let mut story = Story::well(1);
    let id = story.row("a", 2);
    story.state(id, State::PassedBy);
    story.fault("cut");
    story.history.table_at = story.history.faults[0].to;
    story.breaks(&["lost: row 2", "unaccounted: row 2 (event 00000000-0000-0000-0000-000000000002) was passed by and no settlement names it, and no topic has it"]);
    // It came, and its mark went missing.
    story.append(id);
    story.breaks(&["no settlement names it, its record is at orders/0@1"]);
    // Those have to be settled before they are sent.
    story.history.records.pop();
    story.edit(id).delivery = Delivery::AtMostOnce;
    story.breaks(&["unaccounted: row 2"]);
}

#[test]
fn a_row_that_waits_long_after_the_last_heal_is_found() {
    for state in [State::Pending, State::Deferred] {
        let mut story = Story::well(1);
        let id = story.row("a", 2);
        story.state(id, state);
        story.fault("cut");
        let healed = story.history.faults[0].to;
        story.history.table_at = healed + 10 * S;
        story.breaks(&[&format!("is {state:?} 10.000 s after the last heal and its commit")]);
        // Too early to say is not well either.
        story.history.table_at -= 1;
        let verdict = story.breaks(&["the tables were read too early to say what becomes of 1 waiting rows"]);
        assert_eq!(verdict.counts.pending, 1);
        // Its record is there, and the mark does not come.
        story.history.table_at += 1;
        story.append(id);
        story.breaks(&["pending: row 2"]);
    }
    // A row that was committed after the heal has as long.
    let mut story = Story::well(1);
    story.fault("cut");
    let id = story.row("a", 2);
    story.history.table_at = story.history.rows[id as usize - 1].at + 10 * S - 1;
    story.breaks(&["too early"]);
}

/// A series' value and the bounds that it breaks.
#[track_caller]
fn disagrees(story: &Story, name: &str, labels: &[(&str, &str)], value: f64, says: &str) {
    let mut history = story.history.clone();
    history.metrics.add(name, labels, value);
    let story = Story { history, topic: Arc::clone(&story.topic), ..*story };
    if says.is_empty() {
        story.holds();
    } else {
        story.breaks(&[&format!("metrics disagree: {name}{{")]);
        story.breaks(&[says]);
    }
}

#[test]
fn counts_are_exact_where_nothing_went_wrong() {
    let mut story = Story::well(5);
    story.takeover(1);
    story.history.metrics.complete = true;
    let (messages, delivered) = ("outbox_messages_total", [("topic", "orders"), ("outcome", "delivered")]);
    for (name, labels) in [
        (messages, &delivered[..]),
        ("outbox_attempts_total", &[("topic", "orders"), ("result", "ack")]),
        ("outbox_read_messages_total", &[("topic", "orders")]),
    ] {
        disagrees(&story, name, labels, 5.0, "");
        disagrees(&story, name, labels, 4.0, "is 4, the truth is 5");
        disagrees(&story, name, labels, 6.0, "is 6, the truth is 5");
    }
    for (outcome, state) in [("dead_lettered", State::Dead), ("expired", State::Expired)] {
        let id = story.row("b", 1);
        story.state(id, state);
        let labels = [("topic", "orders"), ("outcome", outcome)];
        disagrees(&story, messages, &labels, 1.0, "");
        disagrees(&story, messages, &labels, 0.0, "is 0, the truth is 1");
        disagrees(&story, messages, &labels, 2.0, "is 2, the truth is 1");
    }
    let id = story.row("c", 1);
    story.state(id, State::Dropped);
    story.edit(id).delivery = Delivery::AtMostOnce;
    let dropped = [("topic", "orders"), ("outcome", "dropped")];
    disagrees(&story, messages, &dropped, 1.0, "");
    disagrees(&story, messages, &dropped, 2.0, "is 2, the truth is 1");
    disagrees(&story, "outbox_leader_transitions_total", &[], 1.0, "");
    disagrees(&story, "outbox_leader_transitions_total", &[], 0.0, "is 0, the truth is 1");
    disagrees(&story, "outbox_loss_incidents_total", &[], 1.0, "is 1, the truth is 0");
    disagrees(&story, "outbox_unaccounted_messages", &[], 1.0, "is 1, the truth is 0");
    let laned = [("state", "laned")];
    disagrees(&story, "outbox_backlog_messages", &laned, 0.0, "");
    disagrees(&story, "outbox_backlog_messages", &laned, 2.0, "is 2, the truth is 0");
}

#[test]
fn killed_processes_take_their_counts_with_them() {
    let story = Story::well(5);
    let delivered = [("topic", "orders"), ("outcome", "delivered")];
    disagrees(&story, "outbox_messages_total", &delivered, 1.0, "");
    disagrees(&story, "outbox_messages_total", &delivered, 6.0, "is 6, the truth allows 0 to 5");
}

#[test]
fn after_a_takeover_the_window_may_count_twice() {
    let mut story = Story::well(5);
    story.takeover(1);
    story.fault("frozen");
    story.takeover(2);
    story.append(5);
    let id = story.row("b", 1);
    story.state(id, State::Dead);
    story.history.metrics.complete = true;
    let outcome = |outcome| [("topic", "orders"), ("outcome", outcome)];
    let messages = "outbox_messages_total";
    // More confirms than records cannot be: somebody takes something else for one.
    disagrees(&story, messages, &outcome("delivered"), 6.0, "");
    disagrees(&story, messages, &outcome("delivered"), 7.0, "is 7, the truth allows 5 to 6");
    disagrees(&story, messages, &outcome("delivered"), 4.0, "is 4, the truth allows 5 to 6");
    disagrees(&story, messages, &outcome("dead_lettered"), 3.0, "");
    disagrees(&story, messages, &outcome("dead_lettered"), 4.0, "is 4, the truth allows 1 to 3");
    disagrees(&story, "outbox_read_messages_total", &[("topic", "orders")], 60.0, "");
    disagrees(&story, "outbox_read_messages_total", &[("topic", "orders")], 5.0, "is 5, the truth allows 6");
}

#[test]
fn a_large_history_is_judged_in_one_walk() {
    // 200,000 rows of 1,000 keys, each with a copy in a fault: a check with a quadratic step would take hours.
    const ROWS: i64 = 200_000;
    let mut story = Story::new();
    story.history.bounds.window_rows = ROWS as u64;
    let keys = 1_000;
    for id in 0..ROWS {
        story.row(&format!("key-{}", id % keys), id / keys + 1);
    }
    story.fault("killed");
    story.takeover(2);
    let at = story.now;
    let rows = std::mem::take(&mut story.history.rows);
    for copy in 0..2 {
        for row in &rows {
            story.history.records.push(super::Record {
                topic: Arc::clone(&row.topic),
                partition: 0,
                offset: copy * ROWS + row.id - 1,
                key: row.key.clone(),
                event: Some(row.event),
                seq: Some(row.id),
                epoch: Some(copy + 1),
                digest: row.digest,
                at,
            });
            story.state(row.id, State::Published { partition: 0, offset: Some(row.id - 1) });
        }
    }
    story.history.rows = rows;
    assert_eq!(story.holds().counts.duplicates, ROWS as u64);
}
