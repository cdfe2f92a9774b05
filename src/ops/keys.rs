//! `outbox-relay keys`: keys whose messages wait behind one that failed; what to do about them.

use std::process::ExitCode;

use super::carry_out::carry_out;
use super::print;
use super::table::{Table, dash, maybe_time, time};
use super::talk::say;
use crate::cli::operate::{KeysCommand, OfTopic, Show};
use crate::store::Session;
use crate::store::ask::Ask;
use crate::store::inspect;

/// Does what was asked for.
pub async fn run(session: &mut Session, command: KeysCommand) -> anyhow::Result<ExitCode> {
    let (ask, key_base64, change, what) = match command {
        KeysCommand::List { topic, limit, show } => {
            return list(session, topic.as_deref(), limit, show).await;
        }
        KeysCommand::RetryNow { of: OfTopic { topic, key, key_base64 }, change } => {
            let of =
                key.as_ref().or(key_base64.as_ref()).map_or(String::new(), |key| format!("key {key} of "));
            let what = format!("try now what waits of {of}topic {topic}");
            (Ask::retry_now(&topic, key.as_deref()), key_base64, change, what)
        }
        KeysCommand::SkipHead { of, change } => {
            let what = format!("send the message that {of} waits for to the dead letters");
            (Ask::skip_head(&of.topic, of.key.as_deref().unwrap_or_default()), of.key_base64, change, what)
        }
        KeysCommand::Release { of, change } => {
            let what = format!("let messages of {of} pass the one that they wait for, out of order");
            (Ask::release(&of.topic, of.key.as_deref().unwrap_or_default()), of.key_base64, change, what)
        }
    };
    let ask = match key_base64 {
        Some(key) => ask.key_base64(&key),
        None => ask,
    };
    carry_out(session, ask, &change, &what, None).await
}

async fn list(
    session: &mut Session,
    topic: Option<&str>,
    limit: i64,
    show: Show,
) -> anyhow::Result<ExitCode> {
    let keys = inspect::blocked_keys(session, topic, limit).await?;
    print::found(show.output, &keys, || {
        let mut table =
            Table::new(["TOPIC", "KEY", "HEAD", "SINCE", "BEHIND IT", "ATTEMPTS", "NEXT TRY", "ERROR"]);
        for key in &keys {
            table.row([
                key.topic.clone(),
                key.key.clone().unwrap_or_else(dash),
                key.head_id.to_string(),
                time(&key.since),
                key.waiting.to_string(),
                key.attempts.to_string(),
                maybe_time(key.due_at.as_ref()),
                key.error.clone().unwrap_or_else(dash),
            ]);
        }
        table.render("no key is blocked")
    })?;
    if keys.len() as i64 == limit {
        say(&format!("only the first {limit}; --limit shows more"))?;
    }
    Ok(ExitCode::SUCCESS)
}
