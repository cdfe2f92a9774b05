//! From an outbox row to a Kafka record: pure rules.
//!
//! Owns the row as the relay holds it, the reading of its headers, and the judgement before sending.
//! Must not await, log, read a clock or draw random numbers. Read next: `verdict.rs`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::verdict::Failure;

/// A row of `outbox.message` or `outbox.deferred`, held from the read until its settlement.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Order, and the identity of the row inside this database.
    pub id: i64,
    /// Identity of the event everywhere else; consumers deduplicate on it.
    pub event_id: Uuid,
    /// Kafka topic. Shared, because a page holds few topics and many rows.
    pub topic: Arc<str>,
    /// Record key; `None` is a null key (no order), empty is a key of no bytes.
    pub key: Option<Box<[u8]>>,
    /// Record value; `None` is a tombstone, unless `payload_bytes` says that it was left behind.
    pub payload: Option<Box<[u8]>>,
    /// Size of the payload in the database. With `payload` absent the row was above `relay.max_row_bytes`.
    pub payload_bytes: Option<i32>,
    /// Text of the `jsonb` object.
    pub headers: Option<Box<str>>,
    /// Partition asked for by the producer; `None` leaves it to the key's hash.
    pub partition: Option<i32>,
    /// When the producer wrote the row, microseconds since 1970, database clock.
    pub created_us: i64,
    /// Not before; microseconds since 1970.
    pub deliver_after_us: Option<i64>,
    /// Not after; microseconds since 1970.
    pub expires_us: Option<i64>,
}

impl OutboxRow {
    /// Bytes that this row occupies in the window: what it holds plus a flat share for the structures around it.
    pub fn weight(&self) -> usize {
        /// librdkafka's message struct and our own, roughly.
        const OVERHEAD: usize = 400;
        OVERHEAD
            + self.key.as_ref().map_or(0, |k| k.len())
            + self.payload.as_ref().map_or(0, |p| p.len())
            + self.headers.as_ref().map_or(0, |h| h.len())
    }

    /// Uncompressed size of the record as a broker counts it against the topic's limit, an upper bound in bytes.
    pub fn record_bytes(&self) -> usize {
        /// A protocol batch of one: batch header 61, record framing up to 21, two headers of ours up to 100.
        const FRAMING: usize = 182;
        FRAMING
            + self.key.as_ref().map_or(0, |k| k.len())
            + self.payload_bytes.unwrap_or(0).max(0) as usize
            + self.headers.as_ref().map_or(0, |h| h.len())
    }

    /// The row's payload was not read because it is above `relay.max_row_bytes`.
    pub fn is_oversize(&self) -> bool {
        self.payload.is_none() && self.payload_bytes.is_some()
    }

    /// Kafka timestamp in milliseconds: when the row was written, never later than `now_us` (a timestamp that
    /// lies ahead is refused by the broker, and would condemn every row after a clock step).
    pub fn timestamp_ms(&self, now_us: i64) -> i64 {
        self.created_us.min(now_us) / 1000
    }
}

/// Names of the headers that the relay adds.
#[derive(Debug, Clone)]
pub struct HeaderNames {
    /// Carries the event id as text.
    pub event_id: String,
    /// Carries the row's id in decimal.
    pub seq: String,
    /// Carries the lease's epoch in decimal, when switched on.
    pub epoch: Option<String>,
}

impl HeaderNames {
    /// Whether `name` is one that the relay writes itself; a producer's header of that name gives way.
    pub fn is_ours(&self, name: &str) -> bool {
        name == self.event_id || name == self.seq || self.epoch.as_deref() == Some(name)
    }
}

/// What is known about a topic before a row is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicFacts {
    /// Number of partitions.
    pub partitions: i32,
    /// `max.message.bytes`, when the broker let us read it.
    pub max_message_bytes: Option<usize>,
    /// Whether the topic refused our smallest batches, although nobody told us its limit.
    pub narrow: bool,
    /// Whether the topic is compacted, so that a record without key is refused.
    pub compacted: bool,
    /// Whether the producer compresses, so that a size above the limit is only a suspicion.
    pub compressed: bool,
    /// The main producer's `batch.size`; a topic whose limit is lower would refuse whole batches of innocents.
    pub batch_size: usize,
}

/// The judgement before sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// Nothing speaks against it.
    Fit,
    /// It may be refused; it goes alone, so that nobody is refused with it.
    Suspect,
    /// It would be refused for certain: as what, and a text that tells a person why.
    Unfit(Failure, String),
}

/// Judges what can be known before sending.
pub fn judge(row: &OutboxRow, facts: &TopicFacts) -> Fitness {
    if row.is_oversize() {
        let bytes = row.payload_bytes.unwrap_or(0);
        let text = format!("payload of {bytes} bytes is above relay.max_row_bytes");
        return Fitness::Unfit(Failure::TooLarge, text);
    }
    if let Some(partition) = row.partition.filter(|p| *p >= facts.partitions) {
        let text = format!("partition {partition} does not exist, the topic has {}", facts.partitions);
        return Fitness::Unfit(Failure::Refused, text);
    }
    if facts.compacted && row.key.is_none() {
        let text = "the topic is compacted, a record without key is refused".to_owned();
        return Fitness::Unfit(Failure::Refused, text);
    }
    let Some(limit) = facts.max_message_bytes else {
        return if facts.narrow { Fitness::Suspect } else { Fitness::Fit };
    };
    let bytes = row.record_bytes();
    if bytes > limit && !facts.compressed {
        let text = format!("record of {bytes} bytes is above the topic's max.message.bytes of {limit}");
        return Fitness::Unfit(Failure::TooLarge, text);
    }
    if bytes > limit || limit < facts.batch_size { Fitness::Suspect } else { Fitness::Fit }
}

