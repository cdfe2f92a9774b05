//! Hand-made histories: for each violation the smallest one that shows it, and its innocent twin.

mod arrival;
mod copies;
mod order;
mod rest;

use std::sync::Arc;

use uuid::Uuid;

use super::{Bounds, Delivery, Fault, History, Micros, Record, Row, State, Takeover, Verdict, judge};

/// A second.
const S: Micros = 1_000_000;

/// A history in the making: a clock that goes on by a second with every event, one topic, one partition.
struct Story {
    history: History,
    now: Micros,
    partition: i32,
    topic: Arc<str>,
    epoch: Option<i64>,
}

impl Story {
    /// A window of two rows; after ten seconds nothing may wait; faults explain copies for five.
    fn new() -> Story {
        let bounds = Bounds { window_rows: 2, pending_after: 10 * S, slack: 5 * S };
        let history = History { bounds, ..History::default() };
        Story { history, now: 0, partition: 0, topic: "orders".into(), epoch: None }
    }

    fn tick(&mut self) -> Micros {
        self.now += S;
        self.history.table_at = self.now + 100 * S;
        self.now
    }

    /// A committed row; its id is its place among all rows, from 1.
    fn row(&mut self, key: &str, version: i64) -> i64 {
        let (at, id) = (self.tick(), self.history.rows.len() as i64 + 1);
        self.history.rows.push(Row {
            id,
            event: event(id),
            topic: Arc::clone(&self.topic),
            key: (!key.is_empty()).then(|| key.into()),
            version,
            digest: id as u64 * 7,
            committed: true,
            at,
            delivery: Delivery::AtLeastOnce,
            lost_by_server: false,
        });
        self.state(id, State::Pending);
        id
    }

    fn edit(&mut self, id: i64) -> &mut Row {
        &mut self.history.rows[id as usize - 1]
    }

    fn state(&mut self, id: i64, state: State) {
        self.history.table.insert(id, state);
    }

    /// Appends a row's record, without a mark.
    fn append(&mut self, id: i64) -> &mut Record {
        let (at, row) = (self.tick(), self.history.rows[id as usize - 1].clone());
        let here = |record: &&Record| record.topic == self.topic && record.partition == self.partition;
        let offset = self.history.records.iter().filter(here).count() as i64;
        self.history.records.push(Record {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            offset,
            key: row.key,
            event: Some(row.event),
            seq: Some(id),
            epoch: self.epoch,
            digest: row.digest,
            at,
        });
        self.history.records.last_mut().expect("it was pushed")
    }

    /// Appends a row's record and marks the row.
    fn deliver(&mut self, id: i64) {
        let Record { partition, offset, .. } = *self.append(id);
        self.state(id, State::Published { partition, offset: Some(offset) });
    }

    /// Something breaks for a second.
    fn fault(&mut self, name: &str) {
        let (from, to) = (self.tick(), self.tick());
        self.history.faults.push(Fault::new(name, from, to));
    }

    fn takeover(&mut self, epoch: i64) {
        let at = self.tick();
        self.history.takeovers.push(Takeover { epoch, at });
    }

    /// Rows of key `a`, versions from 1, each delivered.
    fn well(rows: i64) -> Story {
        let mut story = Story::new();
        for version in 1..=rows {
            let id = story.row("a", version);
            story.deliver(id);
        }
        story
    }

    #[track_caller]
    fn holds(&self) -> Verdict {
        let verdict = judge(&self.history);
        assert!(verdict.is_clean(), "{verdict}");
        verdict
    }

    /// The findings are these, and no others: each line contains its text.
    #[track_caller]
    fn breaks(&self, expected: &[&str]) -> Verdict {
        let verdict = judge(&self.history);
        let lines: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.contains(expected), "{line:?} does not say {expected:?}");
            assert!(!line.contains('\n'));
        }
        verdict
    }
}

fn event(id: i64) -> Uuid {
    Uuid::from_u128(id as u128)
}
