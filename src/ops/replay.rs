//! `outbox-relay replay`: published messages again, to whoever has lost them or comes late.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Map, Value};

use super::carry_out::carry_out;
use super::talk::say;
use crate::cli::operate::ReplayOptions;
use crate::config::ConsumersConfig;
use crate::store::Session;
use crate::store::ask::Ask;
use crate::store::inspect::{self, Wanted};
use crate::store::replay::{self, RowFilter};

/// Messages that one event id may belong to: producers may use one twice.
const OF_ONE_EVENT: i64 = 100;

/// More are not counted.
const COUNTED: i64 = 1_000_000;

/// Asks for it, and follows what becomes of it.
pub async fn run(
    session: &mut Session,
    consumers: &ConsumersConfig,
    options: ReplayOptions,
) -> anyhow::Result<ExitCode> {
    let mut filter = filter_of(session, &options).await?;
    if filter.is_empty() {
        if !options.all {
            bail!(
                "it names no messages: give --id, --event-id, --from-id, --until-id, --from, --until, --topic or --key, or --all \
                 for everything that retention has left"
            );
        }
        filter.written_until = Some("now".to_owned());
    }
    if let Some(why) = replay::horizon(session, &filter).await?.refusal() {
        bail!("{why}");
    }
    let count = replay::count(session, &filter, consumers.dedupe_window).await?;
    let rows = options.max.map_or(count.rows, |max| count.rows.min(max));
    let (Some(first), Some(last)) = (count.first_id, count.last_id) else {
        say(
            "no published message fits; what waits, was put off or has died goes by itself or by outbox-relay dlq requeue",
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    look_at_window(count.beyond, options.beyond_window, consumers.dedupe_window)?;
    let fields = match serde_json::to_value(&filter)? {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let ask = Ask::replay(fields, options.to.as_deref(), options.beyond_window).lasting(options.lasting);
    let ask = match options.rate {
        Some(rate) => ask.pace(rate),
        None => ask,
    };
    let to = options.to.as_ref().map_or(String::new(), |to| format!(" to {to}"));
    let pace = options.rate.map_or(String::new(), |rate| format!(", {rate} a second"));
    let (rows, of) = match rows {
        0..=COUNTED => (rows.to_string(), Some(rows)),
        _ => (format!("more than {COUNTED}"), None),
    };
    let would = format!(
        "send {rows} published messages of {} topics again{to}{pace}: ids {first} to {last}",
        count.topics
    );
    carry_out(session, ask, &options.change, &would, of).await
}

/// Messages that are older than what consumers remember may have their effects twice: whoever sends them has to know.
pub(super) fn look_at_window(beyond: i64, is_meant: bool, window: Duration) -> anyhow::Result<()> {
    if beyond == 0 {
        return Ok(());
    }
    let window = humantime::format_duration(window);
    if !is_meant {
        bail!(
            "{beyond} of these were written more than {window} ago (consumers.dedupe_window): consumers may have forgotten that they \
             know them, and act twice. Say --beyond-window if that is meant; their records get the header outbox-replay"
        );
    }
    say(&format!("{beyond} of these are older than {window}: consumers may act on them a second time"))?;
    Ok(())
}

async fn filter_of(session: &mut Session, options: &ReplayOptions) -> anyhow::Result<RowFilter> {
    let ReplayOptions {
        id,
        event_id,
        within,
        from_id,
        until_id,
        from,
        until,
        topic,
        key,
        key_base64,
        max,
        ..
    } = options.clone();
    let mut ids = id;
    for event in event_id {
        let found = inspect::find(session, &Wanted::Event(event), within, OF_ONE_EVENT).await?;
        if found.is_empty() {
            bail!(
                "no message with event id {event} was written within {}; --within looks further back",
                humantime::format_duration(within)
            );
        }
        ids.extend(found);
    }
    ids.sort_unstable();
    ids.dedup();
    let time = |text: String| replay::time(&text);
    let (written_from, written_until) = (from.map(time), until.map(time));
    Ok(RowFilter { ids, from_id, until_id, written_from, written_until, topic, key, key_base64, max })
}
