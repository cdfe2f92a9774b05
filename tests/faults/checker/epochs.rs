//! A deposed leader emits at most the window that it had handed to its producer.
//!
//! Counted for each epoch and partition: its records behind the first record of any later epoch. Two frozen leaders
//! have a window each.

use std::collections::{BTreeMap, HashMap};

use super::index::Index;
use super::verdict::{Finding, Report};

/// A partition while its records go by.
struct Partition {
    newest: i64,
    /// By epoch: the epoch that had come when the first of them did, and their number.
    stale: BTreeMap<i64, (i64, u64)>,
}

/// Reports epochs that went on for more than a window.
pub fn check(index: &Index<'_>, report: &mut Report) {
    let mut partitions: HashMap<(&str, i32), Partition> = HashMap::new();
    for record in &index.stream {
        let Some(epoch) = record.epoch else { continue };
        let partition = partitions
            .entry((&*record.topic, record.partition))
            .or_insert(Partition { newest: epoch, stale: BTreeMap::new() });
        if epoch < partition.newest {
            partition.stale.entry(epoch).or_insert((partition.newest, 0)).1 += 1;
        }
        partition.newest = partition.newest.max(epoch);
    }
    let bound = index.history.bounds.window_rows;
    let mut partitions: Vec<_> = partitions.into_iter().collect();
    partitions.sort_unstable_by_key(|(name, _)| *name);
    for ((topic, partition), Partition { stale, .. }) in partitions {
        for (epoch, (after, records)) in stale.into_iter().filter(|(_, (_, records))| *records > bound) {
            let topic = topic.into();
            report.add(Finding::StaleEpoch { topic, partition, epoch, after, records, bound });
        }
    }
}
