//! The `[[topic]]` sections: policies of topics by pattern.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use config::{Value, ValueKind};

use super::keys::{TOPIC_KEYS, suggest_topic_key};
use super::read::{Reader, parse_count, parse_duration};
use crate::policy::{Change, Delivery, Glob};

const DAY: Duration = Duration::from_secs(86_400);

/// Reads every section, in the order of the file.
pub(super) fn read(reader: &mut Reader) -> Vec<(Glob, Change)> {
    let Some(value) = reader.take("topic.sections") else { return Vec::new() };
    let origin = value.origin().unwrap_or("unknown origin").to_owned();
    let ValueKind::Array(sections) = value.kind else {
        reader.problems.push(format!("{origin}: topic must be written as sections [[topic]]"));
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (at, section) in sections.into_iter().enumerate() {
        let place = format!("[[topic]] number {}", at + 1);
        let ValueKind::Table(settings) = section.kind else {
            reader.problems.push(format!("{origin}: {place} must be a section"));
            continue;
        };
        let settings = settings.into_iter().collect::<BTreeMap<String, Value>>();
        if let Some(rule) = (Section { reader, settings, place, at: at + 1 }).read(&origin) {
            rules.push(rule);
        }
    }
    rules
}

struct Section<'r, 'p> {
    reader: &'r mut Reader<'p>,
    settings: BTreeMap<String, Value>,
    place: String,
    at: usize,
}

impl Section<'_, '_> {
    fn read(mut self, origin: &str) -> Option<(Glob, Change)> {
        for key in self.settings.keys().filter(|key| !TOPIC_KEYS.iter().any(|known| known.name == **key)) {
            let meant =
                suggest_topic_key(key).map_or(String::new(), |meant| format!("; did you mean {meant}?"));
            self.reader.problems.push(format!("{origin}: {}: unknown key {key}{meant}", self.place));
        }
        let glob: Option<Glob> = self.parsed("match");
        if glob.is_none() && !self.settings.contains_key("match") {
            let sentence = "match is missing: name the topics, such as match = \"orders.*\"";
            self.reader.problems.push(format!("{origin}: {}: {sentence}", self.place));
        }
        let change = Change {
            on_failure: self.parsed("on_failure"),
            delivery: self.parsed("delivery"),
            on_expiry: self.parsed("on_expiry"),
            attempts: self.count("attempts", 1..=1_000_000),
            age: self.duration("age", Duration::from_secs(1)..=365 * DAY),
            base: self.duration("base", Duration::from_millis(1)..=DAY),
            max: self.duration("max", Duration::from_millis(1)..=DAY),
            rate: self.count("rate", 1..=10_000_000).map(Some),
            dead_per_minute: self.count("dead_per_minute", 0..=100_000_000),
            dead_letter_topic: self.value("dead_letter_topic", topic_name),
            owner: self.value("owner", |text| Ok(text.to_owned())),
            tier: self.parsed("tier"),
        };
        let glob = glob?;
        let own = change.dead_letter_topic.as_deref().is_some_and(|topic| glob.matches(topic));
        if own && change.delivery == Some(Delivery::AtMostOnce) {
            let sentence = "dead_letter_topic matches its own section, whose delivery is at_most_once";
            self.reader.problems.push(format!("{origin}: {}: {sentence}", self.place));
        }
        Some((glob, change))
    }

    fn parsed<T: std::str::FromStr<Err = String>>(&mut self, key: &'static str) -> Option<T> {
        self.value(key, str::parse)
    }

    fn count(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u32> {
        self.value(key, |text| parse_count(text, &range).map(|count| count as u32))
    }

    fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.value(key, |text| parse_duration(text, &range))
    }

    fn value<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.settings.get(key)?;
        let text = match &value.kind {
            ValueKind::String(text) => text.trim().to_owned(),
            ValueKind::I64(number) => number.to_string(),
            _ => {
                self.reader.problems.push(format!("{}: {key} must be a text or a number", self.place));
                return None;
            }
        };
        match parse(&text) {
            Ok(parsed) => {
                let origin = value.origin().unwrap_or("file").to_owned();
                self.reader.show(format!("topic#{}.{key}", self.at), &text, origin);
                Some(parsed)
            }
            Err(reason) => {
                self.reader.problems.push(format!("{}: {key} = \"{text}\" {reason}", self.place));
                None
            }
        }
    }
}

/// The name of one topic, as Kafka takes it.
pub(super) fn topic_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=249).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err("is not a topic name: 1 to 249 letters, digits, dots, underscores and hyphens".to_owned())
}
