//! Whether the records that receipts speak of are in Kafka, and are what the row is.
//!
//! Keys and event ids are compared always, payloads where they may be read. What is no longer there is told apart from what is
//! another one.

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::config::Config;
use crate::daemon;
use crate::kafka::{At, ReadBack, Reader};
use crate::store::inspect::{Content, Life, Publication};

/// What was found at a receipt's partition and offset.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The receipt's.
    epoch: i64,
    partition: Option<i64>,
    offset: Option<i64>,
    verdict: Verdict,
    /// The same in words, with what is known beside.
    says: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It is there, and all that could be compared is the same.
    Identical,
    /// It is there under this event id, and its key or its payload is another one.
    Altered,
    /// Another record is there.
    Another,
    /// It was there: retention or compaction has taken it away.
    Gone,
    /// Topic, partition or offset are not there: this is not where it was written to.
    NotThere,
    /// Kafka confirmed it without naming an offset.
    OffsetUnknown,
}

impl Verified {
    /// In words, for people.
    pub fn says(&self) -> &str {
        &self.says
    }

    /// What was promised is not what is there.
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Altered | Verdict::Another | Verdict::NotThere)
    }
}

/// What a record is compared with.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The row's id.
    pub id: i64,
    /// Its event id, unless the row is gone.
    pub event_id: Option<String>,
    /// Its key, if the row is still there: as text, or in base64 behind `base64:`.
    pub key: Option<Option<String>>,
    /// Its payload, where it may be read.
    pub payload: Option<Option<Vec<u8>>>,
}

impl Expected {
    /// `content` is there for those who may read it.
    pub fn of(life: &Life, key: Option<Option<String>>, content: Option<&Content>) -> Expected {
        let payload = content.map(|content| {
            let text = content.payload_base64.as_ref()?;
            STANDARD.decode(text.replace('\n', "")).ok()
        });
        Expected { id: life.id, event_id: life.event_id.clone(), key, payload }
    }
}

/// Reads every record back. Blocks a thread of its own meanwhile.
pub async fn read_back(
    config: &Config,
    wanted: Vec<(Option<String>, Vec<Publication>, Expected)>,
) -> anyhow::Result<Vec<Vec<Verified>>> {
    if config.kafka.brokers.is_empty() {
        bail!("--verify reads from Kafka: set KAFKA_BROKERS, or [kafka] brokers in the configuration file");
    }
    let settings = daemon::kafka_settings(config);
    let (event_id, seq) = (config.kafka.header_event_id.clone(), config.kafka.header_seq.clone());
    let reading = move || {
        let reader = Reader::start(&settings, &event_id, &seq)?;
        let each = |(topic, published, expected): &(Option<String>, Vec<Publication>, Expected)| {
            published.iter().map(|one| verify(&reader, topic.as_deref(), one, expected)).collect()
        };
        wanted.iter().map(each).collect()
    };
    tokio::task::spawn_blocking(reading).await.context("read records back")?
}

fn verify(
    reader: &Reader,
    topic: Option<&str>,
    publication: &Publication,
    expected: &Expected,
) -> anyhow::Result<Verified> {
    let (verdict, says) = match (topic, publication.partition, publication.offset) {
        (Some(topic), Some(partition), Some(offset)) => {
            judge(&reader.read(topic, i32::try_from(partition)?, offset)?, expected)
        }
        (None, ..) => (Verdict::Gone, "the row is gone, and with it the name of its topic".to_owned()),
        _ => (Verdict::OffsetUnknown, "Kafka confirmed it without saying where it is".to_owned()),
    };
    let Publication { epoch, partition, offset, .. } = *publication;
    Ok(Verified { epoch, partition, offset, verdict, says })
}

/// Compares what is there with what should be.
fn judge(at: &At, expected: &Expected) -> (Verdict, String) {
    match at {
        At::Record(record) => judge_record(record, expected),
        At::BeforeStart(start) => {
            (Verdict::Gone, format!("no longer there: retention, the partition begins at offset {start}"))
        }
        At::Compacted => (Verdict::Gone, "no longer there: compaction".to_owned()),
        At::BehindEnd(end) => (
            Verdict::NotThere,
            format!("not there: the partition ends at offset {end}, was the topic made anew?"),
        ),
        At::Missing => (Verdict::NotThere, "not there: Kafka has no such topic or partition".to_owned()),
    }
}

