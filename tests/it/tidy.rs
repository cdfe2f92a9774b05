//! The rules of this code that a machine can check; whoever breaks one reads here why it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outbox_relay::config::{KEYS, TOPIC_KEYS};
use outbox_relay::crash_point;
use outbox_relay::metrics::SERIES;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::Env;

/// A file of this repository: its path from the root, with slashes, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers: without comments, and without the unit tests at the end of the file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let code = self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        code.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or(line)))
    }
}

/// All files under a directory that end so.
fn sources(directory: &str, ending: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open = vec![root.join(directory)];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let path =
                    path.strip_prefix(root).expect("it lies below").to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in {directory}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// No line of code contains the word, except in files for which `allowed` says so.
#[track_caller]
fn nowhere(sources: &[Source], words: &[&str], why: &str, allowed: impl Fn(&str) -> bool) {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !allowed(&source.path)) {
        for (at, line) in source.code() {
            found.extend(
                words
                    .iter()
                    .filter(|word| names(line, word))
                    .map(|word| format!("{}:{at}: {word}", source.path)),
            );
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

/// The line contains the word, and not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    let part_of_longer =
        |at: usize| line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| !part_of_longer(at))
}

#[test]
fn every_file_opens_with_what_it_owns() {
    for directory in ["src", "tests", "examples"] {
        for source in sources(directory, ".rs") {
            assert!(source.text.starts_with("//! "), "{} has no head", source.path);
        }
    }
}

#[test]
fn each_library_is_named_in_one_place() {
    let source = sources("src", ".rs");
    nowhere(&source, &["sqlx::", "sqlx;"], "sqlx is named only under src/store", |path| {
        path.starts_with("src/store/")
    });
    nowhere(&source, &["rdkafka::", "rdkafka;"], "rdkafka is named only under src/kafka", |path| {
        path.starts_with("src/kafka/")
    });
    nowhere(&source, &["axum::"], "axum is named only in src/http.rs", |path| path == "src/http.rs");
    let why = "OpenTelemetry is named only under src/trace";
    nowhere(&source, &["opentelemetry::", "opentelemetry_sdk::", "opentelemetry_otlp::"], why, |path| {
        path.starts_with("src/trace/")
    });
    let metrics: Vec<&str> = SERIES.iter().map(|series| series.name).collect();
    nowhere(&source, &metrics, "metric names stand only in src/metrics", |path| {
        path.starts_with("src/metrics")
    });
    for (directory, other) in [("src/store/", "crate::kafka"), ("src/kafka/", "crate::store")] {
        nowhere(&source, &[other], "store and kafka do not know each other", |path| {
            !path.starts_with(directory)
        });
    }
}

#[test]
fn the_rules_neither_wait_nor_log_nor_look_at_a_clock_nor_draw_lots() {
    let pure = ["policy", "ordering", "message", "partition", "verdict", "backoff", "receipt", "position"];
    let files: Vec<Source> = sources("src", ".rs")
        .into_iter()
        .filter(|source| pure.iter().any(|name| source.path == format!("src/{name}.rs")))
        .collect();
    assert_eq!(files.len(), pure.len());
    let words =
        [".await", "async ", "Instant::now", "SystemTime", "rand::", "tracing::", "std::env", "std::fs"];
    nowhere(&files, &words, "this file is pure: what it needs comes in as an argument", |_| false);
}

#[test]
fn nothing_is_left_lying_about() {
    let (source, tests) = (sources("src", ".rs"), sources("tests", ".rs"));
    let here = |path: &str| path == "tests/it/tidy.rs";
    for files in [&source, &tests] {
        nowhere(files, &["dbg!(", "todo!(", "unimplemented!(", "#[ignore"], "unfinished", here);
        let unsafe_file = |path: &str| here(path) || path == "src/kafka/status.rs";
        nowhere(files, &["unsafe {"], "no unsafe code", unsafe_file);
    }
    let why = "a test waits for an event with a deadline (support::wait)";
    // The fault harness and the drill hold faults for a time, and look at what is broken meanwhile; a proxy makes bytes late.
    let breaks = |path: &str| path.starts_with("tests/faults/") || path.starts_with("tests/drill/");
    nowhere(&tests, &["sleep("], why, |path| here(path) || breaks(path));
}

#[test]
fn crash_points_are_listed() {
    for source in sources("src", ".rs").iter().filter(|source| source.path != "src/crash_point.rs") {
        for (at, line) in source.code() {
            for (start, word) in line.match_indices("crash_point::") {
                let name: String = line[start + word.len()..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let listed = crash_point::ALL.iter().any(|point| point.to_uppercase() == name);
                const CALLS: [&str; 8] =
                    ["reach", "due", "crash", "work", "ends", "shortened", "is_fatal", "bug"];
                let known = listed || CALLS.contains(&name.as_str());
                assert!(known, "{}:{at}: {name} is not in crash_point::ALL", source.path);
            }
        }
    }
}

#[test]
fn every_seeded_bug_is_in_the_relay_and_has_a_scenario() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bite.sh");
    let script = std::fs::read_to_string(script).expect("scripts/bite.sh is there");
    let list =
        script.split("\nbugs='\n").nth(1).and_then(|rest| rest.split("\n'").next()).expect("it has a list");
    let mut listed: Vec<(&str, &str)> = list
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().expect("a bug"), words.next().expect("a scenario"))
        })
        .collect();
    let scenarios: String =
        sources("tests/faults/scenarios", ".rs").iter().map(|source| source.text.as_str()).collect();
    for (bug, scenario) in &listed {
        assert!(scenarios.contains(&format!("\"{scenario}\"")), "{bug}: there is no scenario {scenario}");
    }
    let source: String = sources("src", ".rs").iter().map(|source| source.text.as_str()).collect();
    for bug in crash_point::BUGS {
        assert!(source.contains(&format!("bug(\"{bug}\")")), "nothing of the relay has the bug {bug}");
        let at = listed.iter().position(|(name, _)| *name == bug);
        listed.remove(at.unwrap_or_else(|| panic!("scripts/bite.sh has no scenario for {bug}")));
    }
    assert!(listed.is_empty(), "scripts/bite.sh lists bugs that do not exist: {listed:?}");
}

