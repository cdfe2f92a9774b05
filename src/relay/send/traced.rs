//! The sender's account for traces: which tries went as they usually do, and which have something to tell of their own.
//!
//! Looks at what has been decided and decides nothing. Without traces it is one question a batch.

use std::collections::HashMap;
use std::time::Instant;

use super::{Sender, now_us};
use crate::message::{Fitness, OutboxRow, judge};
use crate::receipt::Receipt;
use crate::relay::batch::{Batch, DueBatch, Fate};
use crate::relay::topics::{Standing, facts};
use crate::store::deferred::DueRow;
use crate::store::settle::{Attempt, Reason};
use crate::trace::{End, Why};

impl Sender<'_> {
    /// So many of the next rows of a page may have been with the leader before us, which has not said what became of them: as many
    /// as a window holds.
    pub(super) fn may_repeat(&mut self, rows: usize) -> usize {
        let repeats = self.repeats.min(rows);
        self.repeats -= repeats;
        repeats
    }

    /// What became of a page.
    pub(super) fn trace_page(&self, batch: &Batch) {
        let Some(traces) = &self.term.traces else { return };
        let (epoch, begun) = (self.term.epoch, batch.begun);
        // What was written later has been with nobody else.
        let taken_us = now_us() + self.clock_us - self.taken_at.elapsed().as_micros() as i64;
        let why = |index: usize| match &batch.rows[index] {
            _ if batch.resent.contains(&index) => Why::ProducerReplaced,
            row if index < batch.repeats && row.created_us < taken_us => Why::Takeover,
            _ => Why::First,
        };
        let confirmed = || {
            let rows = batch.rows.iter().zip(&batch.fates).enumerate();
            rows.filter_map(|(index, (row, fate))| match fate {
                Fate::Published(receipt) => Some((index, row, *receipt)),
                _ => None,
            })
        };
        if batch.resent.is_empty() && batch.repeats == 0 {
            traces.together(epoch, begun, confirmed().map(|(_, row, receipt)| (row, receipt)));
        } else {
            let usual = confirmed().filter(|(index, ..)| why(*index) == Why::First);
            traces.together(epoch, begun, usual.map(|(_, row, receipt)| (row, receipt)));
            for (index, row, receipt) in confirmed().filter(|(index, ..)| why(*index) != Why::First) {
                traces.alone(epoch, begun, row, End::Confirmed(receipt), why(index), 1);
            }
        }
        for (index, attempt) in failed(&batch.attempts, batch.rows.iter()) {
            let dead = matches!(batch.fates[index], Fate::Dead(_));
            traces.alone(epoch, begun, &batch.rows[index], end(attempt, dead), why(index), 1);
        }
    }

    /// What became of due rows. Those that merely waited are nothing special.
    pub(super) fn trace_due(&mut self, due: &DueBatch) {
        let Some(traces) = self.term.traces.clone() else { return };
        let (epoch, begun) = (self.term.epoch, due.begun);
        let whys: Vec<Why> = due.rows.iter().map(|row| self.why_of_due(row)).collect();
        let why = |index: usize| whys[index];
        let confirmed = || {
            let rows = due.rows.iter().zip(&due.fates).enumerate();
            rows.filter_map(|(index, (due, fate))| match fate {
                Fate::Published(receipt) => Some((index, due, *receipt)),
                _ => None,
            })
        };
        let usual = confirmed().filter(|(index, ..)| why(*index) == Why::First);
        traces.together(epoch, begun, usual.map(|(_, due, receipt)| (&due.row, receipt)));
        for (index, due, receipt) in confirmed().filter(|(index, ..)| why(*index) != Why::First) {
            traces.alone(epoch, begun, &due.row, End::Confirmed(receipt), why(index), due.tries + 1);
        }
        for (index, attempt) in failed(&due.attempts, due.rows.iter().map(|due| &due.row)) {
            let dead = matches!(due.fates[index], Fate::Dead(_));
            let row = &due.rows[index];
            traces.alone(epoch, begun, &row.row, end(attempt, dead), why(index), row.tries + 1);
        }
    }

    fn why_of_due(&mut self, due: &DueRow) -> Why {
        match due {
            _ if due.replay.is_some() => Why::Replay,
            _ if due.tries > 0 => Why::Retry,
            // In company it may have failed; one that never goes in company was put off before its first try.
            _ if due.reason == Reason::Retry && !self.goes_alone(&due.row) => Why::Retry,
            _ => Why::First,
        }
    }

    fn goes_alone(&mut self, row: &OutboxRow) -> bool {
        let (compressed, batch_size) = (self.publisher.compresses(), self.publisher.batch_size());
        let topic = self.topics.get(&row.topic);
        match &topic.standing {
            Standing::Ready(settings) => {
                judge(row, &facts(settings, topic.narrow, compressed, batch_size)) == Fitness::Suspect
            }
            _ => false,
        }
    }

    /// What became of rows that were tried once, and are lost unless they were confirmed.
    pub(super) fn trace_once(&self, begun: Instant, rows: &[OutboxRow], confirmed: &[(i64, Receipt)]) {
        const LOST: &str = "not confirmed, and of an at-most-once topic";
        let Some(traces) = &self.term.traces else { return };
        let confirmed: HashMap<i64, Receipt> = confirmed.iter().copied().collect();
        let arrived = rows.iter().filter_map(|row| Some((row, *confirmed.get(&row.id)?)));
        traces.together(self.term.epoch, begun, arrived);
        for row in rows.iter().filter(|row| !confirmed.contains_key(&row.id)) {
            let lost = End::Failed { class: "lost", error: LOST, dead: false };
            traces.alone(self.term.epoch, begun, row, lost, Why::First, 1);
        }
    }
}

/// The rows of failed attempts, by their index.
fn failed<'a, 'r>(
    attempts: &'a [Attempt],
    rows: impl Iterator<Item = &'r OutboxRow>,
) -> impl Iterator<Item = (usize, &'a Attempt)> {
    let places: HashMap<i64, usize> = match attempts {
        [] => HashMap::new(),
        _ => rows.enumerate().map(|(index, row)| (row.id, index)).collect(),
    };
    attempts.iter().filter_map(move |attempt| Some((*places.get(&attempt.id)?, attempt)))
}

fn end(attempt: &Attempt, dead: bool) -> End<'_> {
    End::Failed { class: attempt.class, error: &attempt.error, dead }
}
