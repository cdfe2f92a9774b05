//! Turns the merged values into types, one key at a time, and notes every problem with key, value and origin instead of
//! stopping at the first. A value that did not parse is replaced by its default, so that reading can go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use config::{Value, ValueKind};

use super::{Secret, keys, properties};

/// One line of `config show`: the value as TOML, secrets redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub key: String,
    pub value: String,
    pub origin: String,
}

/// The reader over all layers.
pub(super) struct Reader<'a> {
    values: BTreeMap<String, Value>,
    pub problems: &'a mut Vec<String>,
    /// Keys that already have a problem; rules about pairs leave them alone.
    sick: BTreeSet<&'static str>,
    pub shown: Vec<Shown>,
}

impl<'a> Reader<'a> {
    pub fn new(values: BTreeMap<String, Value>, problems: &'a mut Vec<String>) -> Self {
        Reader { values, problems, sick: BTreeSet::new(), shown: Vec::new() }
    }

    /// A duration in humantime's notation.
    pub fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        self.scalar(
            key,
            |text| parse_duration(text, &range),
            |value| quote(&humantime::format_duration(*value).to_string()),
        )
    }

    /// A number of things.
    pub fn count(&mut self, key: &'static str, range: RangeInclusive<usize>) -> usize {
        let parse = |text: &str| {
            let value = text.parse().map_err(|_| "is not a whole number".to_owned())?;
            within(value, &range, usize::to_string)
        };
        self.scalar(key, parse, usize::to_string)
    }

    /// A size in bytes, plain or with KiB, MiB or GiB.
    pub fn bytes(&mut self, key: &'static str, range: RangeInclusive<usize>) -> usize {
        self.scalar(
            key,
            |text| parse_size(text, &range),
            |value| {
                let text = format_bytes(*value);
                if text.ends_with('B') { quote(&text) } else { text }
            },
        )
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &'static str) -> bool {
        self.scalar(key, |text| text.parse().map_err(|_| "is not true or false".to_owned()), bool::to_string)
    }

    /// A text that `parse` understands.
    pub fn text<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let text = self.scalar(key, |text| parse(text).map(|_| text.to_owned()), |text| quote(text));
        parse(&text).unwrap_or_else(|_| panic!("{key} was parsed a line above"))
    }

    /// Something that reads itself from a text.
    pub fn parsed<T: FromStr>(&mut self, key: &'static str, reason: &str) -> T {
        self.text(key, |text| text.parse().map_err(|_| reason.to_owned()))
    }

    /// A text without default that is never shown; `show` makes what `config show` prints of it.
    pub fn secret<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Vec<String>>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let value = self.values.remove(key)?;
        let origin = origin(&value);
        let ValueKind::String(text) = value.kind else {
            self.problem(key, format!("{key} ({origin}) must be a text"));
            return None;
        };
        match parse(text.trim()) {
            Ok(parsed) => {
                let value = quote(&show(&parsed));
                self.shown.push(Shown { key: key.to_owned(), value, origin });
                Some(parsed)
            }
            Err(reasons) => {
                for reason in reasons {
                    self.problem(key, format!("{key} ({origin}): {reason}"));
                }
                None
            }
        }
    }

    /// A list of texts, or one text with commas. Empty where nothing is set.
    pub fn list(&mut self, key: &'static str, check: impl Fn(&str) -> Result<(), String>) -> Vec<String> {
        let Some(value) = self.values.remove(key) else { return Vec::new() };
        let origin = origin(&value);
        let items: Vec<String> = match value.kind {
            ValueKind::String(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
            ValueKind::Array(values) => match values.into_iter().map(|value| value.into_string()).collect() {
                Ok(items) => items,
                Err(_) => return self.not_a_list(key, &origin),
            },
            _ => return self.not_a_list(key, &origin),
        };
        for item in &items {
            if let Err(reason) = check(item) {
                // Somebody may have written user:password@host, as in other URLs.
                let shown = if item.contains('@') { "***" } else { item };
                self.problem(key, format!("{key} ({origin}): {} {reason}", quote(shown)));
            }
        }
        let value = format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", "));
        self.shown.push(Shown { key: key.to_owned(), value, origin });
        items
    }

    fn not_a_list(&mut self, key: &'static str, origin: &str) -> Vec<String> {
        self.problem(key, format!("{key} ({origin}) must be a list of texts or one text with commas"));
        Vec::new()
    }

    /// The table of librdkafka properties. Names keep their dots; numbers and flags become texts, texts stay as they are.
    pub fn properties(&mut self, key: &'static str) -> BTreeMap<String, Secret> {
        let Some(value) = self.values.remove(key) else { return BTreeMap::new() };
        let origin_of_all = origin(&value);
        let ValueKind::Table(table) = value.kind else {
            self.problem(
                key,
                format!("{key} ({origin_of_all}) must be a section [{key}] of name = \"value\""),
            );
            return BTreeMap::new();
        };
        let mut properties = BTreeMap::new();
        for (name, value) in table.into_iter().collect::<BTreeMap<_, _>>() {
            let origin = origin(&value);
            let text = match value.kind {
                ValueKind::String(text) => text,
                ValueKind::I64(number) => number.to_string(),
                ValueKind::Boolean(flag) => flag.to_string(),
                // A fraction would lose its last zeros on the way, and librdkafka has no lists.
                _ => {
                    self.problem(key, format!("{key}.{name} ({origin}) must be a text; put it in quotes"));
                    continue;
                }
            };
            let value = if properties::is_secret(&name) { "***" } else { &text };
            self.shown.push(Shown { key: format!("{key}.{}", quote(&name)), value: quote(value), origin });
            properties.insert(name, Secret::from(text));
        }
        properties
    }

    /// A value that somebody else gives types.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.values.remove(key)
    }

    /// Adds a line to `config show`.
    pub fn show(&mut self, key: String, text: &str, origin: String) {
        self.shown.push(Shown { key, value: quote(text), origin });
    }

    /// Something, or one of the words for nothing of the kind.
    pub fn unless<T>(
        &mut self,
        key: &'static str,
        nothing: &[&str],
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.text(key, |text| if nothing.contains(&text) { Ok(None) } else { parse(text).map(Some) })
    }

    /// A rule about several keys; it stays silent while one of them has a problem of its own.
    pub fn rule(&mut self, keys: &[&'static str], holds: bool, problem: impl Display) {
        if !holds && keys.iter().all(|key| !self.sick.contains(key)) {
            self.problems.push(problem.to_string());
        }
    }

    fn scalar<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        if let Some(value) = self.values.remove(key) {
            let origin = origin(&value);
            match scalar_text(&value.kind)
                .ok_or("must be a single value".to_owned())
                .and_then(|text| parse(&text))
            {
                Ok(parsed) => {
                    self.shown.push(Shown { key: key.to_owned(), value: show(&parsed), origin });
                    return parsed;
                }
                Err(reason) => {
                    let text = scalar_text(&value.kind).map(|text| format!(" = {}", quote(&text)));
                    self.problem(key, format!("{key}{} ({origin}) {reason}", text.unwrap_or_default()));
                }
            }
        }
        let default = keys::find(key).map_or("", |key| key.default);
        parse(default).unwrap_or_else(|reason| panic!("the default of {key} {reason}"))
    }

    fn problem(&mut self, key: &'static str, problem: String) {
        self.sick.insert(key);
        self.problems.push(problem);
    }
}

