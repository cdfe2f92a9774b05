//! The two relays of the demo: child processes of this binary, what they log, and who of them leads.
//!
//! Their environment is made here and holds nothing of ours but what they need: a setting or a configuration file that
//! happens to be around must not turn the demo's relays to somebody's real outbox.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{ChildStderr, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;

use crate::servers::process::{BoundCommand, Process, Signal};

/// The names of the two relays.
pub const NAMES: [char; 2] = ['A', 'B'];
/// How long a leader may be silent before the other takes over. Short, so that a demo is short.
pub const LEASE_TTL: Duration = Duration::from_secs(2);

/// How many lines of a relay's log are kept to be shown if the demo fails.
const LOG_LINES: usize = 30;
/// A little more than the relay's own drain_timeout.
const STOP_DEADLINE: Duration = Duration::from_secs(25);

/// Both relays.
#[derive(Debug)]
pub struct Relays([Relay; 2]);

/// One relay process.
#[derive(Debug)]
struct Relay {
    process: Process,
    log: Arc<Mutex<Log>>,
    ended_by_us: Mutex<bool>,
}

/// What a relay has said.
#[derive(Debug, Default)]
struct Log {
    last: VecDeque<String>,
    /// The epoch under which it leads, and when we heard of it.
    leads: Option<(i64, Instant)>,
    /// How many leases it won.
    won: usize,
}

/// A line of a relay's log, as far as it is read.
#[derive(Deserialize)]
struct Line {
    message: String,
    epoch: Option<i64>,
}

/// What a relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It leads, under this epoch.
    Leads(i64),
    /// It watches the leader.
    StandsBy,
    /// It was killed (or, at the end, told to stop; nobody looks any more then).
    Killed,
}

/// A relay that leads.
#[derive(Debug, Clone, Copy)]
pub struct Leader {
    /// Its place in [`NAMES`].
    pub place: usize,
    /// The number of its lease.
    pub epoch: i64,
    /// When it began to lead.
    pub since: Instant,
}

impl Relays {
    /// Starts both. They need not lead or even be connected yet.
    pub fn start(database_url: &str, brokers: &str) -> anyhow::Result<Relays> {
        Ok(Relays([start(database_url, brokers)?, start(database_url, brokers)?]))
    }

    /// The leader of the newest epoch, if a living relay leads.
    pub fn leader(&self) -> Option<Leader> {
        let leaders = self.0.iter().enumerate().filter_map(|(place, relay)| {
            let (epoch, since) = relay.log().leads?;
            (!relay.is_ended()).then_some(Leader { place, epoch, since })
        });
        leaders.max_by_key(|leader| leader.epoch)
    }

    /// Process id and state of each.
    pub fn states(&self) -> [(u32, State); 2] {
        let leader = self.leader();
        [0, 1].map(|place| {
            let relay = &self.0[place];
            let state = match leader {
                _ if relay.is_ended() => State::Killed,
                Some(leader) if leader.place == place => State::Leads(leader.epoch),
                _ => State::StandsBy,
            };
            (relay.process.pid(), state)
        })
    }

    /// How many leases were won so far.
    pub fn leases_won(&self) -> usize {
        self.0.iter().map(|relay| relay.log().won).sum()
    }

    /// SIGKILL: the relay cannot say goodbye, its lease stays behind. Blocks until the process is gone.
    pub fn kill(&self, place: usize) {
        self.0[place].end_by_us();
        self.0[place].process.kill();
    }

    /// Fails when a relay has ended that nobody told to.
    pub fn check(&self) -> anyhow::Result<()> {
        for (relay, name) in self.0.iter().zip(NAMES) {
            if !relay.is_ended()
                && let Some(status) = relay.process.exited()
            {
                anyhow::bail!("relay {name} ended by itself ({status})");
            }
        }
        Ok(())
    }

    /// SIGTERM, and waits until both have settled what Kafka confirmed and have ended. Blocks.
    pub fn stop(&self) {
        for relay in &self.0 {
            relay.end_by_us();
            relay.process.signal(Signal::TERM);
        }
        for relay in &self.0 {
            if relay.process.wait(STOP_DEADLINE).is_none() {
                relay.process.kill();
            }
        }
    }

    /// The last lines of both logs, for a demo that failed.
    pub fn logs(&self) -> String {
        let log = |(relay, name): (&Relay, char)| {
            let lines = relay.log().last.iter().fold(String::new(), |text, line| format!("{text}  {line}\n"));
            format!("the last lines of relay {name} (process {}):\n{lines}", relay.process.pid())
        };
        self.0.iter().zip(NAMES).map(log).collect()
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        self.0.iter().for_each(|relay| relay.process.kill());
    }
}

impl Relay {
    fn is_ended(&self) -> bool {
        *self.ended_by_us.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_by_us(&self) {
        *self.ended_by_us.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start(database_url: &str, brokers: &str) -> anyhow::Result<Relay> {
    let program = std::env::current_exe().context("find this program")?;
    let mut relay = BoundCommand::new(program, "KILL", None);
    let command = relay.command();
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUTBOX_RELAY") {
            command.env_remove(name);
        }
    }
    command.env("DATABASE_URL", database_url).env("KAFKA_BROKERS", brokers);
    command.env("OUTBOX_RELAY__HTTP__LISTEN", "127.0.0.1:0");
    command.env("OUTBOX_RELAY__LEASE__TTL", format!("{}s", LEASE_TTL.as_secs()));
    command.env("OUTBOX_RELAY__LOG__FORMAT", "json");
    // A configuration file is looked for in the working directory.
    command.arg("run").current_dir("/").stdout(Stdio::null()).stderr(Stdio::piped());
    let process = relay.spawn().context("start a relay through setpriv")?;
    let log = Arc::new(Mutex::new(Log::default()));
    let said = process.take_stderr().context("hear a relay")?;
    let heard = Arc::clone(&log);
    thread::Builder::new().name("demo-relay-log".into()).spawn(move || listen(said, &heard))?;
    Ok(Relay { process, log, ended_by_us: Mutex::new(false) })
}

/// Follows a log to its end, which comes with the end of the process.
fn listen(said: ChildStderr, heard: &Mutex<Log>) {
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        heard.lock().unwrap_or_else(PoisonError::into_inner).hear(line, Instant::now());
    }
}

impl Log {
    fn hear(&mut self, line: String, now: Instant) {
        match serde_json::from_str::<Line>(&line) {
            Ok(Line { message, epoch: Some(epoch) }) if message == "leading" => {
                self.leads = Some((epoch, now));
                self.won += 1;
            }
            Ok(Line { message, .. }) if message.starts_with("stepped down") => self.leads = None,
            _ => {}
        }
        if self.last.len() == LOG_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_is_read_from_the_log() {
        let (mut log, now) = (Log::default(), Instant::now());
        let mut hear = |line: &str| {
            log.hear(line.to_owned(), now);
            (log.leads.map(|(epoch, _)| epoch), log.won)
        };
        assert_eq!(hear(r#"{"message":"relay started","version":"0.1.0"}"#), (None, 0));
        assert_eq!(hear(r#"{"message":"lease taken","epoch":3}"#), (None, 0));
        assert_eq!(hear(r#"{"message":"leading","epoch":3,"high":7}"#), (Some(3), 1));
        assert_eq!(hear("no json at all"), (Some(3), 1));
        let stepped_down = r#"{"message":"stepped down, everything of this lease is forgotten","epoch":3}"#;
        assert_eq!(hear(stepped_down), (None, 1));
    }
}
