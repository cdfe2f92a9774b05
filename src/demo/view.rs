//! The live view: a few lines that are drawn over themselves on a terminal, or a line a second where there is none.
//!
//! It goes to stderr, because it is talk; stdout is for the audit. Nobody is told when stderr is closed.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::relays::{NAMES, State};
use super::tally::Figures;

/// The pause between two pictures on a terminal, and between two lines elsewhere.
const REDRAW: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Rates are taken over the last second or so.
const RATE_OVER: Duration = Duration::from_millis(1_000);
/// How many columns the curve of the lag has; each is one picture, so a demo of the usual length fits.
const CURVE: usize = 60;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line of talk, while there is no picture.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "demo: {line}");
}

/// What is to be seen at one moment.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Since the first order.
    pub elapsed: Duration,
    /// What is being done, in a few words.
    pub doing: &'static str,
    /// The numbers.
    pub figures: Figures,
    /// Process id and state of each relay.
    pub relays: [(u32, State); 2],
}

/// The screen.
#[derive(Debug)]
pub struct View {
    live: bool,
    colour: bool,
    /// How many lines of the last picture are above the cursor.
    drawn: usize,
    last: Option<Instant>,
    samples: VecDeque<(Instant, Figures)>,
    curve: VecDeque<u64>,
}

impl View {
    /// Live on a terminal that knows the control sequences, unless plain lines are asked for.
    pub fn new(plain: bool) -> View {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let live = !plain && !dumb && io::stderr().is_terminal();
        let colour = live && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        View { live, colour, drawn: 0, last: None, samples: VecDeque::new(), curve: VecDeque::new() }
    }

    /// Something happened: a line that stays, above the picture.
    pub fn happened(&mut self, at: Duration, what: &str) {
        let line = format!("{:>5.1} s  {what}\n", at.as_secs_f64());
        let above = self.erase();
        let _ = io::stderr().write_all(format!("{above}{line}").as_bytes());
        // A picture that was erased is drawn again at once.
        self.last = self.last.filter(|_| !self.live);
    }

    /// Draws the picture if it is time to.
    pub fn show(&mut self, picture: &Picture) {
        let now = Instant::now();
        let every = if self.live { REDRAW } else { LINE_EVERY };
        if self.last.is_some_and(|last| now.duration_since(last) < every) {
            return;
        }
        self.last = Some(now);
        self.sample(now, picture.figures);
        let (committed, delivered) = self.rates(now, picture.figures);
        let text = if self.live {
            let lines = screen(picture, (committed, delivered), &curve(&self.curve), self.colour);
            let above = self.erase();
            self.drawn = lines.len();
            // A line that is wider than the terminal is cut, not wrapped: wrapped ones could not be counted.
            format!("{above}\x1b[?7l{}\x1b[?7h", lines.concat())
        } else {
            plain(picture, committed)
        };
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// The last picture stays, a little apart from what follows.
    pub fn end(self) {
        if self.live {
            let _ = writeln!(io::stderr());
        }
    }

    /// Takes the cursor to the top of the last picture and clears from there.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn sample(&mut self, now: Instant, figures: Figures) {
        self.samples.push_back((now, figures));
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            self.samples.pop_front();
        }
        if self.curve.len() == CURVE {
            self.curve.pop_front();
        }
        self.curve.push_back(figures.behind());
    }

    /// Orders a second: committed, delivered.
    fn rates(&self, now: Instant, figures: Figures) -> (u64, u64) {
        let Some((at, before)) = self.samples.front() else { return (0, 0) };
        let seconds = now.duration_since(*at).as_secs_f64();
        if seconds < 0.1 {
            return (0, 0);
        }
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        (rate(figures.committed, before.committed), rate(figures.delivered, before.delivered))
    }
}

fn screen(picture: &Picture, (committed, delivered): (u64, u64), curve: &str, colour: bool) -> Vec<String> {
    let Picture { elapsed, doing, figures, relays } = picture;
    let mut lines = vec![
        "\n".to_owned(),
        format!("  {:>5.1} s     {doing}\n", elapsed.as_secs_f64()),
        format!(
            "  committed   {:>8}  {committed:>6}/s    rolled back {}, committed late {}\n",
            figures.committed, figures.rolled_back, figures.late
        ),
        format!(
            "  delivered   {:>8}  {delivered:>6}/s    duplicates {}\n",
            figures.delivered, figures.duplicates
        ),
        format!("  lag         {:>8}  {:>6.2} s    {curve}\n", figures.behind(), figures.lag.as_secs_f64()),
    ];
    for ((pid, state), name) in relays.iter().zip(NAMES) {
        lines.push(format!("  relay {name}     {pid:>8}            {}\n", in_words(*state, colour)));
    }
    lines
}

fn plain(picture: &Picture, committed: u64) -> String {
    let Picture { elapsed, figures, relays, .. } = picture;
    let leader = relays.iter().zip(NAMES).find_map(|((_, state), name)| match state {
        State::Leads(epoch) => Some(format!("{name} leads, epoch {epoch}")),
        State::StandsBy | State::Killed => None,
    });
    format!(
        "{:>5.1} s  committed {} ({committed}/s), delivered {}, lag {} ({:.2} s), {}\n",
        elapsed.as_secs_f64(),
        figures.committed,
        figures.delivered,
        figures.behind(),
        figures.lag.as_secs_f64(),
        leader.unwrap_or_else(|| "nobody leads".to_owned())
    )
}

fn in_words(state: State, colour: bool) -> String {
    let (words, paint) = match state {
        State::Leads(epoch) => (format!("leads, epoch {epoch}"), "32"),
        State::StandsBy => ("stands by".to_owned(), "0"),
        State::Killed => ("killed".to_owned(), "31"),
    };
    if colour { format!("\x1b[{paint}m{words}\x1b[0m") } else { words }
}

/// One character a sample, the highest as high as it gets.
fn curve(samples: &VecDeque<u64>) -> String {
    let highest = samples.iter().copied().max().unwrap_or(0).max(1);
    let top = LEVELS.len() as u64 - 1;
    samples.iter().map(|sample| LEVELS[(sample * top).div_ceil(highest) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let figures = Figures {
            committed: 1_200,
            rolled_back: 130,
            late: 25,
            delivered: 1_150,
            duplicates: 3,
            lag: Duration::from_millis(1_230),
            complete: false,
        };
        let relays = [(101, State::Killed), (102, State::Leads(2))];
        Picture { elapsed: Duration::from_millis(7_540), doing: "writing orders", figures, relays }
    }

    #[test]
    fn a_line_says_what_the_screen_says() {
        let line = "  7.5 s  committed 1200 (310/s), delivered 1150, lag 50 (1.23 s), B leads, epoch 2\n";
        assert_eq!(plain(&picture(), 310), line);
        let screen = screen(&picture(), (310, 290), "▁█", false).concat();
        for part in ["1200", "310/s", "1150", "290/s", "50", "1.23 s", "▁█", "leads, epoch 2", "killed"] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
    }

    #[test]
    fn a_curve_reaches_from_the_lowest_to_the_highest_level() {
        assert_eq!(curve(&VecDeque::from([0, 50, 100])), "▁▅█");
        assert_eq!(curve(&VecDeque::from([0, 0])), "▁▁");
    }
}
