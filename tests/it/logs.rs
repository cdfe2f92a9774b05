//! What the relay logs: every kind of line is on the page that explains it, and no failure floods it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use outbox_relay::telemetry::events::{EVENTS, LogEvent};

use crate::support::{DEADLINE, Env, Relay, eventually};

/// Set to write the page anew.
const UPDATE: &str = "OUTBOX_RELAY_TEST_UPDATE";
const PAGE: &str = "docs/logs.md";

/// A line of the code that logs.
#[derive(Debug)]
struct Site {
    place: String,
    level: String,
    message: String,
    fields: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every place under `src` that logs at information or above in the relay's own name.
fn sites() -> Vec<Site> {
    let (mut open, mut found): (Vec<PathBuf>, _) = (vec![root().join("src")], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                for level in ["error", "warn", "info"] {
                    let call = format!("tracing::{level}!(");
                    found.extend(code.match_indices(&call).filter_map(|(at, _)| {
                        let line = code[..at].lines().count();
                        let place = format!("{}:{line}", path.display());
                        site(place, level, &arguments(&code[at + call.len()..]), code)
                    }));
                }
            }
        }
    }
    assert!(found.len() > 50, "{} places log", found.len());
    found
}

/// The arguments of a call, up to its closing parenthesis.
fn arguments(code: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut found = vec![String::new()];
    for c in code.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().expect("there is one").push(c);
    }
    found.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// `None`: a line in a library's name.
fn site(place: String, level: &str, arguments: &[String], code: &str) -> Option<Site> {
    if arguments.first().is_some_and(|first| first.starts_with("target:")) {
        return None;
    }
    let (message, fields) = arguments.split_last().expect("a line says something");
    let message = message.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let message = message.unwrap_or_else(|| panic!("{place}: the text is not constant"));
    // A constant of the same file.
    let message = match message.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
        Some(name) => {
            let constant = code.split(&format!("const {name}: &str = \"")).nth(1);
            let constant = constant.and_then(|rest| rest.split_once('"')).map(|(text, _)| text);
            constant.unwrap_or_else(|| panic!("{place}: {name} is no constant")).to_owned()
        }
        None => message.to_owned(),
    };
    assert!(!message.contains('{'), "{place}: the text is not constant: {message}");
    let name = |field: &String| {
        let name = field.split('=').next().unwrap_or(field).trim();
        name.trim_start_matches(['%', '?']).to_owned()
    };
    Some(Site { place, level: level.to_owned(), message, fields: fields.iter().map(name).collect() })
}

#[test]
fn every_line_that_is_logged_is_listed_and_no_other() {
    let mut fields: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for site in sites() {
        let is_it = |event: &&LogEvent| {
            event.message == site.message && event.level.as_str().to_lowercase() == site.level
        };
        let event = EVENTS.iter().find(is_it);
        let event = event.unwrap_or_else(|| {
            panic!("{}: src/telemetry/events.rs does not list {} {:?}", site.place, site.level, site.message)
        });
        fields.entry(event.name).or_default().extend(site.fields);
    }
    let mut names = BTreeSet::new();
    for event in EVENTS {
        assert!(names.insert(event.name), "{} is listed twice", event.name);
        let found = fields.get(event.name).unwrap_or_else(|| panic!("nothing logs {}", event.name));
        let listed: BTreeSet<String> = event.fields.iter().map(ToString::to_string).collect();
        assert_eq!(*found, listed, "fields of {}", event.name);
        assert!(event.meaning.ends_with('.'), "{}", event.name);
    }
}

fn page() -> String {
    let mut page = String::from(
        "# Log lines\n\n\
         Generated by the test `logs::the_page_is_what_the_code_lists` from src/telemetry/events.rs; do not edit.\n\n\
         `message` is constant, so it can be searched for; what varies is in the fields (`log.format = \"json\"` has them at the top of each\n\
         line, beside `timestamp`, `level` and `target`). No line has a payload, a key, a header or a connection string. Rows that fail alike\n\
         are told once in ten seconds for each topic and kind, with the number of the others in `alike`. Of each kind of warning or error at\n\
         most sixty lines a minute are written, of what librdkafka says ten in ten seconds. `outbox_log_lines_total` counts every warning and\n\
         error, written or not, by `event` and `level`; `other` are those of libraries. What `log.level` leaves out is not counted.\n",
    );
    for (level, heading, about) in [
        ("ERROR", "Errors", "Somebody has to do something."),
        ("WARN", "Warnings", "The relay has recovered, or tries again."),
        ("INFO", "Information", "Something has changed; never a line for a single message."),
    ] {
        let _ = write!(page, "\n## {heading}\n\n{about}\n\n");
        page.push_str(
            "| event | message | fields | what has happened | what to do |\n|---|---|---|---|---|\n",
        );
        for event in EVENTS.iter().filter(|event| event.level.as_str() == level) {
            let fields: Vec<String> = event.fields.iter().map(|field| format!("`{field}`")).collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                event.name,
                event.message,
                fields.join(", "),
                event.meaning,
                event.action
            );
        }
    }
    page
}

