//! Reconciliation: is everything that was committed really in Kafka?
//!
//! ```text
//!   outbox.message ─rows──> judge <──records── topics
//!   outbox.ledger ─receipts─> │
//!                             v
//!                           report
//! ```
//!
//! A window of ids is walked in stretches, so that memory is bounded however long the window is. Of each stretch the rows are read,
//! then what settlements say of them, then the receipts; then the places that these lead to are read in the topics, each place once
//! for each stretch that it belongs to; and [`judge`] says what follows. The order matters: what the position had passed when the rows
//! were read is named by a settlement that the next statement sees, so a busy outbox is not taken for a lossy one.
//!
//! It changes nothing and asks nothing of the leader: whoever may look may run it, as often as they like.

pub mod judge;
pub mod report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::judge::{Judge, Seen, Stranger};
pub use self::report::Report;
use crate::kafka::{Auditor, Found, KafkaError, Stretch, TopicState, Topics};
use crate::store::reconcile::{self as store, hash_of};
use crate::store::{Session, StoreError};

/// Rows of one stretch: a few MB with everything that is known of them.
const STRETCH: i64 = 20_000;

/// Records of other rows that are looked up together.
const STRANGERS: usize = 20_000;

/// Why it could not be finished. What was found until then is void.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Kafka does not answer, or the topic may not be read.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// A window of ids, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first id.
    pub from: i64,
    /// The last one.
    pub until: i64,
}

/// What a reconciliation works with.
pub struct Reconcile<'r> {
    /// Reads the rows.
    pub session: &'r mut Session,
    /// Reads the topics.
    pub auditor: Auditor,
    /// Knows which topics are compacted.
    pub topics: Topics,
    /// Payloads are compared as well.
    pub payloads: bool,
}

impl std::fmt::Debug for Reconcile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconcile").finish_non_exhaustive()
    }
}

/// Stretches of a partition's offsets, both ends included, in ascending order.
type Offsets = Vec<(i64, i64)>;

/// What a walk remembers from one stretch to the next.
#[derive(Default)]
struct Walk {
    compacted: HashMap<Arc<str>, Option<bool>>,
    /// Stretches of partitions that have been read, in ascending order: what is there has been counted.
    read: HashMap<(Arc<str>, i32), Offsets>,
}

