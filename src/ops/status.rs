//! `outbox-relay status`: one screen for a tired person: is it moving, what is stuck, does anything need me.

use std::process::ExitCode;

use serde::Serialize;

use super::print;
use super::table::{Table, dash, facts, maybe_time, time};
use crate::cli::operate::Show;
use crate::store::Session;
use crate::store::inspect::{self, Overview, TopicRow};

/// A leader that has said nothing for so long is taken for dead by its standbys.
const SILENT_SECONDS: f64 = 15.0;
/// Topics on the screen.
const TOPICS: usize = 12;

/// What `status` shows.
#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    overview: Overview,
    topics: Vec<TopicRow>,
}

/// Shows it.
pub async fn run(session: &mut Session, show: Show) -> anyhow::Result<ExitCode> {
    let overview = inspect::overview(session).await?;
    let status = Status { overview, topics: inspect::topics(session).await? };
    print::found(show.output, &status, || as_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn as_text(status: &Status) -> String {
    let o = &status.overview;
    let leader = match &o.holder {
        None => "nobody leads; is a relay running?".to_owned(),
        Some(holder) => {
            let silent = if o.beat_seconds > SILENT_SECONDS { " (silent: standbys take over)" } else { "" };
            let since = maybe_time(o.since.as_ref());
            format!(
                "{holder} since {since}, epoch {}, last beat {:.1} s ago{silent}",
                o.epoch, o.beat_seconds
            )
        }
    };
    let lag = match &o.oldest {
        None => "0 s, nothing waits".to_owned(),
        Some(oldest) => format!("{:.1} s, the oldest message is of {}", o.lag_seconds, time(oldest)),
    };
    let letters = match o.dead_letters {
        0 => "none".to_owned(),
        letters => format!(
            "{letters} of {} causes, since {} (outbox-relay dlq groups)",
            o.causes,
            maybe_time(o.oldest_dead_letter.as_ref())
        ),
    };
    let mut text = facts(&[
        ("leader", leader),
        ("lag", lag),
        ("unread", o.ready.to_string()),
        (
            "put off",
            format!("{} retrying, {} behind one of them, {} scheduled", o.retrying, o.behind, o.scheduled),
        ),
        ("in lanes", o.laned.to_string()),
        ("blocked keys", o.blocked_keys.to_string()),
        ("dead letters", letters),
        ("open requests", o.open_requests.to_string()),
    ]);
    let mut table = Table::new(["TOPIC", "LANE", "WAITING", "PUT OFF", "DEAD", "OLDEST"]);
    for topic in status.topics.iter().take(TOPICS) {
        table.row([
            topic.topic.clone(),
            topic.cause.clone().unwrap_or_else(dash),
            topic.waiting.to_string(),
            (topic.retrying + topic.behind).to_string(),
            topic.dead_letters.to_string(),
            maybe_time(topic.oldest.as_ref()),
        ]);
    }
    if !status.topics.is_empty() {
        text.push('\n');
        text.push_str(&table.render(""));
    }
    if status.topics.len() > TOPICS {
        text.push_str(&format!("and {} more: outbox-relay topics list\n", status.topics.len() - TOPICS));
    }
    text
}
