//! Lays the sources over each other: defaults, then the file, then `DATABASE_URL` and `KAFKA_BROKERS`, then
//! `OUTBOX_RELAY__SECTION__KEY`. Refuses keys that do not exist in the layer where they stand; knows no types.

use std::collections::BTreeMap;

use config::{FileFormat, Map, Source, Value, ValueKind};

use super::keys::{self, KEYS};

/// What every variable of ours begins with. `OUTBOX_RELAY_CONFIG` and the like (one underscore) are not settings.
const PREFIX: &str = "OUTBOX_RELAY__";
/// Names that a platform's add-ons commonly inject.
const PLAIN: [(&str, &str); 2] = [("DATABASE_URL", "postgres.url"), ("KAFKA_BROKERS", "kafka.brokers")];
const PROPERTIES: &str = "kafka.properties";
/// All `[[topic]]` sections, as one list.
const TOPICS: &str = "topic.sections";

/// The settings of one source, as `section.key`; each value remembers where it came from.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// The value of every key that has one, after all layers, or `None` if the file is no TOML: what is missing is then
/// unknown. `file` is the file's name and text.
pub(super) fn merge(
    file: Option<(&str, &str)>,
    environment: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<String>,
) -> Option<BTreeMap<String, Value>> {
    let below = match file {
        Some((name, text)) => from_file(name, text, problems),
        None => Some(Layer::default()),
    };
    let (mut plain, above) = from_environment(environment, problems);
    let mut below = below?;
    // A layer that names the database in one way replaces the other way of the layers below it.
    for pair in ["postgres.url", "postgres.url_file"] {
        if above.0.contains_key(pair) {
            plain.0.remove("postgres.url");
        }
        if above.0.contains_key(pair) || plain.0.contains_key(pair) {
            below.0.remove("postgres.url");
            below.0.remove("postgres.url_file");
        }
    }
    let merged = config::Config::builder()
        .add_source(defaults())
        .add_source(below)
        .add_source(plain)
        .add_source(above)
        .build()
        .and_then(|merged| merged.collect());
    match merged {
        Ok(sections) => Some(flatten(sections)),
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    }
}

fn defaults() -> Layer {
    let origin = "default".to_owned();
    let with_default = KEYS.iter().filter(|key| !key.default.is_empty());
    let value = |text: &str| match text {
        "[]" => ValueKind::Array(Vec::new()),
        "{}" => ValueKind::Table(Map::new()),
        text => ValueKind::String(text.to_owned()),
    };
    Layer(
        with_default
            .map(|key| (key.name.to_owned(), Value::new(Some(&origin), value(key.default))))
            .collect(),
    )
}

fn from_file(name: &str, text: &str, problems: &mut Vec<String>) -> Option<Layer> {
    let parsed = config::Config::builder().add_source(config::File::from_str(text, FileFormat::Toml)).build();
    let sections = match parsed.and_then(|parsed| parsed.collect()) {
        Ok(sections) => sections,
        Err(error) => {
            problems.push(format!("{name}: {}", without_source_lines(&error.to_string())));
            return None;
        }
    };
    let origin = name.to_owned();
    let mut layer = Layer::default();
    // The parser's maps have no order; problems are listed by name.
    for (section, value) in sections.into_iter().collect::<BTreeMap<_, _>>() {
        let known = KEYS.iter().any(|key| key.name.split('.').next() == Some(section.as_str()));
        if section == "topic" && matches!(value.kind, ValueKind::Array(_)) {
            layer.0.insert(TOPICS.to_owned(), Value::new(Some(&origin), value.kind));
            continue;
        }
        if section == "topic" {
            problems.push(format!("{name}: topic must be written as sections [[topic]], each with a match"));
            continue;
        }
        let settings = match value.kind {
            ValueKind::Table(settings) if known || !settings.is_empty() => settings,
            ValueKind::Table(_) => {
                problems.push(unknown(name, &section));
                continue;
            }
            _ if known => {
                problems.push(format!("{name}: {section} must be a section [{section}]"));
                continue;
            }
            _ => {
                problems.push(unknown(name, &section));
                continue;
            }
        };
        for (setting, value) in settings.into_iter().collect::<BTreeMap<_, _>>() {
            let key = format!("{section}.{setting}");
            match value.kind {
                ValueKind::Table(table) if key == PROPERTIES => {
                    let mut joined = Map::new();
                    join(&origin, "", table, &mut joined);
                    layer.0.insert(key, Value::new(Some(&origin), joined));
                }
                kind if keys::find(&key).is_some() => {
                    layer.0.insert(key, Value::new(Some(&origin), kind));
                }
                _ => problems.push(unknown(name, &key)),
            }
        }
    }
    Some(layer)
}

