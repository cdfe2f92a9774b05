//! Private Postgres, PgBouncer and Kafka servers, started from the parts that are installed on this machine.
//!
//! The demo, the tests and the bench stand on these: real servers on free ports, in directories of their own, which
//! end with this process however it ends, SIGKILL included. This module must not become part of `outbox-relay run`,
//! and it speaks to its servers only through files, signals and their own tools: no client library is named here.
//!
//! The interface blocks; inside a runtime call it through `tokio::task::spawn_blocking`.
//! Read next: [`process`] for how children die with us, then [`postgres`], [`pgbouncer`] and [`kafka`].

mod directory;
pub mod kafka;
pub mod pgbouncer;
pub mod postgres;
pub mod process;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rand::Rng;

use process::{BoundCommand, Process};

pub use kafka::{KafkaOptions, PrivateKafka};
pub use pgbouncer::{PoolerOptions, PrivatePooler};
pub use postgres::{PostgresOptions, PrivatePostgres};

/// Why a private server could not be started, stopped or talked to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A part that should be installed is not there.
    #[error("{part} not found; `make setup kafka` installs it")]
    Missing {
        /// What was looked for, and where.
        part: String,
    },
    /// The server, or one of its tools, did not do what it was asked to.
    #[error("{server} {trouble}; the end of its log:\n{log}")]
    Refused {
        /// Which program.
        server: &'static str,
        /// What happened, as the rest of a sentence.
        trouble: String,
        /// The last lines it wrote.
        log: String,
    },
    /// The operating system refused something on the way.
    #[error("{doing}")]
    System {
        /// A bare verb and its object.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ServerError {
    fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

/// A TCP port on the loopback address that nobody listens on, and that this process has not been given before.
///
/// It lies below the range from which the kernel takes ports for outgoing connections. Inside that range a client
/// that keeps calling a stopped server is sooner or later given the server's own port, connects to itself, and the
/// server cannot come back. Another process may take the port meanwhile; whoever starts a server on it tries again.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    const LOWEST: u16 = 15_000;

    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768_u16);
    for _ in 0..1_000 {
        let wanted = if outgoing > LOWEST + 1_000 { rand::rng().random_range(LOWEST..outgoing) } else { 0 };
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) else { continue };
        let port = listener.local_addr()?.port();
        let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if given.get_or_insert_default().insert(port) {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port on 127.0.0.1"))
}

/// Starts a server on free ports, which `launch` chooses. A port can be taken between the choice and the start; then it is called
/// again, but more often than this it is not bad luck.
fn on_free_ports(
    mut launch: impl FnMut() -> Result<Process, ServerError>,
) -> Result<Mutex<Option<Process>>, ServerError> {
    const TRIES: u32 = 10;
    let is_taken = |error: &ServerError| match error {
        ServerError::Refused { log, .. } => {
            // The second is what Postgres says.
            ["Address already in use", "could not create any TCP/IP sockets"]
                .iter()
                .any(|text| log.contains(text))
        }
        _ => false,
    };
    let mut tries = 1..TRIES;
    loop {
        match launch() {
            Err(error) if is_taken(&error) && tries.next().is_some() => {}
            started => return started.map(|process| Mutex::new(Some(process))),
        }
    }
}

/// Starts a server that appends to `log`, and waits until `ready` says so, given the process and what it has written.
fn start_server(
    server: &'static str,
    mut command: BoundCommand,
    log: &Path,
    within: Duration,
    ready: impl Fn(&Process, &str) -> bool,
) -> Result<Process, ServerError> {
    const STEP: Duration = Duration::from_millis(10);

    let file = File::options().create(true).append(true).open(log);
    let file = file.map_err(ServerError::system(format!("open {}", log.display())))?;
    // What earlier starts have written says nothing about this one.
    let from = file.metadata().map_or(0, |metadata| metadata.len());
    let errors = file.try_clone().map_err(ServerError::system("share the log file"))?;
    command.command().stdout(Stdio::from(file)).stderr(Stdio::from(errors));
    let process = command.spawn().map_err(ServerError::system(format!("start {server} through setpriv")))?;

    let deadline = Instant::now() + within;
    loop {
        let written = read_log(log, from);
        if ready(&process, &written) {
            return Ok(process);
        }
        let trouble = if let Some(status) = process.exited() {
            format!("did not start ({status})")
        } else if Instant::now() >= deadline {
            process.kill();
            format!("was not ready within {} s", within.as_secs())
        } else {
            thread::sleep(STEP);
            continue;
        };
        return Err(ServerError::Refused { server, trouble, log: last_lines(&read_log(log, from)) });
    }
}

/// What a log file holds from byte `from` on.
fn read_log(log: &Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = text.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn last_lines(log: &str) -> String {
    const LINES: usize = 25;
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The last lines of a log file, for error messages.
fn log_tail(log: &Path) -> String {
    last_lines(&read_log(log, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_is_free() {
        let first = free_port().expect("a free port");
        let second = free_port().expect("another free port");
        assert_ne!(first, second);
        TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("nobody listens on a port just given");
    }
}
