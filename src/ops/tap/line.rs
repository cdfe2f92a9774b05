//! One published message as a line: columns for people, a JSON document for programs. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use super::super::table::{dash, one_line, time};
use crate::cli::watch::TapOptions;
use crate::receipt::Receipt;
use crate::store::follow::{Seen, Settlement};
use crate::store::inspect::Content;

/// Characters of a payload in a line for people.
const PAYLOAD_CHARS: usize = 200;

/// What is shown of a published message. What was not asked for is not there at all.
#[derive(Debug, Serialize)]
pub struct Line {
    id: i64,
    event_id: String,
    topic: String,
    partition: Option<i32>,
    /// None: Kafka confirmed a duplicate without saying where the first one is.
    offset: Option<i64>,
    created_at: String,
    settled_at: String,
    /// From the insert to the settlement, by the database's clock.
    latency_seconds: f64,
    epoch: i64,
    key_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hash: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Value>,
}

impl Line {
    /// Puts together what is known.
    pub fn new(
        settlement: &Settlement,
        row: &Seen,
        receipt: Option<Receipt>,
        content: Option<&Content>,
        options: &TapOptions,
    ) -> Line {
        let payload = |content: &Content| content.payload_base64.as_ref().map(|text| text.replace('\n', ""));
        Line {
            id: row.id,
            event_id: row.event_id.clone(),
            topic: row.topic.clone(),
            partition: receipt.map(|receipt| receipt.partition),
            offset: receipt.and_then(|receipt| receipt.offset),
            created_at: row.created_at.clone(),
            settled_at: settlement.at.clone(),
            latency_seconds: ((settlement.at_seconds - row.created_seconds) * 1e6).round() / 1e6,
            epoch: settlement.place.epoch,
            key_bytes: row.key_bytes,
            key_hash: options.key_hash.then(|| row.key_hash.clone()),
            key: options.show_key.then(|| row.key.clone()),
            payload_base64: content.map(payload),
            headers: content.map(|content| content.headers.clone().unwrap_or(Value::Null)),
        }
    }
}

/// Lines come one by one, so columns are as wide as usual, and grow with the widest topic so far.
#[derive(Debug)]
pub struct Columns {
    topic: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Columns { topic: 20 }
    }
}

impl Columns {
    /// The first line.
    pub fn heading(&self, options: &TapOptions) -> String {
        let payload = if options.show_payload { "  PAYLOAD" } else { "" };
        let topic = self.topic;
        let text = format!(
            "{:<19}  {:>10}  {:<topic$}  {:<12}  {:<16}  {:>9}  {:<36}{payload}",
            "SETTLED", "ID", "TOPIC", "AT", "KEY", "LATENCY", "EVENT ID"
        );
        text.trim_end().to_owned() + "\n"
    }

    /// A message.
    pub fn line(&mut self, line: &Line) -> String {
        self.topic = self.topic.max(line.topic.chars().count());
        let at = match (line.partition, line.offset) {
            (Some(partition), Some(offset)) => format!("{partition}/{offset}"),
            (Some(partition), None) => format!("{partition}/?"),
            _ => dash(),
        };
        let key = match (&line.key, &line.key_hash, line.key_bytes) {
            (_, _, None) => dash(),
            (Some(Some(key)), ..) => key.clone(),
            (_, Some(Some(hash)), _) => hash.clone(),
            (.., Some(bytes)) => format!("{bytes} B"),
        };
        let payload = line.payload_base64.as_ref().map_or(String::new(), |payload| match payload {
            Some(payload) => format!("  {}", readable(payload)),
            None => "  (tombstone)".to_owned(),
        });
        let settled = time(&line.settled_at);
        let topic = self.topic;
        let text = format!(
            "{:<19}  {:>10}  {:<topic$}  {at:<12}  {key:<16}  {:>9}  {:<36}{payload}",
            settled.get(..19).unwrap_or(&settled),
            line.id,
            line.topic,
            latency(line.latency_seconds),
            line.event_id,
        );
        one_line(&text) + "\n"
    }
}

/// Text if it is that, else base64; the beginning of it.
fn readable(base64: &str) -> String {
    let bytes = STANDARD.decode(base64).unwrap_or_default();
    let size = bytes.len();
    let text = String::from_utf8(bytes).unwrap_or_else(|_| format!("base64:{base64}"));
    match text.char_indices().nth(PAYLOAD_CHARS) {
        Some((end, _)) => format!("{}… ({size} B)", &text[..end]),
        None => text,
    }
}

fn latency(seconds: f64) -> String {
    if seconds < 10.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_as_text_where_they_are_text() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(readable(&STANDARD.encode(bytes)), expected);
        check(b"{\"total\": 42}", "{\"total\": 42}");
        check(&[0xff, 0xfe], "base64://4=");
        check("é".repeat(300).as_bytes(), &format!("{}… (600 B)", "é".repeat(200)));
    }

    #[test]
    fn latencies_are_short() {
        assert_eq!(latency(0.00421), "4.2 ms");
        assert_eq!(latency(75.4), "75 s");
    }
}