impl Reconcile<'_> {
    /// Compares every row of the window with the topics. `progress` is told, after each stretch, up to which id has been looked.
    pub async fn run(
        &mut self,
        window: Window,
        mut progress: impl FnMut(i64),
    ) -> Result<Report, ReconcileError> {
        let Window { from, until } = window;
        let mut report =
            Report { from_id: from, until_id: until, compared_payloads: self.payloads, ..Report::default() };
        let mut walk = Walk::default();
        let mut after = from - 1;
        while after < until {
            let rows = store::rows(self.session, after, until, STRETCH, self.payloads).await?;
            let Some(last) = rows.last().map(|row| row.id) else { break };
            let is_last = (rows.len() as i64) < STRETCH;
            self.judge(window, rows, &mut walk, &mut report).await?;
            progress(last);
            if is_last {
                break;
            }
            after = last;
        }
        report.gaps = (until - from + 1 - report.rows).max(0);
        match store::twins(self.session, from, until).await {
            Ok((count, first)) => (report.shared_event_ids, report.shared) = (Some(count), first),
            // Not worth a comparison of an hour.
            Err(StoreError::Silent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(report)
    }

    async fn judge(
        &mut self,
        window: Window,
        rows: Vec<store::Row>,
        walk: &mut Walk,
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        let (first, last) = (rows[0].id, rows[rows.len() - 1].id);
        let deferred = store::deferred(self.session, first, last).await?;
        let mut judge = Judge::new(rows, &store::named(self.session, first, last).await?, self.payloads);
        let mut gone = judge.no_longer_deferred(&deferred);
        if !gone.is_empty() {
            // They may have been put off, or have left, between the two looks.
            let deferred = store::deferred(self.session, first, last).await?;
            judge.name(&store::named(self.session, first, last).await?);
            gone = judge.no_longer_deferred(&deferred);
            judge.lose_sight_of(&gone);
        }
        store::receipts(self.session, &judge.published(), |place| judge.expect(place)).await?;
        let mut strangers = Vec::new();
        for topic in judge.topics() {
            let is_compacted = self.is_compacted(&topic, walk).await?;
            tokio::task::block_in_place(|| {
                self.read(&topic, is_compacted, &mut judge, walk, &mut strangers, report)
            })?;
            if strangers.len() >= STRANGERS {
                self.look_up(window, std::mem::take(&mut strangers), report).await?;
            }
        }
        self.look_up(window, strangers, report).await?;
        judge.conclude(report);
        Ok(())
    }

    /// Reads what is expected in a topic, and what lies between. Blocks.
    fn read(
        &self,
        topic: &Arc<str>,
        is_compacted: Option<bool>,
        judge: &mut Judge,
        walk: &mut Walk,
        strangers: &mut Vec<Stranger>,
        report: &mut Report,
    ) -> Result<(), KafkaError> {
        let marks = self.auditor.marks(topic)?;
        let stretches = judge.stretches(topic, &marks);
        let known: BTreeMap<i32, Offsets> = marks
            .keys()
            .filter_map(|partition| {
                Some((*partition, walk.read.get(&(Arc::clone(topic), *partition))?.clone()))
            })
            .collect();
        if !stretches.is_empty() {
            self.auditor.read(topic, &stretches, |found| {
                let again = known.get(&found.partition).is_some_and(|read| covers(read, found.offset));
                let stranger = judge.see(topic, &self.seen(found, again));
                match stranger {
                    // Nobody needs to be asked whose that is.
                    Some(stranger) if stranger.event_id.is_none() || stranger.seq.is_none() => {
                        report.foreign(topic, stranger.partition, stranger.offset);
                    }
                    known => strangers.extend(known),
                }
            })?;
        }
        judge.read_through(topic, &marks, is_compacted);
        for stretch in stretches {
            walk.has_read(topic, stretch);
        }
        Ok(())
    }

    fn seen(&self, found: &Found<'_>, again: bool) -> Seen {
        let digest = |payload: &[u8]| {
            let hash = Sha256::digest(payload);
            u64::from_be_bytes(hash[..8].try_into().expect("SHA-256 has 32 bytes"))
        };
        Seen {
            partition: found.partition,
            offset: found.offset,
            event_id: found.event_id,
            seq: found.seq,
            is_replay: found.is_replay,
            key: hash_of(found.key),
            payload: found.payload.filter(|_| self.payloads).map(digest),
            again,
        }
    }

    /// Whose are these records? They lie between ours: rows of other stretches, second copies of such rows, or somebody else's.
    async fn look_up(
        &mut self,
        window: Window,
        strangers: Vec<Stranger>,
        report: &mut Report,
    ) -> Result<(), ReconcileError> {
        let mut ids: Vec<i64> = strangers.iter().filter_map(|stranger| stranger.seq).collect();
        ids.sort_unstable();
        ids.dedup();
        if strangers.is_empty() {
            return Ok(());
        }
        let oldest = store::bounds(self.session).await?.first.map_or(i64::MAX, |(id, _)| id);
        let owners = store::owners(self.session, ids.clone()).await?;
        let mut places = HashSet::new();
        store::receipts(self.session, &ids, |place| {
            places.insert((place.id, place.receipt.partition, place.receipt.offset));
        })
        .await?;
        for stranger in strangers {
            let Stranger { topic, partition, offset, event_id, seq, is_replay } = stranger;
            let (Some(event_id), Some(seq)) = (event_id, seq) else {
                report.foreign(&topic, partition, offset);
                continue;
            };
            match owners.get(&seq) {
                // Its row has been removed by retention: nothing is left to compare it with.
                None if seq < oldest => {}
                Some((event, _)) if *event == event_id && is_replay => report.replayed += 1,
                Some((event, own)) if *event == event_id && *own == topic => {
                    let is_first = places.contains(&(seq, partition, Some(offset)));
                    if !is_first && (window.from..=window.until).contains(&seq) {
                        report.duplicates += 1;
                    }
                }
                _ => report.foreign(&topic, partition, offset),
            }
        }
        Ok(())
    }

    async fn is_compacted(&self, topic: &Arc<str>, walk: &mut Walk) -> Result<Option<bool>, KafkaError> {
        if let Some(known) = walk.compacted.get(topic) {
            return Ok(*known);
        }
        let state = self.topics.describe(Arc::clone(topic)).await?;
        // Both come in one answer: whoever may not read the limit may not read the policy.
        let is_compacted = match state {
            TopicState::Ready(settings) => settings.max_message_bytes.map(|_| settings.compacted),
            TopicState::Sick(_) => Some(false),
        };
        walk.compacted.insert(Arc::clone(topic), is_compacted);
        Ok(is_compacted)
    }
}

impl Walk {
    fn has_read(&mut self, topic: &Arc<str>, stretch: Stretch) {
        let read = self.read.entry((Arc::clone(topic), stretch.partition)).or_default();
        read.push((stretch.from, stretch.to));
        read.sort_unstable();
        // Neighbours become one, so a partition that is read through stays one stretch.
        let mut merged = Offsets::with_capacity(read.len());
        for (from, to) in read.drain(..) {
            match merged.last_mut() {
                Some(last) if from <= last.1 + 1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        *read = merged;
    }
}

/// Whether one of these stretches, in ascending order, holds the offset.
fn covers(stretches: &[(i64, i64)], offset: i64) -> bool {
    let next = stretches.partition_point(|(from, _)| *from <= offset);
    next > 0 && stretches[next - 1].1 >= offset
}
