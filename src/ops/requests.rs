//! `outbox-relay requests`: what operators asked for, and what came of it.

use std::process::ExitCode;

use super::carry_out::{STATES, carry_out, request};
use super::print;
use super::table::{Table, dash, facts, maybe_time, time};
use super::talk::say;
use crate::cli::operate::RequestsCommand;
use crate::store::Session;
use crate::store::ask::Ask;
use crate::store::inspect::{self, RequestRow};

/// Does what was asked for.
pub async fn run(session: &mut Session, command: RequestsCommand) -> anyhow::Result<ExitCode> {
    match command {
        RequestsCommand::List { open, limit, show } => {
            let states: Vec<String> =
                STATES[..if open { 2 } else { 6 }].iter().map(|&s| s.to_owned()).collect();
            let requests = inspect::requests(session, &states, i64::MAX, limit).await?;
            print::found(show.output, &requests, || list(&requests))?;
            if requests.len() as i64 == limit {
                say(&format!("only the newest {limit}; --limit shows more"))?;
            }
        }
        RequestsCommand::Show { id, show } => {
            let request = request(session, id).await?;
            print::found(show.output, &request, || one(&request))?;
        }
        RequestsCommand::Cancel { id, change } => {
            let request = request(session, id).await?;
            if request.is_over() {
                say(&format!("request {id} is over: {}", request.state))?;
                return Ok(ExitCode::SUCCESS);
            }
            let what = format!("end request {id}, {} by {}", request.kind, request.who);
            return carry_out(session, Ask::cancel(id), &change, &what, None).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(requests: &[RequestRow]) -> String {
    let mut table = Table::new(["ID", "KIND", "OF", "STATE", "DONE", "WHO", "ASKED", "WHY"]);
    for request in requests {
        let of = request.topic.clone().unwrap_or_else(|| match &request.filter {
            serde_json::Value::Object(filter) if !filter.is_empty() => request.filter.to_string(),
            _ => dash(),
        });
        table.row([
            request.id.to_string(),
            request.kind.clone(),
            of,
            request.state.clone(),
            request.done.to_string(),
            request.who.clone(),
            time(&request.asked_at),
            request.why.clone().unwrap_or_else(dash),
        ]);
    }
    table.render("nobody has asked for anything")
}

fn one(request: &RequestRow) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(dash);
    facts(&[
        ("id", request.id.to_string()),
        ("kind", request.kind.clone()),
        ("topic", or_dash(&request.topic)),
        ("filter", request.filter.to_string()),
        ("value", request.value.as_ref().map_or_else(dash, ToString::to_string)),
        ("pace", request.pace.map_or_else(dash, |rows| format!("{rows} a second"))),
        ("who", request.who.clone()),
        ("why", or_dash(&request.why)),
        ("state", request.state.clone()),
        ("done", request.done.to_string()),
        ("error", or_dash(&request.error)),
        ("asked", time(&request.asked_at)),
        ("begun", maybe_time(request.begun_at.as_ref())),
        ("ended", maybe_time(request.ended_at.as_ref())),
        ("until", maybe_time(request.expires_at.as_ref())),
    ])
}
