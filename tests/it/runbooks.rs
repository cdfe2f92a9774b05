//! Alerts and runbooks belong together, and what they tell people to type is understood by the real command line and the real schema.

mod typed;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser;
use outbox_relay::cli::Cli;
use sqlx::Executor;

use crate::support::Env;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Pages below docs, and README.
fn pages() -> Vec<PathBuf> {
    let (mut open, mut found) = (vec![root().join("docs")], vec![root().join("README.md")]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.extension() {
                _ if path.is_dir() => open.push(path),
                Some(extension) if extension == "md" => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// The texts of all blocks in this language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The rules as text, one item for each alert, with everything that belongs to it.
fn alerts() -> Vec<(String, String)> {
    let rules = read(&root().join("deploy/monitoring/rules.yml"));
    let parts = rules.split("\n  - alert: ").skip(1);
    let alerts = parts.map(|part| {
        let (name, rest) = part.split_once('\n').expect("a name and a body");
        let body = rest.split("\n  - ").next().unwrap_or(rest);
        (name.to_owned(), body.split("\n- name: ").next().unwrap_or(body).to_owned())
    });
    alerts.collect()
}

#[test]
fn every_alert_says_what_it_is_and_has_a_runbook_and_no_runbook_is_without_one() {
    let alerts = alerts();
    assert!(alerts.len() > 20, "{} alerts were found", alerts.len());
    for (name, body) in &alerts {
        for part in ["severity: ", "summary: ", "description: ", "dashboard_url: ", &format!("/{name}.md\n")]
        {
            assert!(body.contains(part), "{name} lacks {part}");
        }
        let page = read(&root().join("docs/runbooks").join(format!("{name}.md")));
        let mut rest = page.as_str();
        for heading in [
            &format!("# {name}\n"),
            "\n## Meaning\n",
            "\n## Impact\n",
            "\n## Diagnosis\n",
            "\n## Mitigation\n",
        ] {
            let at = rest
                .find(heading)
                .unwrap_or_else(|| panic!("{name}.md lacks {heading:?}, or has it elsewhere"));
            rest = &rest[at + 1..];
        }
        assert!(
            page.contains("**Lost:**") && page.contains("**Stuck:**"),
            "{name}.md: is anything lost, what is stuck?"
        );
        let has_block = page.contains("```sh\n") || page.contains("```sql\n");
        assert!(has_block, "{name}.md says nothing that one could type");
    }
    let known: BTreeSet<String> = alerts.into_iter().map(|(name, _)| format!("{name}.md")).collect();
    for entry in std::fs::read_dir(root().join("docs/runbooks")).expect("a directory") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(name == "README.md" || known.contains(&name), "{name} is about no alert");
    }
}

#[test]
fn whatever_names_an_alert_or_a_recorded_series_names_one_that_exists() {
    let rules = read(&root().join("deploy/monitoring/rules.yml"));
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let alerts: BTreeSet<String> = alerts().into_iter().map(|(name, _)| name).collect();
    let mut files = pages();
    for directory in ["deploy/monitoring", "deploy/grafana"] {
        let Ok(entries) = std::fs::read_dir(root().join(directory)) else { continue };
        // The sources build names out of parts.
        files.extend(entries.map(|entry| entry.expect("an entry").path()).filter(|path| {
            path.extension().is_some_and(|extension| extension == "yml" || extension == "json")
        }));
    }
    let mut named = 0;
    for file in files {
        let text = read(&file);
        let word = |at: usize| -> String {
            text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect()
        };
        for (at, _) in text.match_indices("outbox:") {
            let name = word(at);
            // The role's name in a URL, or a pattern of names.
            if text[at + name.len()..].starts_with(['<', '…', '*']) || name == "outbox:" {
                continue;
            }
            named += 1;
            assert!(
                recorded.contains(name.trim_end_matches(':')),
                "{}: no rule records {name}",
                file.display()
            );
        }
        for (at, _) in text.match_indices("Outbox") {
            let name = word(at);
            assert!(
                name == "Outbox" || alerts.contains(&name),
                "{}: there is no alert {name}",
                file.display()
            );
        }
    }
    assert!(named > 50, "{named} names were found");
}

/// What a shell makes of a line: its words, without comment, pipe and redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#' | '|' | '>' | ';' | '&') if word.is_none() => return words,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn a_line_is_split_as_a_shell_does() {
    assert_eq!(words("a 'b c' --d=\"e f\"  g # h"), ["a", "b c", "--d=e f", "g"]);
    assert_eq!(words("a '' b > c"), ["a", "", "b"]);
}

#[test]
fn every_command_of_every_page_is_understood() {
    let mut commands = 0;
    for page in pages() {
        let text = read(&page);
        for line in blocks(&text, "sh").into_iter().flat_map(str::lines) {
            let words = words(line.trim().trim_start_matches("$ "));
            if words.first().is_some_and(|word| word == "outbox-relay") {
                commands += 1;
                if let Err(error) = Cli::try_parse_from(&words) {
                    assert!(
                        matches!(
                            error.kind(),
                            clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                        ),
                        "{}: {line}\n{error}",
                        page.display()
                    );
                }
            }
        }
    }
    assert!(commands > 80, "{commands} commands were found");
}

#[test]
fn the_game_day_has_every_entry_and_names_scenarios_that_are_played() {
    let page = read(&root().join("docs/game-day.md"));
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    for entry in [
        "broker down",
        "network cut",
        "packet loss",
        "consumer crash before ack",
        "dead-letter flood",
        "retention changed",
        "burst",
        "zombie leader",
        "database failover",
        "on-call exercise",
    ] {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| {entry} |"))), "{entry} has no entry");
    }
    let scenarios: String = std::fs::read_dir(root().join("tests/faults/scenarios"))
        .expect("a directory")
        .map(|entry| read(&entry.expect("an entry").path()))
        .collect();
    for row in rows {
        let machine = row.trim_end_matches('|').rsplit('|').next().expect("a last column");
        for name in machine.split('`').skip(1).step_by(2) {
            assert!(scenarios.contains(&format!("\"{name}\"")), "make faults plays no {name}: {row}");
        }
    }
}

#[tokio::test]
async fn every_statement_of_the_runbooks_runs_on_the_schema() {
    let env = Env::new().await;
    let mut statements = 0;
    for page in pages().into_iter().filter(|page| !page.ends_with("README.md")) {
        let text = read(&page);
        for statement in blocks(&text, "sql").into_iter().flat_map(str::lines).filter(|line| !line.is_empty())
        {
            statements += 1;
            if let Err(error) = env.admin().execute(statement).await {
                panic!("{}: {statement}\n{error}", page.display());
            }
        }
    }
    assert!(statements > 5, "{statements} statements were found");
}
