//! A disk that is full: a file takes all that is left of it, and again what becomes free meanwhile.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinHandle;

/// A full disk. [`Full::empty`] makes room.
pub struct Full {
    file: PathBuf,
    filling: JoinHandle<()>,
}

impl Full {
    /// Fills the disk that this directory is on; returns when nothing more can be written.
    pub fn fill(directory: &Path) -> Full {
        let file = directory.join("filler");
        let mut filler = File::create(&file).expect("nothing is full yet");
        let most = fill(&mut filler);
        assert!(most > 0, "the disk was full before");
        let filling = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                fill(&mut filler);
            }
        });
        Full { file, filling }
    }

    /// Makes room again.
    pub async fn empty(self) {
        self.filling.abort();
        // What it holds open would not become free.
        self.filling.await.ok();
        std::fs::remove_file(&self.file).expect("it is ours");
    }
}

/// Writes until the system refuses; returns how much it took.
fn fill(file: &mut File) -> usize {
    let mut written = 0;
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![b'.'; size];
        loop {
            match file.write(&block) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("the filler: {error}"),
            }
        }
    }
    written
}
