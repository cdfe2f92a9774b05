//! The one place that writes to stdout. What a command was asked for goes here; everything else is talk and goes to stderr.

use std::io::{self, Write};

/// Writes the text to stdout. A reader that has seen enough (`| head`) is no error.
pub fn data(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