/// Property names contain dots, and TOML reads an unquoted `sasl.username = …` as nested tables: joins them again.
fn join(origin: &String, prefix: &str, table: Map<String, Value>, joined: &mut Map<String, Value>) {
    for (part, value) in table {
        let name = if prefix.is_empty() { part } else { format!("{prefix}.{part}") };
        match value.kind {
            ValueKind::Table(inner) => join(origin, &name, inner, joined),
            kind => {
                joined.insert(name, Value::new(Some(origin), kind));
            }
        }
    }
}

/// The layer of the two common names, and the layer of our own variables. An empty variable counts as not set.
fn from_environment(
    environment: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<String>,
) -> (Layer, Layer) {
    let (mut plain, mut own) = (Layer::default(), Layer::default());
    for (variable, text) in environment.filter(|(_, text)| !text.is_empty()).collect::<BTreeMap<_, _>>() {
        if let Some((_, key)) = PLAIN.iter().find(|(name, _)| *name == variable) {
            plain.0.insert((*key).to_owned(), Value::new(Some(&variable), text));
        } else if let Some(path) = variable.strip_prefix(PREFIX) {
            let key = path.to_ascii_lowercase().replacen("__", ".", 1);
            if key == PROPERTIES {
                let set = properties(&variable, &text, problems);
                own.0.insert(key, Value::new(Some(&variable), set));
            } else if keys::find(&key).is_some() {
                own.0.insert(key, Value::new(Some(&variable), text));
            } else if key == "topic" || key.starts_with("topic.") {
                problems.push(format!("{variable}: sections [[topic]] need a file (--config)"));
            } else if key.starts_with(PROPERTIES) {
                problems.push(format!(
                    "{variable}: properties go together into {PREFIX}KAFKA__PROPERTIES=\"name=value;name=value\""
                ));
            } else {
                problems.push(unknown_variable(&variable, &key));
            }
        }
    }
    (plain, own)
}

/// `name=value;name=value`; `\;` and `\\` stand for themselves inside a value.
fn properties(variable: &String, text: &str, problems: &mut Vec<String>) -> Map<String, Value> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let escaped = if c == '\\' { characters.next_if(|c| matches!(c, ';' | '\\')) } else { None };
        match (c, escaped) {
            (';', _) => parts.push(String::new()),
            (c, escaped) => parts.last_mut().expect("it begins with one part").push(escaped.unwrap_or(c)),
        }
    }
    let mut set = Map::new();
    for (at, part) in parts.iter().enumerate().filter(|(_, part)| !part.trim().is_empty()) {
        match part.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => {
                set.insert(name.trim().to_owned(), Value::new(Some(variable), value.trim()));
            }
            // The part itself is withheld: it may be the end of a password with an unescaped semicolon.
            _ => problems.push(format!(
                "{variable}: part {} is not name=value; a semicolon inside a value is written \\;",
                at + 1
            )),
        }
    }
    set
}

fn flatten(sections: Map<String, Value>) -> BTreeMap<String, Value> {
    let mut values = BTreeMap::new();
    for (section, value) in sections {
        if let ValueKind::Table(settings) = value.kind {
            values.extend(settings.into_iter().map(|(name, value)| (format!("{section}.{name}"), value)));
        }
    }
    values
}

fn unknown(origin: &str, key: &str) -> String {
    match keys::suggest(key) {
        Some(meant) => format!("{origin}: unknown key {key}; did you mean {meant}?"),
        None => format!("{origin}: unknown key {key}"),
    }
}

fn unknown_variable(variable: &str, key: &str) -> String {
    match keys::suggest(key) {
        Some(meant) => {
            let meant = meant.to_ascii_uppercase().replacen('.', "__", 1);
            format!("unknown variable {variable}; did you mean {PREFIX}{meant}?")
        }
        None => format!("unknown variable {variable}"),
    }
}

/// The parser quotes the line that it did not understand, which may hold a password. Keeps place and reason.
fn without_source_lines(error: &str) -> String {
    let quoted = |line: &&str| {
        line.split_once('|')
            .is_some_and(|(gutter, _)| gutter.trim().is_empty() || gutter.trim().parse::<u32>().is_ok())
    };
    error.lines().filter(|line| !quoted(line) && !line.trim().is_empty()).collect::<Vec<_>>().join(": ")
}
