//! `outbox-relay message`: what became of one message, or of the newest ones of a key.

mod verify;

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use self::verify::{Expected, Verified};
use super::print;
use super::table::{Table, dash, facts, maybe_time, time};
use super::talk::say;
use crate::cli::operate::{MessageOptions, Output};
use crate::config::Config;
use crate::store::Session;
use crate::store::follow::{self, KeyWish};
use crate::store::inspect::{self, Content, Life, Wanted};

/// Shows it. Exit code 1 when nothing is found.
pub async fn run(
    session: &mut Session,
    config: &Config,
    options: MessageOptions,
) -> anyhow::Result<ExitCode> {
    let MessageOptions { message, key, topic, within, limit, verify, show_payload, show } = options;
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
    let mut told: Vec<Told> = lives.into_iter().map(Told::of).collect();
    look_closer(session, config, &mut told, verify, show_payload).await?;
    match show.output {
        Output::Json => print::found(Output::Json, &told, String::new)?,
        Output::Text => {
            let texts: Vec<String> = told.iter().map(as_text).collect();
            print::data(&texts.join("\n"))?;
        }
    }
    let is_bad = told.iter().flat_map(|told| told.verified.iter().flatten()).any(Verified::is_bad);
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A life, and what was asked for beside it.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    life: Life,
    /// In the order of `published`.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Vec<Verified>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    shown: Option<Shown>,
}

/// What only those may see who may read payloads.
#[derive(Serialize)]
struct Shown {
    /// None: a tombstone.
    payload_base64: Option<String>,
    headers: Option<Value>,
    /// Of the header traceparent.
    trace_id: Option<String>,
}

impl Told {
    fn of(life: Life) -> Told {
        Told { life, verified: None, shown: None }
    }
}

impl Shown {
    fn of(content: &Content) -> Shown {
        let parent = content.headers.as_ref().and_then(|headers| headers.get("traceparent"));
        // A header that occurs several times is a list.
        let parent = parent.and_then(|value| value.as_str().or_else(|| value.get(0)?.as_str()));
        Shown {
            payload_base64: content.payload_base64.as_ref().map(|text| text.replace('\n', "")),
            headers: content.headers.clone(),
            trace_id: parent.and_then(trace_id),
        }
    }
}

/// The second part of `00-<32 digits>-<16 digits>-01`.
fn trace_id(parent: &str) -> Option<String> {
    let id = parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())).then(|| id.to_owned())
}

async fn look_closer(
    session: &mut Session,
    config: &Config,
    told: &mut [Told],
    verify: bool,
    show_payload: bool,
) -> anyhow::Result<()> {
    if !verify && !show_payload {
        return Ok(());
    }
    let ids: Vec<i64> = told.iter().map(|told| told.life.id).collect();
    // Whoever only verifies is content with less where payloads are not for him.
    let contents = if show_payload || follow::may_reveal(session).await? {
        let why = if show_payload { "message --show-payload" } else { "message --verify" };
        inspect::reveal(session, &ids, Some(why)).await?
    } else {
        Vec::new()
    };
    if verify {
        let wish = KeyWish { plain: true, ..KeyWish::default() };
        let rows = follow::rows(session, &ids, &wish).await?;
        let wanted = told.iter().map(|told| {
            let life = &told.life;
            let key = rows.iter().find(|row| row.id == life.id).map(|row| row.key.clone());
            let content = contents.iter().find(|content| content.id == life.id);
            (life.topic.clone(), life.published.clone(), Expected::of(life, key, content))
        });
        let verified = verify::read_back(config, wanted.collect()).await?;
        for (told, verified) in told.iter_mut().zip(verified) {
            told.verified = Some(verified);
        }
    }
    if show_payload {
        for told in told {
            told.shown = contents.iter().find(|content| content.id == told.life.id).map(Shown::of);
        }
    }
    Ok(())
}

fn as_text(told: &Told) -> String {
    let life = &told.life;
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
    if let Some(shown) = &told.shown {
        lines.push(("trace id", or_dash(&shown.trace_id)));
        lines.push(("headers", shown.headers.as_ref().map_or_else(dash, Value::to_string)));
        lines.push(("payload (base64)", or_dash(&shown.payload_base64)));
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
    for (at, publication) in life.published.iter().enumerate() {
        let mut place = match (publication.partition, publication.offset) {
            (Some(partition), Some(offset)) => format!("partition {partition}, offset {offset}"),
            (Some(partition), None) => format!("partition {partition}, offset unknown"),
            _ => dash(),
        };
        if let Some(verified) = told.verified.as_ref().and_then(|verified| verified.get(at)) {
            place = format!("{place}: {}", verified.says());
        }
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