fn origin(value: &Value) -> String {
    value.origin().unwrap_or("unknown origin").to_owned()
}

fn scalar_text(kind: &ValueKind) -> Option<String> {
    match kind {
        ValueKind::String(text) => Some(text.trim().to_owned()),
        ValueKind::Boolean(_) | ValueKind::I64(_) | ValueKind::Float(_) => Some(kind.to_string()),
        _ => None,
    }
}

/// A duration in humantime's notation.
pub(super) fn parse_duration(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let reason = "is not a duration: write a number and a unit, such as 5ms, 20s or 1h";
    let value = humantime::parse_duration(text).map_err(|_| reason.to_owned())?;
    within(value, range, |value| humantime::format_duration(*value).to_string())
}

/// A number of things.
pub(super) fn parse_count(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let value = text.parse().map_err(|_| "is not a whole number".to_owned())?;
    within(value, range, u64::to_string)
}

/// A size in bytes.
pub(super) fn parse_size(text: &str, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let value = parse_bytes(text).ok_or("is not a size: write bytes, or a number and KiB, MiB or GiB")?;
    within(value, range, |value| format_bytes(*value))
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("must be between {} and {}", show(range.start()), show(range.end())))
}

const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];

fn parse_bytes(text: &str) -> Option<usize> {
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    number.trim_end().parse::<usize>().ok()?.checked_mul(1 << shift)
}

fn format_bytes(bytes: usize) -> String {
    let fits = |(_, shift): &&(&str, u32)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift);
    let (unit, shift) = UNITS.iter().find(fits).unwrap_or(&("", 0));
    format!("{}{unit}", bytes >> shift)
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, bytes: Option<usize>, shown: &str) {
        assert_eq!(parse_bytes(text), bytes, "{text}");
        assert_eq!(bytes.map(format_bytes).unwrap_or_default(), shown, "{text}");
    }

    #[test]
    fn sizes_have_binary_units() {
        check("1048576", Some(1 << 20), "1MiB");
        check("8 MiB", Some(8 << 20), "8MiB");
        check("1GiB", Some(1 << 30), "1GiB");
        check("1500", Some(1500), "1500");
        check("0", Some(0), "0");
        check("8MB", None, "");
        check("-1", None, "");
        check("99999999999999GiB", None, "");
        check("1.5MiB", None, "");
    }

    #[test]
    fn quoted_text_is_toml() {
        assert_eq!(quote("a\"b\\c\n"), r#""a\"b\\c\u000A""#);
    }
}
