//! The partition of a key, as Kafka's Java producer and librdkafka's `murmur2_random` choose it.
//!
//! Records are partitioned by librdkafka; this tells the sender beforehand where a row will go.
//! Must not await, log, read a clock or draw random numbers.

/// The partition of this key among `partitions`, which is above zero.
pub fn of_key(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions.max(1)
}

/// Kafka's variant of MurmurHash2, with Java's seed.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let (blocks, tail) = bytes.as_chunks::<4>();
    for block in blocks {
        let mixed = u32::from_le_bytes(*block).wrapping_mul(M);
        let mixed = (mixed ^ mixed >> 24).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ mixed;
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, expected: u32) {
        assert_eq!(murmur2(key.as_bytes()), expected, "{key}");
    }

    #[test]
    fn keys_hash_as_in_java() {
        // librdkafka's own vectors.
        check("kafka", 0xd067_cf64);
        check("giberish123456789", 0x8f55_2b0c);
        check("1234", 0x9fc9_7b14);
        check("234", 0xe7c0_09ca);
        check("34", 0x8739_30da);
        check("4", 0x5a4b_5ca1);
        check("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x7842_4f1c);
        check("", 0x106e_08d9);
    }
}
