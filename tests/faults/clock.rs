//! A wall clock that jumps in mid-run, for processes that were started under libfaketime. Their monotonic clock is left alone, as
//! a jump leaves it alone on a real host.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

/// libfaketime looks at its file once in a second.
const LOOKS: Duration = Duration::from_millis(1200);

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
        clock.write(0);
        clock
    }

    /// What a process that shall have this clock is started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// The clock is wrong by so many seconds from now on; returns when everybody has seen it.
    pub async fn is_off_by(&self, seconds: i64) {
        self.write(seconds);
        tokio::time::sleep(LOOKS).await;
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

/// Debian and Ubuntu have a directory for each architecture.
fn library() -> PathBuf {
    const NAME: &str = "faketime/libfaketimeMT.so.1";
    let below = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found =
        below.chain([PathBuf::from("/usr/lib")]).map(|path| path.join(NAME)).find(|path| Path::is_file(path));
    found.expect("libfaketime is not installed, without which no clock can jump; `make setup` installs it")
}
