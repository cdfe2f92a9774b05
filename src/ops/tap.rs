//! `outbox-relay tap`: watch messages being published.
//!
//! Follows the ledger: a settlement names what it published and where the records are, so nothing is asked of Kafka or of the
//! relay. It rests at least as long as it works, and passes over what it cannot keep up with, saying how much that is. Which
//! of the messages are shown is the sieve's matter (`sieve`).

mod line;
mod sieve;

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::line::{Columns, Line};
use self::sieve::Sieve;
use super::print;
use super::talk::say;
use crate::cli::operate::Output;
use crate::cli::watch::TapOptions;
use crate::receipt::Receipt;
use crate::store::Session;
use crate::store::follow::{self, KeyWish, Settlement};
use crate::store::inspect;

/// Between two looks while nothing is published.
const LOOK: Duration = Duration::from_millis(200);
/// Settlements read at once, each of at most a window of messages.
const SETTLEMENTS: i64 = 20;
/// Messages looked at in one statement.
const ROWS: usize = 500;
/// With their payloads, which may be large.
const ROWS_WITH_PAYLOAD: usize = 20;
/// Whoever watches wants to see what happens now: beyond this it goes on at the end of the ledger.
const LATE_SECONDS: f64 = 5.0;
/// Between two words about what was passed over.
const TELL: Duration = Duration::from_secs(2);

/// Watches until Ctrl-C, `--limit`, or until nobody reads stdout any more.
pub async fn run(session: &mut Session, options: TapOptions) -> anyhow::Result<ExitCode> {
    if options.show_payload && !follow::may_reveal(session).await? {
        bail!(
            "payloads are shown to members of outbox_admin, and this login is none: log in as one, or leave --show-payload out"
        );
    }
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate()).context("wait for Ctrl-C")?);
    let mut tap = Tap::new(options);
    let ended = tokio::select! {
        watched = tap.watch(session) => watched,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    tap.tell_passed()?;
    ended.map(|()| ExitCode::SUCCESS)
}

struct Tap {
    options: TapOptions,
    key: KeyWish,
    sieve: Sieve,
    columns: Columns,
    /// Messages that were published meanwhile and not shown, since that was last said.
    passed: i64,
    told: Instant,
}

impl Tap {
    fn new(options: TapOptions) -> Tap {
        let key = KeyWish {
            hash: options.key_hash,
            plain: options.show_key,
            only: options.key.clone(),
            only_base64: options.key_base64.clone(),
        };
        let sieve = Sieve::new(options.sample, options.rate, options.limit);
        Tap { options, key, sieve, columns: Columns::default(), passed: 0, told: Instant::now() }
    }

    async fn watch(&mut self, session: &mut Session) -> anyhow::Result<()> {
        let mut place = follow::newest(session).await?;
        say("watching what is published from now on; Ctrl-C ends it")?;
        if self.options.output == Output::Text {
            print::data(&self.columns.heading(&self.options))?;
        }
        loop {
            let began = Instant::now();
            let page = follow::settlements(session, place, SETTLEMENTS).await?;
            match page.first() {
                Some(first) if first.age_seconds > LATE_SECONDS => {
                    let newest = follow::newest(session).await?;
                    self.passed += follow::passed(session, place, newest).await?;
                    place = newest;
                }
                _ => {
                    for settlement in &page {
                        place = settlement.place;
                        if !self.show(session, settlement).await? {
                            return Ok(());
                        }
                    }
                }
            }
            if self.told.elapsed() >= TELL {
                self.tell_passed()?;
            }
            let rest = if page.len() < SETTLEMENTS as usize { LOOK } else { Duration::ZERO };
            tokio::time::sleep(rest.max(began.elapsed())).await;
        }
    }

    /// Shows what a settlement published. False when that was enough.
    async fn show(&mut self, session: &mut Session, settlement: &Settlement) -> anyhow::Result<bool> {
        let at_once = if self.options.show_payload { ROWS_WITH_PAYLOAD } else { ROWS };
        // Without a condition on the row the sieve need not know it, and most rows need not be looked at.
        let early = self.options.topic.is_none() && self.key.only.is_none() && self.key.only_base64.is_none();
        let mut wanted: Vec<(i64, Option<Receipt>)> = settlement.published.clone();
        if early {
            wanted.retain(|_| self.sieve.takes(Instant::now()));
        }
        for part in wanted.chunks(at_once) {
            let ids: Vec<i64> = part.iter().map(|(id, _)| *id).collect();
            let mut seen = follow::rows(session, &ids, &self.key).await?;
            if early {
                // Its slot has been emptied while it was put off: nothing is known of it but that it was published.
                self.passed += (ids.len() - seen.len()) as i64;
            }
            if let Some(pattern) = &self.options.topic {
                seen.retain(|row| pattern.matches(&row.topic));
            }
            if !early {
                seen.retain(|_| self.sieve.takes(Instant::now()));
            }
            let contents = if self.options.show_payload && !seen.is_empty() {
                let ids: Vec<i64> = seen.iter().map(|row| row.id).collect();
                inspect::reveal(session, &ids, Some("tap")).await?
            } else {
                Vec::new()
            };
            let receipts: HashMap<i64, Option<Receipt>> = part.iter().copied().collect();
            let mut text = String::new();
            for row in &seen {
                let content = contents.iter().find(|content| content.id == row.id);
                let receipt = receipts.get(&row.id).copied().flatten();
                let line = Line::new(settlement, row, receipt, content, &self.options);
                match self.options.output {
                    Output::Json => text.push_str(&(serde_json::to_string(&line)? + "\n")),
                    Output::Text => text.push_str(&self.columns.line(&line)),
                }
            }
            if !print::stream(&text)? || self.sieve.is_done() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn tell_passed(&mut self) -> anyhow::Result<()> {
        self.told = Instant::now();
        match std::mem::take(&mut self.passed) + self.sieve.take_passed() {
            0 => {}
            passed => say(&format!("{passed} messages were published meanwhile and are not shown"))?,
        }
        Ok(())
    }
}
