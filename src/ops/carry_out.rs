//! A change: show what it would be, ask the person, ask the relay, and follow what becomes of it.
//!
//! The command only writes a request and watches it; the leader does the work. So Ctrl-C here stops nothing there, and two
//! operators who ask at once are in each other's way as little as two requests are.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::progress::Progress;
use super::talk::{agreed, say};
use crate::cli::operate::Change;
use crate::store::Session;
use crate::store::ask::{Ask, ask_through};
use crate::store::inspect::{self, RequestRow};

/// Asked, and not over when the command ended.
const NOT_OVER: u8 = 3;

/// Between two looks at the request.
const LOOK: Duration = Duration::from_millis(200);
/// If nobody takes the request up within this time, nobody leads.
const UNHEARD: Duration = Duration::from_secs(5);

/// Requests of these kinds are done when the leader has gone through all rows; others stay in effect.
fn is_work(kind: &str) -> bool {
    matches!(
        kind,
        "requeue"
            | "discard"
            | "replay"
            | "repair"
            | "cancel"
            | "resume"
            | "retry_now"
            | "skip_head"
            | "resign"
    )
}

/// Does what was asked for, or says what it would be. `would` is a sentence without an end, such as "requeue 7 dead letters".
/// `of` is the number of rows that it is about, if that is known.
pub async fn carry_out(
    session: &mut Session,
    ask: Ask,
    change: &Change,
    would: &str,
    of: Option<i64>,
) -> anyhow::Result<ExitCode> {
    if !is_wanted(change, would)? {
        return Ok(ExitCode::SUCCESS);
    }
    let ask = match &change.why {
        Some(why) => ask.why(why),
        None => ask,
    };
    // From here on Ctrl-C has an answer.
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for Ctrl-C")?;
    let id = ask_through(session, &ask).await?;
    if change.no_wait {
        say(&format!("asked as request {id}"))?;
        return Ok(ExitCode::from(NOT_OVER));
    }
    tokio::select! {
        followed = follow(session, id, of) => followed,
        _ = interrupt.recv() => {
            say(&format!(
                "request {id} goes on without you: outbox-relay requests show {id} tells how far it is, requests cancel {id} ends it"
            ))?;
            Ok(ExitCode::from(NOT_OVER))
        }
    }
}

/// Says what would be done, and asks whether it should be. `false`: it was only to be said.
pub fn is_wanted(change: &Change, would: &str) -> anyhow::Result<bool> {
    if change.dry_run {
        say(&format!("would {would}; nothing was changed"))?;
        return Ok(false);
    }
    if !change.yes {
        say(&format!("this will {would}"))?;
        if !agreed("Go on?")? {
            bail!("nothing was changed; say --yes to do it without being asked");
        }
    }
    Ok(true)
}

async fn follow(session: &mut Session, id: i64, of: Option<i64>) -> anyhow::Result<ExitCode> {
    let (began, mut warned) = (Instant::now(), false);
    let mut progress = Progress::begin(of);
    loop {
        let request = request(session, id).await?;
        if request.is_over() || !is_work(&request.kind) {
            progress.end();
        }
        match request.state.as_str() {
            "done" => {
                let rows = if of.is_some() { format!(", {} rows", request.done) } else { String::new() };
                say(&format!("done (request {id}{rows})"))?;
                return Ok(ExitCode::SUCCESS);
            }
            "running" if !is_work(&request.kind) => {
                let until = request
                    .expires_at
                    .as_ref()
                    .map_or(String::new(), |at| format!(" until {}", super::table::time(at)));
                say(&format!("in effect{until} (request {id})"))?;
                return Ok(ExitCode::SUCCESS);
            }
            "refused" => bail!(
                "request {id} was refused: {}",
                request.error.as_deref().unwrap_or("no reason is given")
            ),
            "cancelled" | "expired" => {
                bail!("request {id} was {} after {} rows", request.state, request.done)
            }
            _ => {}
        }
        if request.state == "asked" && !warned && began.elapsed() >= UNHEARD {
            progress.say(&format!(
                "request {id} waits: no relay has taken it up (outbox-relay lease show tells who leads)"
            ))?;
            warned = true;
        }
        if request.state == "running" {
            progress.is_at(request.done)?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One request.
pub async fn request(session: &mut Session, id: i64) -> anyhow::Result<RequestRow> {
    let states: Vec<String> = STATES.map(str::to_owned).to_vec();
    let found = inspect::requests(session, &states, id.saturating_add(1), 1).await?;
    found.into_iter().find(|request| request.id == id).with_context(|| {
        format!("there is no request {id}; outbox-relay requests list shows those there are")
    })
}

/// Of requests: what is not over, then what is.
pub const STATES: [&str; 6] = ["asked", "running", "done", "expired", "refused", "cancelled"];
