//! `outbox-relay dlq`: dead letters by cause and one by one; send them again, give them up, take them elsewhere.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::carry_out::carry_out;
use super::print;
use super::replay;
use super::table::{Table, dash, facts, maybe_time, time};
use super::talk::say;
use crate::cli::operate::{Change, DlqCommand, Filter};
use crate::config::ConsumersConfig;
use crate::store::ask::{Ask, Letters};
use crate::store::inspect::{self, Content, Letter, LetterFilter, LetterGroup};
use crate::store::{self, Session};

/// Letters of one page of an export.
const PAGE: i64 = 1000;

/// Does what was asked for.
pub async fn run(
    session: &mut Session,
    consumers: &ConsumersConfig,
    command: DlqCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        DlqCommand::Groups { show } => {
            let groups = inspect::letter_groups(session).await?;
            print::found(show.output, &groups, || groups_as_text(&groups))?;
        }
        DlqCommand::List { filter, all, limit, show } => {
            let letters = inspect::letters(session, &filter_of(&filter), &states(all), 0, limit).await?;
            print::found(show.output, &letters, || letters_as_text(&letters))?;
            if letters.len() as i64 == limit {
                say(&format!("only the first {limit}; --limit shows more"))?;
            }
        }
        DlqCommand::Show { id, show_payload, show } => {
            let only = LetterFilter { ids: vec![id], ..LetterFilter::default() };
            let letter = inspect::letters(session, &only, &states(true), 0, 1).await?.pop();
            let letter = letter.with_context(|| format!("there is no dead letter {id}"))?;
            let content = match show_payload {
                true => inspect::reveal(session, &[id], Some("dlq show")).await?.pop(),
                false => None,
            };
            print::found(show.output, &with_content(&letter, content.as_ref())?, || {
                letter_as_text(&letter, content.as_ref())
            })?;
        }
        DlqCommand::Requeue { filter, all, rate, max, beyond_window, change } => {
            let (letters, count) = meant(session, &filter, all, max, consumers).await?;
            let Some(count) = count else { return nothing() };
            replay::look_at_window(count.beyond, beyond_window, consumers.dedupe_window)?;
            let ask = match rate {
                Some(rate) => Ask::requeue(letters).pace(rate),
                None => Ask::requeue(letters),
            };
            let pace = rate.map_or(String::new(), |rate| format!(", {rate} a second"));
            return carry_out(
                session,
                ask,
                &change,
                &format!("send {} again{pace}", count.text),
                Some(count.rows),
            )
            .await;
        }
        DlqCommand::Discard { filter, all, reason, max, dry_run, yes, no_wait } => {
            let (letters, count) = meant(session, &filter, all, max, consumers).await?;
            let Some(count) = count else { return nothing() };
            let change = Change { dry_run, yes, no_wait, why: Some(reason) };
            return carry_out(
                session,
                Ask::discard(letters),
                &change,
                &format!("give up {}", count.text),
                Some(count.rows),
            )
            .await;
        }
        DlqCommand::Export { filter, all, show_payload } => {
            export(session, &filter, all, show_payload).await?
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How many letters a filter names, and how a sentence calls them.
struct Count {
    rows: i64,
    /// Written so long ago that consumers may have forgotten them.
    beyond: i64,
    text: String,
}

/// The letters of a filter, which must name some on purpose; `None`: there is none.
async fn meant(
    session: &mut Session,
    filter: &Filter,
    all: bool,
    max: Option<u64>,
    consumers: &ConsumersConfig,
) -> anyhow::Result<(Letters, Option<Count>)> {
    let filter = filter_of(filter);
    if filter.is_empty() && !all {
        bail!(
            "it names no dead letters: give --id, --group, --topic, --key, --from or --until, or --all for every open one"
        );
    }
    let count = inspect::count_letters(session, &filter, consumers.dedupe_window).await?;
    let rows = max.map_or(count.letters, |max| count.letters.min(i64::try_from(max).unwrap_or(i64::MAX)));
    let text =
        format!("{rows} dead letters of {} topics, which died of {} causes,", count.topics, count.causes);
    let mut fields = match serde_json::to_value(&filter)? {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if all {
        fields.entry("dead_until").or_insert_with(|| json!("now"));
    }
    if let Some(max) = max {
        fields.insert("max".to_owned(), json!(max));
    }
    Ok((Letters::of_filter(fields), (rows > 0).then_some(Count { rows, beyond: count.beyond, text })))
}

fn nothing() -> anyhow::Result<ExitCode> {
    say("no open dead letter fits; outbox-relay dlq groups shows those there are")?;
    Ok(ExitCode::SUCCESS)
}

/// The filter in the server's words.
fn filter_of(filter: &Filter) -> LetterFilter {
    let Filter { id, group, topic, key, key_base64, from, until } = filter.clone();
    let time = |text: String| store::replay::time(&text);
    LetterFilter {
        ids: id,
        fingerprint: group,
        topic,
        key,
        key_base64,
        dead_from: from.map(time),
        dead_until: until.map(time),
    }
}

fn states(all: bool) -> Vec<String> {
    let states: &[&str] = if all { &["open", "requeued", "discarded"] } else { &["open"] };
    states.iter().map(|&state| state.to_owned()).collect()
}

async fn export(session: &mut Session, filter: &Filter, all: bool, show_payload: bool) -> anyhow::Result<()> {
    let (filter, states) = (filter_of(filter), states(all));
    let (mut after, mut exported) = (0, 0);
    loop {
        let letters = inspect::letters(session, &filter, &states, after, PAGE).await?;
        let Some(last) = letters.last() else { break };
        after = last.id;
        exported += letters.len();
        let contents = match show_payload {
            true => {
                let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
                inspect::reveal(session, &ids, Some("dlq export")).await?
            }
            false => Vec::new(),
        };
        let mut lines = String::new();
        for letter in &letters {
            let content = contents.iter().find(|content| content.id == letter.id);
            lines.push_str(&serde_json::to_string(&with_content(letter, content)?)?);
            lines.push('\n');
        }
        print::data(&lines)?;
    }
    say(&format!("{exported} dead letters"))?;
    Ok(())
}

fn with_content(letter: &Letter, content: Option<&Content>) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(letter)?;
    if let (Value::Object(fields), Some(content)) = (&mut value, content) {
        fields.insert("payload_base64".to_owned(), json!(content.payload_base64));
        fields.insert("headers".to_owned(), json!(content.headers));
    }
    Ok(value)
}

fn groups_as_text(groups: &[LetterGroup]) -> String {
    let mut table =
        Table::new(["FINGERPRINT", "LETTERS", "REASON", "FIRST", "LAST", "TOPICS", "SAMPLE", "ERROR"]);
    for group in groups {
        table.row([
            group.fingerprint.clone(),
            group.letters.to_string(),
            group.reason.clone(),
            time(&group.first_failed_at),
            time(&group.last_failed_at),
            group.topics.join(","),
            group.sample_id.to_string(),
            group.error.clone(),
        ]);
    }
    table.render("no dead letters")
}

fn letters_as_text(letters: &[Letter]) -> String {
    let mut table =
        Table::new(["ID", "TOPIC", "KEY", "STATE", "REASON", "ATTEMPTS", "DEAD SINCE", "FINGERPRINT"]);
    for letter in letters {
        table.row([
            letter.id.to_string(),
            letter.topic.clone(),
            letter.key.clone().unwrap_or_else(dash),
            letter.state.clone(),
            letter.reason.clone(),
            letter.attempts.to_string(),
            time(&letter.dead_at),
            letter.fingerprint.clone(),
        ]);
    }
    table.render("no dead letters")
}

fn letter_as_text(letter: &Letter, content: Option<&Content>) -> String {
    let mut lines = vec![
        ("id", letter.id.to_string()),
        ("event id", letter.event_id.clone()),
        ("topic", letter.topic.clone()),
        ("key", letter.key.clone().unwrap_or_else(dash)),
        ("state", letter.state.clone()),
        ("reason", letter.reason.clone()),
        ("error", letter.error.clone()),
        ("fingerprint", letter.fingerprint.clone()),
        ("attempts", letter.attempts.to_string()),
        ("requeued", letter.requeued.to_string()),
        ("written", time(&letter.created_at)),
        ("first failed", time(&letter.first_failed_at)),
        ("last failed", time(&letter.last_failed_at)),
        ("dead since", time(&letter.dead_at)),
        ("changed", maybe_time(letter.changed_at.as_ref())),
    ];
    if let Some(copy) = &letter.copy_topic {
        lines.push(("copy", format!("{copy}, {}", maybe_time(letter.copied_at.as_ref()))));
    }
    if let Some(content) = content {
        lines.push(("headers", content.headers.as_ref().map_or_else(dash, Value::to_string)));
        lines.push((
            "payload (base64)",
            content.payload_base64.as_ref().map_or_else(dash, |text| text.replace('\n', "")),
        ));
    }
    facts(&lines)
}
