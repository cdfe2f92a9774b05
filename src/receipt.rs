//! Receipts in their compact form: where each published row's record is.
//!
//! Owns the byte format of `outbox.ledger.receipts`, which `outbox.receipt` in the schema reads as well.
//! Must not await, log, read a clock or draw random numbers.
//!
//! Format, version 1: one byte 1, then for each published id in ascending order a varint
//! `partition * 2 + known`; if the offset is known, a zigzag varint of the distance to the offset that would
//! follow the partition's previous one in this ledger row (the first follows -1). Rows that went out one after
//! another cost two bytes each. Varints are LEB128.

use std::collections::HashMap;

/// Where a record is. The offset is missing when the broker recognised a repeated batch and named none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: Option<i64>,
}

const VERSION: u8 = 1;

/// The compact form of `receipts`, which are in ascending order of their rows' ids.
pub fn encode(receipts: impl IntoIterator<Item = Receipt>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let mut next = NextOffsets::default();
    for receipt in receipts {
        let partition = u64::from(receipt.partition.max(0) as u32);
        put_varint(&mut bytes, partition << 1 | u64::from(receipt.offset.is_some()));
        if let Some(offset) = receipt.offset {
            let expected = next.of(receipt.partition);
            put_varint(&mut bytes, zigzag(offset - *expected));
            *expected = offset + 1;
        }
    }
    bytes
}

/// Reads the compact form back; `None` if the bytes are not of this format.
pub fn decode(bytes: &[u8]) -> Option<Vec<Receipt>> {
    let (&version, mut rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    let mut receipts = Vec::new();
    let mut next = NextOffsets::default();
    while !rest.is_empty() {
        let head = take_varint(&mut rest)?;
        let partition = i32::try_from(head >> 1).ok()?;
        let offset = match head & 1 {
            0 => None,
            _ => {
                let distance = unzigzag(take_varint(&mut rest)?);
                let expected = next.of(partition);
                let offset = expected.checked_add(distance)?;
                *expected = offset.checked_add(1)?;
                Some(offset)
            }
        };
        receipts.push(Receipt { partition, offset });
    }
    Some(receipts)
}

/// The offset expected next in each partition. Most settlements touch few partitions, and low numbers.
#[derive(Default)]
struct NextOffsets {
    low: Vec<i64>,
    high: HashMap<i32, i64>,
}

impl NextOffsets {
    fn of(&mut self, partition: i32) -> &mut i64 {
        match usize::try_from(partition) {
            Ok(index) if index < 1024 => {
                if index >= self.low.len() {
                    self.low.resize(index + 1, 0);
                }
                &mut self.low[index]
            }
            _ => self.high.entry(partition).or_insert(0),
        }
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

fn put_varint(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, offset: i64) -> Receipt {
        Receipt { partition, offset: Some(offset) }
    }

    #[track_caller]
    fn check(receipts: &[Receipt], bytes: &[u8]) {
        let encoded = encode(receipts.iter().copied());
        assert_eq!(encoded, bytes);
        assert_eq!(decode(&encoded).as_deref(), Some(receipts));
    }

    #[test]
    fn receipts_come_back_as_they_were() {
        check(&[], &[1]);
        check(&[at(0, 0), at(0, 1), at(0, 2)], &[1, 1, 0, 1, 0, 1, 0]);
        check(&[at(2, 300), at(2, 299)], &[1, 5, 0xd8, 4, 5, 3]);
        check(&[Receipt { partition: 7, offset: None }], &[1, 14]);
        let far = [at(i32::MAX, i64::MAX - 1), at(5000, 0), at(3, 1 << 40)];
        assert_eq!(decode(&encode(far)).as_deref(), Some(&far[..]));
    }

    #[test]
    fn other_formats_are_refused() {
        for bad in [&[][..], &[2], &[1, 1], &[1, 0x80], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decode(bad), None, "{bad:?}");
        }
    }
}
