//! Counts what was read and what became of rows, summed up per topic first: the metrics are touched per batch, not per row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::KnownTopics;
use crate::message::OutboxRow;
use crate::metrics::{AttemptResult, DeadReason, DeferReason, Outcome};
use crate::relay::batch::{Batch, DueBatch, Fate};
use crate::store::settle::{PARKED, Reason};

impl KnownTopics {
    /// Counts rows read for the first time.
    pub fn count_read(&mut self, rows: &[OutboxRow]) {
        let now = Instant::now();
        for run in rows.chunk_by(|a, b| Arc::ptr_eq(&a.topic, &b.topic)) {
            let topic = self.get(&run[0].topic);
            topic.read_at = Some(now);
            topic.metrics.read(run.len() as u64);
        }
    }

    /// Counts what became of a page.
    pub fn count_batch(&mut self, batch: &Batch) {
        self.count(batch.rows.iter().zip(&batch.fates));
    }

    /// Counts what became of due rows.
    pub fn count_due(&mut self, due: &DueBatch) {
        self.count(due.rows.iter().map(|due| &due.row).zip(&due.fates));
    }

    /// Sums up per topic first: the metrics are touched per batch, not per row.
    fn count<'r>(&mut self, rows: impl Iterator<Item = (&'r OutboxRow, &'r Fate)>) {
        let mut sums: HashMap<&Arc<str>, Sums> = HashMap::new();
        for (row, fate) in rows {
            let sum = sums.entry(&row.topic).or_default();
            match fate {
                Fate::Published(_) => {
                    sum.delivered += 1;
                    sum.bytes += row.payload.as_ref().map_or(0, |p| p.len() as u64)
                        + row.key.as_ref().map_or(0, |k| k.len() as u64);
                }
                Fate::Expired => sum.expired += 1,
                Fate::PutOff(deferral) => {
                    sum.deferred[deferral.reason as usize] += 1;
                    sum.parked += u64::from(deferral.delay_ms == Some(PARKED));
                }
                Fate::Dead(death) => sum.dead.push(death.class),
                // They are counted when their try is over.
                Fate::Dropped => {}
                Fate::Waiting | Fate::InFlight | Fate::Returned => {}
            }
        }
        for (name, sum) in sums {
            let topic = self.get(name);
            topic.metrics.messages(Outcome::Delivered, sum.delivered);
            topic.metrics.attempts(AttemptResult::Ack, sum.delivered);
            topic.metrics.published_bytes(sum.bytes);
            topic.metrics.messages(Outcome::Expired, sum.expired);
            topic.metrics.messages(Outcome::DeadLettered, sum.dead.len() as u64);
            for class in sum.dead {
                topic.metrics.dead_lettered(DeadReason::named(class), 1);
            }
            topic.parked += sum.parked;
            topic.metrics.deferred(DeferReason::Retry, sum.deferred[Reason::Retry as usize]);
            topic.metrics.deferred(DeferReason::Behind, sum.deferred[Reason::Behind as usize]);
            topic.metrics.deferred(DeferReason::Scheduled, sum.deferred[Reason::Scheduled as usize]);
            topic.delivery.flush();
        }
    }
}

#[derive(Default)]
struct Sums {
    delivered: u64,
    bytes: u64,
    expired: u64,
    deferred: [u64; 3],
    parked: u64,
    dead: Vec<&'static str>,
}
