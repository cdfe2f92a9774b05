//! A wall clock that jumps in mid-run, for processes that were started with `clock.c` preloaded.
//!
//! libfaketime would not do: librdkafka waits for times of day through a function that it leaves alone, so that waits and readings
//! would be of two clocks, which no jump of a real one brings about.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// Longer than anybody takes to see it.
const LOOKS: Duration = Duration::from_millis(300);

/// A clock that belongs to one or more processes.
pub struct Clock {
    directory: TempDir,
}

impl Clock {
    /// A clock that is right.
    pub fn right() -> Clock {
        let directory = tempfile::tempdir().expect("a directory");
        // Postgres runs as somebody else.
        let everyone = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everyone).expect("the directory is ours");
        let clock = Clock { directory };
        clock.compile();
        clock.write(0);
        clock
    }

    /// What a process that shall have this clock is started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [("LD_PRELOAD", self.library()), ("OUTBOX_RELAY_CLOCK_OFFSET", self.file())];
        variables.map(|(name, path)| (name.to_owned(), path.display().to_string())).to_vec()
    }

    /// The clock is wrong by so many seconds from now on; returns when everybody has seen it.
    pub async fn is_off_by(&self, seconds: i64) {
        self.write(seconds);
        tokio::time::sleep(LOOKS).await;
    }

    fn compile(&self) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o"]);
        let output =
            cc.arg(self.library()).arg(source).arg("-ldl").output().expect("cc; `make setup` installs it");
        assert!(output.status.success(), "cc clock.c: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("clock.so")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    fn write(&self, seconds: i64) {
        // Nobody must read half of it.
        let new = self.directory.path().join("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("the directory is ours");
        std::fs::rename(&new, self.file()).expect("the directory is ours");
    }
}
