//! What the pages for operators tell people to type is typed, line after line, at a relay with dead letters, a blocked key and
//! requests that are in effect: each line does what it says, and none ends with an error.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitStatus;

use tokio::process::Command;

use super::{blocks, pages, read, words};
use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env};

/// Names that the pages use, and that Kafka here has under others.
const TOPICS: [&str; 3] = ["orders", "clicks", "reports"];

/// What a table's row has in code: the routines.
fn in_rows(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with('|')).flat_map(|row| row.split('`').skip(1).step_by(2))
}

/// The lines of runbooks, checklists and routines that call the relay's own program, each once, in the order of the pages.
fn lines() -> Vec<(PathBuf, String)> {
    let is_for_operators = |page: &PathBuf| {
        let name = page.file_name().expect("a name").to_string_lossy();
        page.parent().is_some_and(|directory| directory.ends_with("runbooks"))
            || ["checklists.md", "game-day.md", "tuning.md", "upgrade.md"].contains(&&*name)
    };
    let (mut known, mut found) = (BTreeSet::new(), Vec::new());
    for page in pages().into_iter().filter(is_for_operators) {
        let text = read(&page);
        let routines = if page.ends_with("checklists.md") { &*text } else { "" };
        for line in blocks(&text, "sh").into_iter().flat_map(str::lines).chain(in_rows(routines)) {
            let line = line.split(" # ").next().unwrap_or(line).trim().to_owned();
            if line.starts_with("outbox-relay ") && known.insert(line.clone()) {
                found.push((page.clone(), line));
            }
        }
    }
    found
}

/// A dead letter, a key that is blocked behind a row that is tried again in an hour, and a rate that somebody has set.
async fn prepare(env: &Env, orders: &str, reports: &str) -> Vec<(&'static str, String)> {
    env.execute(
        "select outbox.cancel(id) from outbox.request where state in ('asked', 'running') and kind <> 'cancel'",
    )
    .await;
    env.eventually_true("select not exists (select from outbox.request where state in ('asked', 'running'))")
        .await;
    env.execute(&format!(
        "insert into outbox.message (topic, key, payload, expires_at) values ('{orders}', 'late', 'x', now() - interval '1 minute')"
    ))
    .await;
    let blocked = "exists (select from outbox.deferred where convert_from(key, 'UTF8') = 'order-7')";
    if !env.one::<bool>(&format!("select {blocked}")).await {
        write(env, &[Line::new(orders, "order-7", 0).of_bytes(5000)]).await;
    }
    env.eventually_true(&format!(
        "select {blocked} and exists (select from outbox.dead_letter where state = 'open')"
    ))
    .await;
    let rate = env.one::<i64>(&format!("select outbox.set_rate('{reports}', 500)")).await;
    env.eventually_true(&format!("select state = 'running' from outbox.request where id = {rate}")).await;
    let letter: i64 = env.one("select min(id) from outbox.dead_letter where state = 'open'").await;
    let group: String = env.one("select min(fingerprint) from outbox.dead_letter where state = 'open'").await;
    vec![("4711", letter.to_string()), ("a1b2c3", group), ("17", rate.to_string())]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_pages_for_operators_does_its_work() {
    let env = Env::new().await;
    let mut named = Vec::new();
    for name in TOPICS {
        let limit: &[(&str, &str)] = if name == "orders" { &[("max.message.bytes", "2000")] } else { &[] };
        named.push((name, env.create_topic(name, 1, limit).await));
    }
    let relay = env.relay().await.set("retry.base", "1h").set("retry.max", "1h").set("lease.ttl", "1s");
    let _relay = relay.topic("*", "on_expiry = 'dead_letter'").expect_errors().start().await;
    let lines = lines();
    assert!(lines.len() > 60, "{} commands were found", lines.len());
    for (page, line) in lines {
        let mut names = named.clone();
        // Others find enough to look at.
        if ["dlq ", "keys ", "message ", "cancel "].iter().any(|word| line.contains(word)) {
            names.extend(prepare(&env, &named[0].1, &named[2].1).await);
        }
        let arguments: Vec<String> = words(&line)
            .into_iter()
            .skip(1)
            .map(|word| names.iter().find(|(name, _)| *name == word).map_or(word, |(_, real)| real.clone()))
            .collect();
        let (mut ended, mut text) = typed(&env, &arguments).await;
        // Somebody at a terminal is asked, and says yes.
        if text.contains("say --yes") {
            (ended, text) = typed(&env, &[&arguments[..], &["--yes".to_owned()]].concat()).await;
        }
        // A check finds the row that is too large, which is what it is for.
        let found = line == "outbox-relay check" && text.contains("max.message.bytes is 2000");
        assert!(ended.success() || found, "{}: {line}\n{ended}: {text}", page.display());
    }
}

/// How the command ended, and all that it said.
async fn typed(env: &Env, arguments: &[String]) -> (ExitStatus, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("DATABASE_URL", env.admin_url()).env("KAFKA_BROKERS", env.kafka().await.server.brokers());
    let said = tokio::time::timeout(DEADLINE, command.kill_on_drop(true).output()).await;
    let said = said.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("it starts");
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    (said.status, text)
}
