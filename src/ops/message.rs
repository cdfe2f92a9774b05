//! `outbox-relay message`: what became of one message, or of the newest ones of a key.

use std::process::ExitCode;

use anyhow::bail;
use uuid::Uuid;

use super::print;
use super::table::{Table, dash, facts, maybe_time, time};
use super::talk::say;
use crate::cli::operate::{MessageOptions, Output};
use crate::store::Session;
use crate::store::inspect::{self, Life, Wanted};

/// Shows it. Exit code 1 when nothing is found.
pub async fn run(session: &mut Session, options: MessageOptions) -> anyhow::Result<ExitCode> {
    let MessageOptions { message, key, topic, within, limit, show } = options;
    let ids = match (message.as_deref(), key, topic) {
        (Some(text), ..) => match (text.parse::<i64>(), text.parse::<Uuid>()) {
            (Ok(id), _) => vec![id],
            (_, Ok(event)) => inspect::find(session, &Wanted::Event(event), within, limit).await?,
            _ => bail!("{text} is neither an id (a number, the outbox-seq header) nor an event id (a UUID)"),
        },
        (None, Some(key), Some(topic)) => {
            inspect::find(session, &Wanted::Key(topic, key), within, limit).await?
        }
        _ => bail!("name a message: its id, its event id, or --topic and --key"),
    };
    let mut lives = Vec::new();
    for id in ids {
        lives.extend(inspect::life(session, id).await?);
    }
    if lives.is_empty() {
        say(&format!(
            "no such message: it was rolled back, or is older than retention.published, or than --within {}",
            humantime::format_duration(within)
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    match show.output {
        Output::Json => print::found(Output::Json, &lives, String::new)?,
        Output::Text => {
            let texts: Vec<String> = lives.iter().map(as_text).collect();
            print::data(&texts.join("\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(life: &Life) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(dash);
    let mut lines = vec![
        ("id", life.id.to_string()),
        ("event id", or_dash(&life.event_id)),
        ("topic", or_dash(&life.topic)),
        ("written", maybe_time(life.created_at.as_ref())),
        ("state", life.state.clone()),
    ];
    if let Some(head) = life.behind_id {
        lines.push(("behind", format!("message {head} of its key")));
    }
    if let Some(due) = &life.due_at {
        lines.push(("next try", time(due)));
    }
    if let Some(error) = &life.error {
        lines.push(("error", error.clone()));
    }
    if let Some(dead) = &life.dead_since {
        lines.push(("dead since", time(dead)));
    }
    if life.requeued > 0 {
        lines.push((
            "requeued",
            format!("{} times, last at {}", life.requeued, maybe_time(life.changed_at.as_ref())),
        ));
    }
    if let [first, .., last] = &*life.published {
        lines.push((
            "redelivered",
            format!("{} times, {} to {}", life.published.len() - 1, time(&first.at), time(&last.at)),
        ));
    }
    let mut text = facts(&lines);
    let mut table = Table::new(["AT", "WHAT", "WHERE OR WHY"]);
    let mut events: Vec<(String, [String; 3])> = Vec::new();
    for attempt in &life.failed {
        events.push((
            attempt.at.clone(),
            [time(&attempt.at), format!("failed: {}", attempt.class), or_dash(&attempt.error)],
        ));
    }
    for publication in &life.published {
        let place = match (publication.partition, publication.offset) {
            (Some(partition), Some(offset)) => format!("partition {partition}, offset {offset}"),
            (Some(partition), None) => format!("partition {partition}, offset unknown"),
            _ => dash(),
        };
        let what = format!("published under epoch {}", publication.epoch);
        events.push((publication.at.clone(), [time(&publication.at), what, place]));
    }
    for copy in &life.replayed {
        let known =
            |number: Option<i64>| number.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
        let place =
            format!("{}, partition {}, offset {}", copy.topic, known(copy.partition), known(copy.offset));
        events.push((
            copy.at.clone(),
            [time(&copy.at), format!("replayed by request {}", copy.request), place],
        ));
    }
    events.sort();
    for (_, event) in events {
        table.row(event);
    }
    text.push_str(&table.render("nothing has been tried yet"));
    text
}
