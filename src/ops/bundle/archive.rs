//! The archive itself: one directory of files, written at once or not at all.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

/// Everything lies in here, so that nobody's working directory is strewn with files.
const DIRECTORY: &str = "outbox-relay-bundle";

/// A file of the archive, or why there is none.
#[derive(Debug)]
pub struct Part {
    /// Of the file.
    pub name: &'static str,
    /// What is in it.
    pub content: Result<String, String>,
}

/// Writes the parts that there are. A file that is there already is left alone.
pub fn write(file: &Path, parts: &[Part]) -> anyhow::Result<()> {
    if file.exists() {
        bail!("{} is there already; name another file with --file", file.display());
    }
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Readable for nobody else, and under its name only when it is whole.
    let made = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("write into {}", directory.display()))?;
    pack(made.as_file(), parts).context("write the archive")?;
    made.persist_noclobber(file).with_context(|| format!("write {}", file.display()))?;
    Ok(())
}

fn pack(to: impl Write, parts: &[Part]) -> io::Result<()> {
    let mut archive = Builder::new(GzEncoder::new(to, Compression::default()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    for part in parts {
        let Ok(content) = &part.content else { continue };
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("{DIRECTORY}/{}", part.name), content.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}