/// Calls `visit` with every header of a `jsonb` object's text, in its order; a list gives one header per element.
///
/// Borrows names and values from `text` wherever they carry no escapes, so that the usual header costs no allocation.
pub fn each_header(text: &str, visit: impl FnMut(&str, Option<&str>)) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Headers(visit))?;
    reader.end()
}

struct Headers<F>(F);

impl<'de, F: FnMut(&str, Option<&str>)> Visitor<'de> for Headers<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            match map.next_value()? {
                HeaderValue::One(value) => (self.0)(&name, value.as_deref()),
                HeaderValue::Many(values) => {
                    for value in values {
                        (self.0)(&name, value.as_deref());
                    }
                }
            }
        }
        Ok(())
    }
}

/// A string that borrows from the input where it can; serde's own `Cow` always copies.
struct Text<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match HeaderValue::deserialize(deserializer)? {
            HeaderValue::One(Some(text)) => Ok(Text(text)),
            _ => Err(serde::de::Error::custom("expected a string")),
        }
    }
}

enum HeaderValue<'de> {
    One(Option<Cow<'de, str>>),
    Many(Vec<Option<Cow<'de, str>>>),
}

impl<'de> Deserialize<'de> for HeaderValue<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = HeaderValue<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, null or a list of them")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(HeaderValue::One(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(HeaderValue::One(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(HeaderValue::One(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::with_capacity(list.size_hint().unwrap_or(0));
                while let Some(value) = list.next_element()? {
                    match value {
                        HeaderValue::One(text) => values.push(text),
                        HeaderValue::Many(_) => {
                            return Err(serde::de::Error::custom("a list inside a list"));
                        }
                    }
                }
                Ok(HeaderValue::Many(values))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> OutboxRow {
        OutboxRow {
            id: 1,
            event_id: Uuid::nil(),
            topic: Arc::from("orders"),
            key: None,
            payload: Some(Box::from(&[0u8; 100][..])),
            payload_bytes: Some(100),
            headers: None,
            partition: None,
            created_us: 5_000_000,
            deliver_after_us: None,
            expires_us: None,
        }
    }

    fn facts(limit: Option<usize>, compressed: bool) -> TopicFacts {
        TopicFacts {
            partitions: 3,
            max_message_bytes: limit,
            narrow: false,
            compacted: false,
            compressed,
            batch_size: 100,
        }
    }

    #[track_caller]
    fn check(row: OutboxRow, facts: TopicFacts, expected: Fitness) {
        assert_eq!(judge(&row, &facts), expected);
    }

    #[test]
    fn a_row_is_judged_by_what_can_be_known() {
        let large = |text: &str| Fitness::Unfit(Failure::TooLarge, text.to_owned());
        let unfit = |text: &str| Fitness::Unfit(Failure::Refused, text.to_owned());
        check(row(), facts(Some(1000), false), Fitness::Fit);
        check(row(), facts(None, false), Fitness::Fit);
        check(row(), facts(Some(281), true), Fitness::Suspect);
        check(
            row(),
            facts(Some(281), false),
            large("record of 282 bytes is above the topic's max.message.bytes of 281"),
        );
        check(OutboxRow { partition: Some(2), ..row() }, facts(None, false), Fitness::Fit);
        check(
            OutboxRow { partition: Some(3), ..row() },
            facts(None, false),
            unfit("partition 3 does not exist, the topic has 3"),
        );
        check(
            OutboxRow { payload: None, ..row() },
            facts(None, false),
            large("payload of 100 bytes is above relay.max_row_bytes"),
        );
        check(
            OutboxRow { payload: None, payload_bytes: None, ..row() },
            facts(Some(1000), false),
            Fitness::Fit,
        );
        let compacted = TopicFacts { compacted: true, ..facts(None, false) };
        check(row(), compacted, unfit("the topic is compacted, a record without key is refused"));
        check(OutboxRow { key: Some(Box::default()), ..row() }, compacted, Fitness::Fit);
    }

    #[test]
    fn a_topic_with_a_limit_below_the_batch_size_gets_its_rows_one_by_one() {
        let narrow = TopicFacts { batch_size: 2000, ..facts(Some(1000), false) };
        check(row(), narrow, Fitness::Suspect);
        check(row(), TopicFacts { narrow: true, ..facts(None, false) }, Fitness::Suspect);
        check(row(), TopicFacts { narrow: true, ..facts(Some(1000), false) }, Fitness::Fit);
    }

    #[test]
    fn a_timestamp_never_lies_ahead() {
        assert_eq!(row().timestamp_ms(9_000_000), 5_000);
        assert_eq!(row().timestamp_ms(4_000_999), 4_000);
    }

    #[track_caller]
    fn headers(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let mut seen = Vec::new();
        each_header(text, |name, value| seen.push((name.to_owned(), value.map(str::to_owned))))
            .map(|()| seen)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn headers_are_strings_nulls_and_lists_of_them() {
        let some = |n: &str, v: &str| (n.to_owned(), Some(v.to_owned()));
        assert_eq!(
            headers(r#"{"a": "1", "b": null, "c": ["x", null, "y"], "d\u0065": "l\"1\""}"#).unwrap(),
            [
                some("a", "1"),
                ("b".into(), None),
                some("c", "x"),
                ("c".into(), None),
                some("c", "y"),
                some("de", "l\"1\"")
            ]
        );
        assert_eq!(headers("{}").unwrap(), []);
        for bad in ["[]", "{\"a\": 1}", "{\"a\": {}}", "{\"a\": [[\"x\"]]}", "{\"a\": true}", "{"] {
            assert!(headers(bad).is_err(), "{bad}");
        }
    }
}
