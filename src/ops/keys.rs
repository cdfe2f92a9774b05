//! `outbox-relay keys`: keys whose messages wait behind one that failed; what to do about them.

use std::process::ExitCode;

use super::carry_out::carry_out;
use super::print;
use super::table::{Table, dash, maybe_time, time};
use super::talk::say;
use crate::cli::operate::{KeysCommand, OfKey, OfTopic};
use crate::store::Session;
use crate::store::ask::Ask;
use crate::store::inspect;

/// Does what was asked for.
pub async fn run(session: &mut Session, command: KeysCommand) -> anyhow::Result<ExitCode> {
    let (topic, limit, show) = match command {
        KeysCommand::List { topic, limit, show } => (topic, limit, show),
        KeysCommand::RetryNow { of: OfTopic { topic, key, key_base64 }, change } => {
            let ask = of_key(Ask::retry_now(&topic, key.as_deref()), key_base64.as_deref());
            let of = key.or(key_base64).map_or(String::new(), |key| format!("key {key} of "));
            return carry_out(
                session,
                ask,
                &change,
                &format!("try now what waits of {of}topic {topic}"),
                None,
            )
            .await;
        }
        KeysCommand::SkipHead { of: OfKey { topic, key, key_base64 }, change } => {
            let ask =
                of_key(Ask::skip_head(&topic, key.as_deref().unwrap_or_default()), key_base64.as_deref());
            let key = key.or(key_base64).unwrap_or_default();
            let what =
                format!("send the message that key {key} of topic {topic} waits for to the dead letters");
            return carry_out(session, ask, &change, &what, None).await;
        }
        KeysCommand::Release { of: OfKey { topic, key, key_base64 }, change } => {
            let ask = of_key(Ask::release(&topic, key.as_deref().unwrap_or_default()), key_base64.as_deref());
            let key = key.or(key_base64).unwrap_or_default();
            let what = format!(
                "let messages of key {key} of topic {topic} pass the one that they wait for, out of order"
            );
            return carry_out(session, ask, &change, &what, None).await;
        }
    };
    let keys = inspect::blocked_keys(session, topic.as_deref(), limit).await?;
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

fn of_key(ask: Ask, key_base64: Option<&str>) -> Ask {
    match key_base64 {
        Some(key) => ask.key_base64(key),
        None => ask,
    }
}
