//! One direction of a connection: reads, keeps what is not due yet, writes. It must keep order and invent nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::mode::{Direction, End, Mode, Rule};

const CHUNK: usize = 64 * 1024;
/// What may be kept for later: a second of delay at 8 MB/s.
const KEPT_MAX: usize = 8 * 1024 * 1024;
/// A throttled stream moves in so many steps a second.
const STEPS: u64 = 50;

/// The bytes on their way.
pub struct Pump<'a> {
    direction: Direction,
    rule: watch::Receiver<Rule>,
    shared: &'a Shared,
    /// What was read and not written, with the time of reading, and its size.
    kept: VecDeque<(Instant, Vec<u8>)>,
    kept_bytes: usize,
    /// Bytes of the first of them that have been written.
    written: usize,
    /// When a throttled stream may go on.
    next: Instant,
    /// The sender has closed its side.
    is_over: bool,
    /// Bytes of this stream are missing.
    is_torn: bool,
    /// The first byte was let through, and that was the last.
    is_last: bool,
}

impl<'a> Pump<'a> {
    /// A pump that has moved nothing.
    pub fn new(direction: Direction, rule: watch::Receiver<Rule>, shared: &'a Shared) -> Self {
        Pump {
            direction,
            rule,
            shared,
            kept: VecDeque::new(),
            kept_bytes: 0,
            written: 0,
            next: Instant::now(),
            is_over: false,
            is_torn: false,
            is_last: false,
        }
    }

    /// Moves bytes until the sender closes its side, and tells the receiver. An error is how both sides are to end.
    pub async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let rule = *self.rule.borrow_and_update();
            let mode = rule.of(self.direction);
            if let Some(end) = rule.end() {
                return Err(end);
            }
            if self.is_torn && mode != Mode::SwallowResponses {
                return Err(End::Reset);
            }
            if self.kept.is_empty() && self.is_last {
                return Err(End::Cut);
            }
            if self.kept.is_empty() && self.is_over {
                return to.shutdown().await.map_err(|_| End::Reset);
            }
            let stands = mode == Mode::StopReading;
            let reads = !stands && self.kept_bytes < KEPT_MAX && !self.is_over && !self.is_last;
            let due = self.kept.front().filter(|_| !stands).map(|(read, _)| self.due(mode, *read));
            tokio::select! {
                // What is due goes before more comes.
                biased;
                changed = self.rule.changed() => changed.map_err(|_| End::Reset)?,
                bytes = write(&self.kept, self.written, due, step(mode), &mut to), if due.is_some() => {
                    self.wrote(mode, bytes.map_err(|_| End::Reset)?);
                }
                bytes = from.read(&mut buffer), if reads => match bytes {
                    Ok(0) => self.is_over = true,
                    // A rule counts for every byte that is sent after it was set: asked again, as it may have been set
                    // since this loop began.
                    Ok(bytes) => self.take(&buffer[..bytes])?,
                    Err(_) => return Err(End::Reset),
                },
            }
        }
    }

    /// When bytes that were read at this time may go on.
    fn due(&self, mode: Mode, read: Instant) -> Instant {
        match mode {
            Mode::Delay(by) => read + by,
            Mode::Throttle(_) => self.next,
            _ => read,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mode = self.rule.borrow().of(self.direction);
        match (self.direction, mode) {
            (Direction::ToClient, Mode::SwallowResponses) => {
                self.is_torn = true;
                count(&self.shared.swallowed, bytes.len());
            }
            (Direction::ToClient, Mode::CutOnResponse) => {
                count(&self.shared.swallowed, bytes.len());
                return Err(End::Cut);
            }
            (Direction::ToClient, Mode::CutAfterResponseBegins) => {
                self.is_last = true;
                self.keep(&bytes[..1]);
            }
            _ => self.keep(bytes),
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.push_back((Instant::now(), bytes.to_vec()));
        self.kept_bytes += bytes.len();
    }

    fn wrote(&mut self, mode: Mode, bytes: usize) {
        let passed = match self.direction {
            Direction::ToServer => &self.shared.to_server,
            Direction::ToClient => &self.shared.to_client,
        };
        count(passed, bytes);
        self.written += bytes;
        self.kept_bytes -= bytes;
        if self.kept.front().is_some_and(|(_, first)| first.len() == self.written) {
            self.kept.pop_front();
            self.written = 0;
        }
        if let Mode::Throttle(rate) = mode {
            let took = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            self.next = self.next.max(Instant::now()) + took;
        }
    }
}

/// The most that is written at once.
fn step(mode: Mode) -> usize {
    match mode {
        Mode::Throttle(rate) => usize::try_from((rate / STEPS).max(1)).unwrap_or(CHUNK),
        _ => CHUNK,
    }
}

/// Writes of the first chunk what is left, once it is due. Nothing is written if it is dropped before it ends.
async fn write(
    kept: &VecDeque<(Instant, Vec<u8>)>,
    written: usize,
    due: Option<Instant>,
    most: usize,
    to: &mut WriteHalf<'_>,
) -> std::io::Result<usize> {
    let Some((_, first)) = kept.front() else { return std::future::pending().await };
    if let Some(due) = due.filter(|due| *due > Instant::now()) {
        sleep_until(due).await;
    }
    let left = &first[written..];
    to.write(&left[..left.len().min(most)]).await
}

fn count(count: &AtomicU64, bytes: usize) {
    count.fetch_add(bytes as u64, Ordering::Relaxed);
}
