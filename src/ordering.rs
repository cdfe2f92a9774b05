//! Who has to wait: the keys whose earlier rows are put off.
//!
//! Owned by the sender alone. Counts rows from the moment they are *decided* to wait, not from their settlement,
//! until the settlement that records them as gone: in between the row is not in `outbox.deferred` yet (or still),
//! and a later row of the key must not slip past it.
//! Must not await, log, read a clock or draw random numbers.

use std::collections::HashMap;
use std::sync::Arc;

/// Keys with waiting rows. A row without key never waits for another.
#[derive(Debug, Default)]
pub struct BlockedKeys {
    waiting: HashMap<Arc<str>, HashMap<Box<[u8]>, u64>>,
    keys: usize,
}

impl BlockedKeys {
    /// Whether a row of this key has to wait.
    pub fn blocks(&self, topic: &str, key: Option<&[u8]>) -> bool {
        match key {
            Some(key) if self.keys > 0 => self.waiting.get(topic).is_some_and(|keys| keys.contains_key(key)),
            _ => false,
        }
    }

    /// `rows` more rows of this key wait.
    pub fn wait(&mut self, topic: &Arc<str>, key: Option<&[u8]>, rows: u64) {
        let Some(key) = key else { return };
        let keys = self.waiting.entry(Arc::clone(topic)).or_default();
        match keys.get_mut(key) {
            Some(count) => *count += rows,
            None => {
                keys.insert(key.into(), rows);
                self.keys += 1;
            }
        }
    }

    /// A waiting row of this key is through: its departure has been settled. The last one frees the key.
    pub fn leave(&mut self, topic: &str, key: Option<&[u8]>) {
        let Some(key) = key else { return };
        let Some(keys) = self.waiting.get_mut(topic) else { return };
        let Some(count) = keys.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            keys.remove(key);
            self.keys -= 1;
            if keys.is_empty() {
                self.waiting.remove(topic);
            }
        }
    }

    /// Number of blocked keys.
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether no key is blocked.
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_when_its_last_waiting_row_is_through() {
        let (orders, users): (Arc<str>, Arc<str>) = (Arc::from("orders"), Arc::from("users"));
        let mut keys = BlockedKeys::default();
        keys.wait(&orders, Some(b"a"), 1);
        keys.wait(&orders, Some(b"a"), 1);
        keys.wait(&orders, Some(b""), 1);
        keys.wait(&orders, None, 1);
        assert_eq!(keys.len(), 2);
        assert!(keys.blocks("orders", Some(b"a")));
        assert!(keys.blocks("orders", Some(b"")));
        assert!(!keys.blocks("orders", None));
        assert!(!keys.blocks("orders", Some(b"b")));
        assert!(!keys.blocks(&users, Some(b"a")));
        keys.leave("orders", Some(b"a"));
        assert!(keys.blocks("orders", Some(b"a")));
        keys.leave("orders", Some(b"a"));
        assert!(!keys.blocks("orders", Some(b"a")));
        keys.leave("orders", Some(b""));
        keys.leave("orders", None);
        assert!(keys.is_empty());
    }
}
