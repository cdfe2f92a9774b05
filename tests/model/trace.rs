//! What happened, one line a step, for a schedule that is run by itself.

use std::io::Write;

use crate::bugs::Ms;

/// Writes to standard error while it is on, so that even a schedule that does not end has told its story.
pub struct Trace {
    pub on: bool,
}

impl Trace {
    /// `actor` did something at `now`; the text is made only if somebody reads it.
    pub fn say(&mut self, now: Ms, actor: &str, text: impl FnOnce() -> String) {
        if self.on {
            let line = format!("{:4}.{:03} {actor:<10} {}\n", now / 1000, now % 1000, text());
            // Whoever has closed standard error does not want to read it.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}
