//! How far long work is: a bar with the time left on a terminal, a line now and then where there is none. It is talk: stderr.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::talk::say;

/// Between two lines where there is no terminal.
const TELL: Duration = Duration::from_secs(2);
/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: &str = "{bar:30} {human_pos} of {human_len} rows, {per_sec}, {eta} left";

/// The progress of one piece of work.
#[derive(Debug)]
pub struct Progress {
    of: Option<u64>,
    live: bool,
    bar: Option<ProgressBar>,
    began: Instant,
    told: Instant,
}

impl Progress {
    /// `of` is how much there is to do; without it nothing is shown.
    pub fn begin(of: Option<i64>) -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let (live, now) = (!dumb && io::stderr().is_terminal(), Instant::now());
        Progress { of: of.and_then(|of| u64::try_from(of).ok()), live, bar: None, began: now, told: now }
    }

    /// So much is done.
    pub fn is_at(&mut self, done: i64) -> io::Result<()> {
        let (Some(of), Ok(done)) = (self.of, u64::try_from(done)) else { return Ok(()) };
        if self.live {
            if self.bar.is_none() && self.began.elapsed() >= PATIENCE {
                let style = ProgressStyle::with_template(LOOK).expect("the template is well formed");
                let bar = ProgressBar::with_draw_target(Some(of), ProgressDrawTarget::stderr());
                self.bar = Some(
                    bar.with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")).with_elapsed(self.began.elapsed()),
                );
            }
            if let Some(bar) = &self.bar {
                bar.set_position(done);
            }
        } else if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            say(&format!("{done} of {of}"))?;
        }
        Ok(())
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) -> io::Result<()> {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    /// Takes the bar away, for the last word.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_can_be_drawn() {
        assert!(ProgressStyle::with_template(LOOK).is_ok());
        let mut progress = Progress::begin(Some(100));
        progress.live = true;
        progress.began = Instant::now().checked_sub(PATIENCE).expect("the machine runs for longer");
        progress.is_at(50).expect("stderr is there");
        assert_eq!(progress.bar.as_ref().map(|bar| (bar.position(), bar.length())), Some((50, Some(100))));
        progress.end();
        assert!(progress.bar.is_none());
        let mut unknown = Progress::begin(None);
        unknown.is_at(50).expect("nothing is shown");
        assert!(unknown.bar.is_none());
    }
}