fn judge_record(record: &ReadBack, expected: &Expected) -> (Verdict, String) {
    let found = record.event_id.map(|id| id.to_string());
    let same = match &expected.event_id {
        Some(event_id) => found.as_ref() == Some(event_id),
        // All that is left to know it by.
        None => record.seq == Some(expected.id),
    };
    if !same {
        let whose = match (&found, record.seq) {
            (Some(event_id), Some(seq)) => format!("event id {event_id}, outbox-seq {seq}"),
            (Some(event_id), None) => format!("event id {event_id}"),
            _ => "not one of this relay".to_owned(),
        };
        return (Verdict::Another, format!("another record is there: {whose}"));
    }
    if let Some(key) = &expected.key
        && *key != record.key.as_deref().map(as_text)
    {
        return (Verdict::Altered, "it is there with another key".to_owned());
    }
    match &expected.payload {
        Some(payload) if *payload != record.payload => {
            (Verdict::Altered, "it is there with another payload".to_owned())
        }
        Some(_) => (Verdict::Identical, "identical".to_owned()),
        None if expected.key.is_some() => (
            Verdict::Identical,
            "identical by event id and key; this login may not compare the payload".to_owned(),
        ),
        None => {
            (Verdict::Identical, "identical by its header; the row to compare it with is gone".to_owned())
        }
    }
}

/// A key as `outbox.as_text` writes it.
fn as_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "0e6c7a70-1111-4222-8333-444455556666";

    fn record() -> ReadBack {
        ReadBack {
            event_id: EVENT.parse().ok(),
            seq: Some(7),
            key: Some(b"k".to_vec()),
            payload: Some(b"{}".to_vec()),
        }
    }

    fn expected() -> Expected {
        Expected {
            id: 7,
            event_id: Some(EVENT.to_owned()),
            key: Some(Some("k".to_owned())),
            payload: Some(Some(b"{}".to_vec())),
        }
    }

    #[track_caller]
    fn check(at: At, expected: Expected, verdict: Verdict, says: &str) {
        let (found, words) = judge(&at, &expected);
        assert_eq!(found, verdict);
        assert!(words.contains(says), "{words}");
    }

    #[test]
    fn what_is_there_is_told_from_what_is_gone() {
        let all = expected();
        check(At::Record(record()), all.clone(), Verdict::Identical, "identical");
        check(At::Record(ReadBack { key: None, ..record() }), all.clone(), Verdict::Altered, "another key");
        check(
            At::Record(ReadBack { payload: None, ..record() }),
            all.clone(),
            Verdict::Altered,
            "another payload",
        );
        check(
            At::Record(ReadBack { event_id: None, ..record() }),
            all.clone(),
            Verdict::Another,
            "not one of this",
        );
        let other = ReadBack { event_id: Some(uuid::Uuid::nil()), seq: Some(8), ..record() };
        check(At::Record(other), all.clone(), Verdict::Another, "outbox-seq 8");
        check(At::BeforeStart(9), all.clone(), Verdict::Gone, "begins at offset 9");
        check(At::Compacted, all.clone(), Verdict::Gone, "compaction");
        check(At::BehindEnd(3), all.clone(), Verdict::NotThere, "ends at offset 3");
        check(At::Missing, all.clone(), Verdict::NotThere, "no such topic");
        let reader = Expected { payload: None, ..all.clone() };
        check(At::Record(record()), reader, Verdict::Identical, "may not compare");
        let gone = Expected { id: 7, ..Expected::default() };
        check(At::Record(record()), gone.clone(), Verdict::Identical, "is gone");
        check(At::Record(record()), Expected { id: 8, ..gone }, Verdict::Another, "another record");
        let binary = Expected { key: Some(Some("base64:/w==".to_owned())), ..all };
        check(
            At::Record(ReadBack { key: Some(vec![0xff]), ..record() }),
            binary,
            Verdict::Identical,
            "identical",
        );
    }
}
