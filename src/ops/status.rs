//! `outbox-relay status`: one screen for a tired person: is it moving, what is stuck, does anything need me.

use std::process::ExitCode;
use std::time::Duration;

use super::print;
use super::table::{Table, dash, facts, maybe_time, time};
use crate::cli::operate::Show;
use crate::store::Session;
use crate::store::inspect::{self, Announced, RequestRow, Status};

/// Topics on the screen.
const TOPICS: usize = 10;
/// Pauses, rates and policies on the screen.
const IN_EFFECT: usize = 3;

/// Shows it. `ttl` is `lease.ttl`.
pub async fn run(session: &mut Session, show: Show, ttl: Duration) -> anyhow::Result<ExitCode> {
    let status = inspect::status(session, ttl).await?;
    print::found(show.output, &status, || as_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

/// What an operator has set, and until when: `orders paused until 2026-01-31 12:00:00+00:00`.
fn effect_until(request: &RequestRow) -> String {
    let until = request.expires_at.as_ref().map_or(String::new(), |at| format!(" until {}", time(at)));
    effect(request) + &until
}

/// What an operator has set: `orders paused`, `all topics 500 a second`.
pub fn effect(request: &RequestRow) -> String {
    let topics = request.topic.as_deref().unwrap_or("all topics");
    let value =
        |name: &str| request.value.as_ref().and_then(|value| value.get(name)).map(ToString::to_string);
    let what = match request.kind.as_str() {
        "pause" => "paused".to_owned(),
        "rate" => match value("rate").as_deref() {
            None | Some("null") => "without a rate".to_owned(),
            Some(rate) => format!("{rate} a second"),
        },
        _ => format!("policy {}", request.value.as_ref().map_or_else(dash, ToString::to_string)),
    };
    format!("{topics} {what}")
}

fn as_text(status: &Status) -> String {
    let o = &status.overview;
    let leader = match &o.holder {
        None => "nobody leads; is a relay running?".to_owned(),
        Some(holder) => {
            let silent = if status.silent { " (silent, and no standby has taken over)" } else { "" };
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
    let mut known = vec![
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
        ("in effect", in_effect(&status.in_effect)),
    ];
    if let Some(work) = &o.maintenance {
        known.push(("maintenance", announced(work)));
    }
    let mut text = facts(&known);
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

/// Planned work: `until 2026-01-31 12:00:00+00:00, by admin: kafka upgrade`.
fn announced(work: &Announced) -> String {
    let until = time(&work.until);
    let when = match work.overdue {
        false => format!("until {until}"),
        true => format!("overdue since {until} (resume what is paused, or outbox-relay maintenance end)"),
    };
    let why = work.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
    format!("{when}, by {}{why}", work.who)
}

fn in_effect(requests: &[RequestRow]) -> String {
    let shown: Vec<String> = requests.iter().take(IN_EFFECT).map(effect_until).collect();
    match requests.len() {
        0 => "nothing is paused, paced or changed".to_owned(),
        all if all > IN_EFFECT => format!("{}; and {} more", shown.join("; "), all - IN_EFFECT),
        _ => shown.join("; "),
    }
}
