//! The judge: compares what a reader delivered with what the table holds. Knows no reader.

use std::collections::{HashMap, HashSet};

/// A row, as a reader delivered it or as the table holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: i64,
    /// Rows without a key have no order.
    pub key: Option<Box<[u8]>>,
    /// Grows with every row of its key, in the order in which the writers took their turns.
    pub version: i64,
}

impl Row {
    pub fn new(id: i64, key: Option<Box<[u8]>>, payload: &[u8]) -> Self {
        let text = std::str::from_utf8(payload).expect("writers write numbers");
        Self { id, key, version: text.trim_start().parse().expect("writers write numbers") }
    }
}

/// What a reader did wrong, as ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Committed and never delivered.
    pub lost: Vec<i64>,
    /// Delivered and never committed.
    pub phantom: Vec<i64>,
    /// Delivered again.
    pub repeated: Vec<i64>,
    /// Delivered after a later row of its key.
    pub inverted: Vec<i64>,
}

impl Faults {
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

/// Judges rows in the order in which they were delivered.
pub fn judge(committed: &[Row], delivered: &[Row]) -> Faults {
    let truth: HashSet<i64> = committed.iter().map(|row| row.id).collect();
    let mut seen = HashSet::new();
    let mut newest: HashMap<&[u8], i64> = HashMap::new();
    let mut faults = Faults::default();
    for row in delivered {
        if !seen.insert(row.id) {
            faults.repeated.push(row.id);
            continue;
        }
        if !truth.contains(&row.id) {
            faults.phantom.push(row.id);
        }
        let Some(key) = row.key.as_deref() else { continue };
        let newest = newest.entry(key).or_insert(i64::MIN);
        if row.version < *newest {
            faults.inverted.push(row.id);
        }
        *newest = row.version.max(*newest);
    }
    faults.lost = committed.iter().map(|row| row.id).filter(|id| !seen.contains(id)).collect();
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(i64, &str, i64)]) -> Vec<Row> {
        let row = |(id, key, version): &(i64, &str, i64)| Row {
            id: *id,
            key: (!key.is_empty()).then(|| key.as_bytes().into()),
            version: *version,
        };
        rows.iter().map(row).collect()
    }

    #[track_caller]
    fn check(delivered: &[(i64, &str, i64)], expected: Faults) {
        let committed = rows(&[(1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "", 0)]);
        assert_eq!(judge(&committed, &rows(delivered)), expected);
    }

    #[test]
    fn every_fault_has_a_name() {
        let (one, two, three, four) = ((1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "", 0));
        check(&[one, two, three, four], Faults::default());
        check(&[two, four, one, three], Faults::default());
        check(&[one, two, three], Faults { lost: vec![4], ..Faults::default() });
        check(&[one, two, three, four, (5, "b", 2)], Faults { phantom: vec![5], ..Faults::default() });
        check(&[one, two, three, four, one], Faults { repeated: vec![1], ..Faults::default() });
        check(&[three, two, one, four], Faults { inverted: vec![1], ..Faults::default() });
    }
}
