//! The directory of a private server, which vanishes with it.
//!
//! A process that is killed cannot clean up after itself. So a small shell waits at the other end of a pipe until we
//! let go of it, by dropping the directory or by dying, and removes the directory then. It removes nothing else.
//! A disk of the server's own, mounted inside of the directory, goes with it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::ServerError;
use super::process::User;

/// Waits for the end of its input, then removes the directory. A server that is dying at that moment may still write
/// into it, hence the few tries. The signals of a terminal that closes are not meant for it.
const REMOVER: &str = r#"
trap '' HUP INT TERM
read -r line
if [ -d "$1/data" ]; then umount -l -- "$1/data" 2>/dev/null; fi
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    rm -rf -- "$1" 2>/dev/null && exit 0
    sleep 0.2
done
exit 1
"#;

/// A new directory below the system's temporary one.
#[derive(Debug)]
pub(super) struct ServerDirectory {
    path: PathBuf,
    remover: Child,
}

impl ServerDirectory {
    /// Makes the directory; it belongs to `owner` if one is given, and nobody else may enter it.
    pub(super) fn create(server: &str, owner: Option<User>) -> Result<Self, ServerError> {
        let made = tempfile::Builder::new().prefix(&format!("outbox-relay-{server}-")).tempdir();
        let made = made.map_err(ServerError::system("create a temporary directory"))?;
        if let Some(User { uid, gid }) = owner {
            std::os::unix::fs::chown(made.path(), Some(uid), Some(gid))
                .map_err(ServerError::system(format!("hand {} to user {uid}", made.path().display())))?;
        }
        let mut remover = Command::new("sh");
        remover.args(["-c", REMOVER, "sh"]).arg(made.path()).current_dir("/").process_group(0);
        remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let remover = remover.spawn().map_err(ServerError::system("start sh"))?;
        Ok(Self { path: made.keep(), remover })
    }

    /// Mounts an empty disk of so many bytes as `data`; it belongs to `owner` if one is given.
    pub(super) fn mount_disk(&self, bytes: u64, owner: Option<User>) -> Result<(), ServerError> {
        let data = self.path.join("data");
        std::fs::create_dir(&data)
            .map_err(ServerError::system(format!("create the directory {}", data.display())))?;
        let owner = owner.map(|User { uid, gid }| format!(",uid={uid},gid={gid}")).unwrap_or_default();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700{owner}"), "tmpfs"]).arg(&data);
        let output = mount.output().map_err(ServerError::system("start mount"))?;
        if output.status.success() {
            return Ok(());
        }
        let trouble =
            "could not mount a small tmpfs, which takes root and a system that lets it mount".into();
        let log = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(ServerError::Refused { server: "mount", trouble, log })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ServerDirectory {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        self.remover.wait().ok();
    }
}
