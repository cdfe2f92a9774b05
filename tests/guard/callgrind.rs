//! A relay under callgrind, and what its threads executed.

use std::path::Path;
use std::process::{Command, Stdio};

use outbox_relay::servers::process::{BoundCommand, Process};

/// Functions that only a thread of the async runtime runs: the loops of the relay.
const OURS: &str = "outbox_relay::relay::";

/// Says what to do when valgrind is not installed or cannot run programs of this machine.
pub fn is_there() -> Result<(), String> {
    let version = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output();
    match version {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("valgrind --version fails: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => {
            Err(format!("valgrind cannot be started ({error}); make setup installs it on Debian and Ubuntu"))
        }
    }
}

/// The relay's `run` under callgrind, with one worker thread, so that what the loops execute is counted in one place.
pub fn relay(directory: &Path) -> BoundCommand {
    let mut command = BoundCommand::new("valgrind", "KILL", None);
    command
        .command()
        .args(["--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes", "-q"])
        .arg(format!("--callgrind-out-file={}", directory.join("out").display()))
        .arg(env!("CARGO_BIN_EXE_outbox-relay"))
        .arg("run")
        .env("TOKIO_WORKER_THREADS", "1");
    command
}

/// Instructions of the relay's own thread, and of all others together: librdkafka's, mostly.
pub fn counts(directory: &Path, process: &Process) -> (f64, f64) {
    let (mut ours, mut others) = (0.0, 0.0);
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let text = std::fs::read_to_string(entry.expect("an entry").path()).expect("callgrind writes text");
        let total = text.lines().rev().find_map(|line| line.strip_prefix("totals:"));
        let Some(total) = total.and_then(|total| total.trim().parse::<f64>().ok()) else { continue };
        if text.contains(OURS) { ours += total } else { others += total }
    }
    assert!(ours > 0.0, "no thread of process {} has run {OURS}", process.pid());
    (ours, others)
}
