//! The one place that writes to stdout, beside the live screen of `top`. What a command was asked for goes here; everything
//! else is talk and goes to stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::cli::operate::Output;

/// Writes the text to stdout. A reader that has seen enough (`| head`) is no error.
pub fn data(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes lines of an endless answer. False when nobody reads any more: the one who writes has to end.
pub fn stream(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Whether colours mean something to whoever reads stdout: on a terminal, unless NO_COLOR says otherwise.
pub fn takes_colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes what was found: as text, or as one JSON document with the same facts.
pub fn found<T: Serialize + ?Sized>(
    output: Output,
    found: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    data(&match output {
        Output::Text => text(),
        Output::Json => serde_json::to_string_pretty(found)? + "\n",
    })?;
    Ok(())
}
