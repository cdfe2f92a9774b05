//! The sender's copies of dead letters for the topics that get them.
//!
//! They go through the second producer, one protocol batch each, outside of every order. A letter stays where it is whatever
//! becomes of its copy; one that fails is tried again later, one that is refused for good is given up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Sender, now_us};
use crate::kafka::{NotTaken, Refusal};
use crate::message::OutboxRow;
use crate::receipt::Receipt;
use crate::relay::batch::Tag;
use crate::relay::remarks::{Remark, Remarks};
use crate::relay::{Decided, Written};
use crate::trace::{End, Why};
use crate::verdict::{Failure, Route, scrub};

/// Copies on their way.
pub(super) struct Copies {
    no: u64,
    rows: Vec<OutboxRow>,
    begun: Instant,
    open: usize,
    /// Letters whose copy was confirmed or given up.
    over: Vec<i64>,
    failed: oneshot::Sender<HashSet<Arc<str>>>,
    settled: oneshot::Sender<Written>,
}

impl Sender<'_> {
    /// Hands them all over at once; there are few.
    pub(super) fn take_copies(
        &mut self,
        rows: Vec<OutboxRow>,
        failed: oneshot::Sender<HashSet<Arc<str>>>,
        settled: oneshot::Sender<Written>,
    ) {
        self.next_no += 1;
        let no = self.next_no;
        let begun = Instant::now();
        let mut copies = Copies { no, rows, begun, open: 0, over: Vec::new(), failed, settled };
        let now_us = now_us() + self.clock_us;
        for (index, row) in copies.rows.iter().enumerate() {
            if row.is_oversize() {
                give_up(&mut copies.over, &mut self.remarks, row, "its payload is above relay.max_row_bytes");
                continue;
            }
            let opaque = Tag { route: Route::Copy, no, index }.encode();
            match self.publisher.hand_over(Route::Copy, row, &self.term.stamp, now_us, opaque) {
                Ok(()) => copies.open += 1,
                Err(NotTaken::Refused(refusal)) if is_final(&refusal) => {
                    give_up(&mut copies.over, &mut self.remarks, row, &refusal.text);
                }
                Err(_) => {}
            }
        }
        self.copies = Some(copies);
        self.end_copies();
    }

    /// Takes the report of a copy.
    pub(super) fn take_copy_report(&mut self, tag: Tag, result: Result<Receipt, Box<Refusal>>) {
        let Some(copies) = self.copies.as_mut().filter(|copies| copies.no == tag.no) else { return };
        copies.open -= 1;
        let row = &copies.rows[tag.index];
        if let Some(traces) = &self.term.traces {
            let error = result.as_ref().err().map(|refusal| scrub(&refusal.text)).unwrap_or_default();
            let end = match &result {
                Ok(receipt) => End::Confirmed(*receipt),
                Err(refusal) => End::Failed { class: refusal.class, error: &error, dead: false },
            };
            traces.alone(self.term.epoch, copies.begun, row, end, Why::Copy, 1);
        }
        match result {
            Ok(_) => copies.over.push(row.id),
            Err(refusal) if is_final(&refusal) => {
                give_up(&mut copies.over, &mut self.remarks, row, &refusal.text);
            }
            Err(refusal) => {
                if let Some(alike) = self.remarks.make(&row.topic, Remark::CopyFailed, Instant::now()) {
                    tracing::warn!(
                        id = row.id,
                        topic = &*row.topic,
                        reason = refusal.text,
                        alike,
                        "copy of a dead letter failed, it is tried again"
                    );
                }
            }
        }
        self.end_copies();
    }

    /// The second producer has ended: what it had is tried again.
    pub(super) fn forget_copies(&mut self) {
        if let Some(copies) = &mut self.copies {
            copies.open = 0;
        }
        self.end_copies();
    }

    fn end_copies(&mut self) {
        let Some(copies) = self.copies.take_if(|copies| copies.open == 0) else { return };
        let mut decided = Decided { settled: Some(copies.settled), ..Decided::default() };
        let failed = copies.rows.into_iter().filter(|row| !copies.over.contains(&row.id));
        let _ = copies.failed.send(failed.map(|row| row.topic).collect());
        decided.outcome.rare.copied = copies.over;
        self.extra.push_back(decided);
    }
}

fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal.failure, Failure::Refused | Failure::TooLarge)
}

fn give_up(over: &mut Vec<i64>, remarks: &mut Remarks, row: &OutboxRow, reason: &str) {
    over.push(row.id);
    if let Some(alike) = remarks.make(&row.topic, Remark::CopyRefused, Instant::now()) {
        tracing::error!(
            id = row.id,
            topic = &*row.topic,
            reason,
            alike,
            "copy of a dead letter is refused, the letter itself stays in outbox.dead_letter"
        );
    }
}
