//! `outbox-relay keys`: keys whose messages wait behind one that failed.

use std::process::ExitCode;

use super::print;
use super::table::{Table, dash, maybe_time, time};
use super::talk::say;
use crate::cli::operate::KeysCommand;
use crate::store::Session;
use crate::store::inspect;

/// Does what was asked for.
pub async fn run(session: &mut Session, command: KeysCommand) -> anyhow::Result<ExitCode> {
    let KeysCommand::List { topic, limit, show } = command;
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