#[test]
fn every_statement_has_a_head_and_one_function_that_loads_it() {
    let source = sources("src", ".rs");
    for sql in sources("src/store/sql", ".sql") {
        let head = sql.text.lines().take_while(|line| line.starts_with("-- ")).count();
        assert!(head >= 2, "{} needs a head: purpose, what no row means, guard, index", sql.path);
        let name = sql.path.rsplit('/').next().expect("a name");
        let loads = |source: &&Source| source.text.contains(&format!("include_str!(\"sql/{name}\")"));
        let loaded: Vec<&str> = source.iter().filter(loads).map(|source| source.path.as_str()).collect();
        assert_eq!(loaded.len(), 1, "{name} is loaded by {loaded:?}");
        let code = sql.text.lines().filter(|line| !line.trim_start().starts_with("--"));
        for word in ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", " FROM ", " WHERE "] {
            assert!(!code.clone().any(|line| line.contains(word)), "{name}: keywords are lowercase");
        }
    }
}

/// Statements that the extended protocol cannot prepare, and why that is right.
const NOT_PREPARED: &[(&str, &str)] =
    &[("migration_table.sql", "several statements, sent as one message before anything else exists")];

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_prepares_against_the_schema() {
    let env = Env::new().await;
    let mut connection = PgConnection::connect(&env.admin_url()).await.expect("connect");
    for sql in sources("src/store/sql", ".sql") {
        let prepared = (&mut connection).prepare(&sql.text).await;
        if NOT_PREPARED.iter().any(|(name, _)| sql.path.ends_with(&format!("/{name}"))) {
            assert!(prepared.is_err(), "{} prepares by now", sql.path);
        } else if let Err(error) = prepared {
            panic!("{}: {error}", sql.path);
        }
    }
}

/// The rows of a table in README: the cells below this heading, by the name in the first one.
fn table(heading: &str) -> BTreeMap<String, Vec<String>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("README.md is there");
    let section =
        text.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("README has no {heading}"));
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        // A bar inside a cell is escaped.
        let row = row.replace("\\|", "\u{0}");
        let cells =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').replace('\u{0}', "|"));
        let mut cells: Vec<String> = cells.collect();
        (cells.remove(0), cells)
    })
    .collect()
}

#[test]
fn readme_lists_every_configuration_key_with_its_default() {
    let mut rows = table("## Configuration");
    for key in TOPIC_KEYS {
        rows.remove(key.name);
    }
    for key in KEYS {
        let row = rows.remove(key.name).unwrap_or_else(|| panic!("README does not list {}", key.name));
        assert_eq!(row[0], key.default, "default of {}", key.name);
        assert!(row.len() == 2 && !row[1].is_empty(), "README does not say what {} means", key.name);
    }
    assert!(rows.is_empty(), "README lists keys that do not exist: {:?}", rows.keys());
}

#[test]
fn readme_lists_every_key_of_a_topic_section() {
    let mut rows = table("### Topics");
    for key in TOPIC_KEYS {
        let row = rows.remove(key.name).unwrap_or_else(|| panic!("README does not list {}", key.name));
        assert_eq!(row[0], key.default, "default of {}", key.name);
    }
    assert!(rows.is_empty(), "README lists keys that do not exist: {:?}", rows.keys());
}

#[test]
fn every_row_of_readmes_failure_table_names_its_test() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("README.md is there");
    let section = text.split("\n## When something fails\n").nth(1).expect("README has the table");
    let section = section.split("\n## ").next().unwrap_or(section);
    let tests: String = sources("tests", ".rs").iter().map(|source| source.text.as_str()).collect();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "the table has {} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 5, "{row}");
        let test = cells[4].trim().trim_matches('`');
        assert!(tests.contains(&format!("fn {test}()")), "there is no test {test}");
    }
}

#[test]
fn readme_lists_every_metric_with_its_kind_and_labels() {
    let mut rows = table("## Metrics");
    for series in SERIES {
        let row = rows.remove(series.name).unwrap_or_else(|| panic!("README does not list {}", series.name));
        assert_eq!(row[0], series.kind.as_str(), "kind of {}", series.name);
        let labels: Vec<&str> = row[1].split(',').map(|label| label.trim().trim_matches('`')).collect();
        let labels: Vec<&str> = labels.into_iter().filter(|label| !label.is_empty()).collect();
        assert_eq!(labels, series.labels, "labels of {}", series.name);
        assert!(row.len() == 3 && !row[2].is_empty(), "README does not say what {} means", series.name);
    }
    assert!(rows.is_empty(), "README lists metrics that do not exist: {:?}", rows.keys());
}