#[test]
fn the_page_is_what_the_code_lists() {
    let (path, page) = (root().join(PAGE), page());
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &page).expect("the page is written");
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == written, "{PAGE} is not what the code lists; run this test with {UPDATE}=1");
    for (at, _) in page.match_indices("unbook Outbox").chain(page.match_indices("unbooks Outbox")) {
        let name: String =
            page[at..].chars().skip_while(|c| *c != 'O').take_while(|c| c.is_alphanumeric()).collect();
        assert!(root().join(format!("docs/runbooks/{name}.md")).exists(), "there is no runbook {name}");
    }
}

/// Rows of the topic that came to this end.
async fn ended(relay: &Relay, topic: &str, outcome: &str) -> f64 {
    let labels = [("topic", topic), ("outcome", outcome)];
    relay.metrics().await.get("outbox_messages_total", &labels).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_failures_is_a_handful_of_lines() {
    const ROWS: f64 = 500.0;
    let env = Env::new().await;
    let good = env.create_topic("good", 1, &[]).await;
    let narrow = env.create_topic("narrow", 1, &[("max.message.bytes", "2000")]).await;
    let (once, missing) = (env.create_topic("once", 1, &[]).await, env.topic("missing"));
    let relay = env.relay().await.set("retry.attempts", 1).set("retry.dead_per_minute", 100_000);
    let relay = relay.set("relay.max_row_bytes", "4KiB").set("relay.page_rows", 20);
    let relay = relay.topic(&once, "delivery = 'at_most_once'").expect_errors().start().await;
    for topic in [&narrow, &missing, &once, &good] {
        let bytes = if *topic == good { 10 } else { 5000 };
        let sql = "insert into outbox.message (topic, key, payload) select $1, convert_to('k' || n, 'UTF8'), \
                   convert_to(repeat('x', $2), 'UTF8') from generate_series(1, $3) n";
        let rows = sqlx::query(sql).bind(topic).bind(bytes).bind(ROWS as i32);
        rows.execute(env.app()).await.expect("insert");
    }
    eventually(DEADLINE, "all are dead", async || ended(&relay, &narrow, "dead_lettered").await == ROWS)
        .await;
    eventually(DEADLINE, "all are lost", async || ended(&relay, &once, "dropped").await == ROWS).await;
    eventually(DEADLINE, "all have arrived", async || ended(&relay, &good, "delivered").await == ROWS).await;
    env.expect_lane(&missing, "missing").await;
    let log = relay.log();
    let loud = log.iter().filter(|line| matches!(line.level(), Some("WARN" | "ERROR"))).count();
    assert!(loud >= 4, "it is told: {log:?}");
    assert!(log.len() < 100, "{} lines for {} rows", log.len(), 4.0 * ROWS);
    // What was written was counted.
    let metrics = relay.metrics().await;
    for event in EVENTS {
        let lines = relay.logged(event.message) as f64;
        let level = event.level.as_str().to_lowercase();
        let labels = [("event", event.name), ("level", level.as_str())];
        match level.as_str() {
            "info" => assert_eq!(metrics.get("outbox_log_lines_total", &labels), None, "{}", event.name),
            _ => {
                let counted =
                    async || relay.metrics().await.value("outbox_log_lines_total", &labels) >= lines;
                eventually(DEADLINE, &format!("{} is counted", event.name), counted).await;
            }
        }
    }
    let dead = relay.metrics().await.value("outbox_log_lines_total", &[("event", "dead_letter")]);
    assert!((1.0..50.0).contains(&dead), "{dead}");
}
