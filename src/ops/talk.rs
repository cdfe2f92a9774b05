//! What a command says to the person at the terminal: stderr, and the one question before a change.

use std::io::{self, IsTerminal, Write as _};

/// A line on stderr.
pub fn say(line: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{line}")
}

/// Asks on a terminal. Without one nobody can answer, and the answer is no.
pub fn agreed(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
