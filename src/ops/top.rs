//! `outbox-relay top`: how the relay is, live on a terminal.
//!
//! Owns the loop: a look at the database now and then, keys, and the terminal, which is given back as it was however this ends.
//! What is seen is a [`Screen`] (`screen`), and `draw` makes a picture of it. Lost connections are opened again. It looks no
//! more often than every ten times as long as a look takes, so that it is never what a server suffers from.

mod draw;
mod screen;

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::screen::{Sample, Screen};
use super::{connect, print};
use crate::cli::watch::TopOptions;
use crate::config::Config;
use crate::store::follow::{self, Flow};
use crate::store::{Session, inspect};

/// Keys, causes and requests that are read; the screen has room for fewer.
const ROWS: i64 = 20;
/// A look takes at most this part of a connection's time.
const REST: u32 = 10;
/// Between two attempts to reach the server again.
const RECONNECT: Duration = Duration::from_secs(1);

/// Shows it until it is told to end.
pub async fn run(config: &Config, options: TopOptions) -> anyhow::Result<ExitCode> {
    if options.once {
        return once(config, options).await;
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "top draws on a terminal, and this is none; outbox-relay status says the same once, top --once prints one screen"
        );
    }
    let looks = Looks::new(config, connect(config).await?);
    let (samples, seen) = mpsc::channel(1);
    let mut looking = pin!(looks.go_on(options.interval, samples));
    let terminal = Terminal::take()?;
    let mut showing = pin!(show(terminal, seen));
    tokio::select! {
        () = &mut looking => Ok(ExitCode::SUCCESS),
        shown = &mut showing => shown.map(|()| ExitCode::SUCCESS),
    }
}

/// One screen as text: two looks at least, for there are no rates in one.
async fn once(config: &Config, options: TopOptions) -> anyhow::Result<ExitCode> {
    let mut looks = Looks::new(config, connect(config).await?);
    let mut screen = Screen::default();
    screen.take(looks.look().await);
    for _ in 1..options.looks {
        tokio::time::sleep(options.interval).await;
        screen.take(looks.look().await);
    }
    if let Some(trouble) = &screen.trouble {
        bail!("{trouble}");
    }
    let (columns, lines) = options.size;
    print::data(&draw::as_text(&screen, columns, lines))?;
    Ok(ExitCode::SUCCESS)
}

/// Draws what comes, and does what keys say.
async fn show(
    mut terminal: Terminal,
    mut samples: mpsc::Receiver<Result<Sample, String>>,
) -> anyhow::Result<()> {
    let mut keys = keys();
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut screen = Screen::default();
    loop {
        terminal.0.draw(|frame| draw::draw(frame, &screen)).context("draw")?;
        tokio::select! {
            Some(sample) = samples.recv() => screen.take(sample),
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match wish(key) {
                    Wish::Quit => return Ok(()),
                    Wish::Pause => screen.is_paused = !screen.is_paused,
                    Wish::Scroll(by) => screen.scroll(by),
                    Wish::Nothing => {}
                },
                Some(_) => {}
                None => bail!("the terminal is gone"),
            },
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// What a key is for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Pause,
    Scroll(isize),
    Nothing,
}

fn wish(key: KeyEvent) -> Wish {
    match key.code {
        // In raw mode Ctrl-C is a key like others.
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char('p' | ' ') => Wish::Pause,
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown => Wish::Scroll(10),
        KeyCode::PageUp => Wish::Scroll(-10),
        KeyCode::Home => Wish::Scroll(isize::MIN),
        _ => Wish::Nothing,
    }
}

/// Events of the terminal, which can only be waited for by a thread. It ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The terminal in raw mode and on its other screen, until this is dropped; a panic gives it back as well.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn take() -> anyhow::Result<Terminal> {
        ratatui::try_init().map(Terminal).context("take the terminal")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Looks at the database, one after the other.
struct Looks<'a> {
    config: &'a Config,
    session: Option<Session>,
    flow: Option<Flow>,
}

impl Looks<'_> {
    fn new(config: &Config, session: Session) -> Looks<'_> {
        Looks { config, session: Some(session), flow: None }
    }

    async fn go_on(mut self, interval: Duration, samples: mpsc::Sender<Result<Sample, String>>) {
        loop {
            let began = Instant::now();
            let looked = self.look().await;
            let rest = if looked.is_err() { RECONNECT } else { began.elapsed() * REST };
            if samples.send(looked).await.is_err() {
                return;
            }
            tokio::time::sleep(interval.saturating_sub(began.elapsed()).max(rest)).await;
        }
    }

    /// What is to be seen now, or why nothing is.
    async fn look(&mut self) -> Result<Sample, String> {
        let looked = self.try_look().await;
        if looked.is_err() {
            // The connection may be of no use any more, and what was counted is not the rate since a while ago.
            (self.session, self.flow) = (None, None);
        }
        looked.map_err(|error| format!("{error:#}"))
    }

    async fn try_look(&mut self) -> anyhow::Result<Sample> {
        if self.session.is_none() {
            self.session = Some(connect(self.config).await?);
        }
        let session = self.session.as_mut().expect("it was opened above");
        let flow = follow::flow(session, self.flow.as_ref()).await?;
        let rates = self.flow.as_ref().and_then(|before| screen::Rates::between(before, &flow));
        let overview = inspect::overview(session).await?;
        let open = ["asked", "running"].map(str::to_owned);
        let sample = Sample {
            at: flow.at.clone(),
            rates,
            is_silent: overview.is_silent(self.config.lease.ttl),
            overview,
            topics: inspect::topics(session).await?,
            keys: inspect::blocked_keys(session, None, ROWS).await?,
            causes: inspect::letter_groups(session).await?,
            requests: inspect::requests(session, &open, i64::MAX, ROWS).await?,
        };
        self.flow = Some(flow);
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_what_the_last_line_says() {
        let check = |code, modifiers, expected| assert_eq!(wish(KeyEvent::new(code, modifiers)), expected);
        check(KeyCode::Char('q'), KeyModifiers::NONE, Wish::Quit);
        check(KeyCode::Esc, KeyModifiers::NONE, Wish::Quit);
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Wish::Quit);
        check(KeyCode::Char('c'), KeyModifiers::NONE, Wish::Nothing);
        check(KeyCode::Char('p'), KeyModifiers::NONE, Wish::Pause);
        check(KeyCode::Down, KeyModifiers::NONE, Wish::Scroll(1));
    }
}
