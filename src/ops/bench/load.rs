//! Writers at a given rate, and one reader of the topic that tells how long each message took.
//!
//! A transaction has a number, which each of its payloads begins with. Time runs from the moment its commit returned to the moment
//! the reader has the record; a record that is here before its commit has returned took no time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::kafka::{Consumer, KafkaError, KafkaSettings};
use crate::store::bench::{self, Shape};
use crate::store::{Server, Session, replay};

/// How long nothing may arrive of what was written before the wait is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// A topic is known to all brokers a moment after it was made.
const KNOWN: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

/// Writers and a reader.
pub struct Load {
    writers: Vec<Session>,
    shape: Shape,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<Result<(), KafkaError>>>,
    /// Everything that was written is settled; known once it is finished.
    pub is_settled: bool,
}

#[derive(Default)]
struct Shared {
    /// Transactions whose records are not all here, by number.
    open: Mutex<HashMap<i64, Open>>,
    written: AtomicU64,
    arrived: AtomicU64,
    duplicates: AtomicU64,
    next: AtomicI64,
    /// Microseconds of what has arrived since they were last taken.
    times: Mutex<Vec<u64>>,
    end: AtomicBool,
}

struct Open {
    committed: Option<Instant>,
    /// Records that are not here.
    left: i32,
}

/// What was written in one go, and what had arrived by its end.
#[derive(Debug)]
pub struct Wrote {
    rows: u64,
    arrived: u64,
    seconds: f64,
    /// Written and not arrived at the end.
    pub on_the_way: u64,
    /// Of what has arrived, ascending, in microseconds.
    pub times: Vec<u64>,
}

impl Wrote {
    /// Rows committed a second.
    pub fn written_rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    /// Records that arrived, a second.
    pub fn arrived_rate(&self) -> f64 {
        self.arrived as f64 / self.seconds
    }

    /// Milliseconds that this share of the records took at most; `None`: nothing arrived.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let last = self.times.len().checked_sub(1)?;
        Some(self.times[(last as f64 * share) as usize] as f64 / 1e3)
    }
}

impl Load {
    /// Connects writers and reader.
    pub async fn start(
        config: &Config,
        settings: &KafkaSettings,
        shape: Shape,
        writers: usize,
    ) -> anyhow::Result<Load> {
        let hosts = config.postgres.host_urls();
        let server =
            Server::new(hosts.iter().map(|host| host.expose()))?.behind_pooler(config.postgres.pooler);
        let mut sessions = Vec::with_capacity(writers);
        for _ in 0..writers {
            sessions.push(server.connect("bench").await.context("connect a writer")?);
        }
        let shared = Arc::<Shared>::default();
        let (settings, topic, seen) = (settings.clone(), shape.topic.clone(), Arc::clone(&shared));
        let header = config.kafka.header_event_id.clone();
        let reader = std::thread::Builder::new()
            .name("bench-reader".into())
            .spawn(move || listen(start_consumer(&settings, &topic, &header)?, &seen))
            .context("start the reader")?;
        Ok(Load { writers: sessions, shape, shared, reader: Some(reader), is_settled: false })
    }

    /// Rows committed so far.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// A transaction was begun. One whose answer got lost may have committed, and is not counted as written.
    pub fn has_tried(&self) -> bool {
        self.shared.next.load(Ordering::Relaxed) > 0
    }

    /// Records that came more than once.
    pub fn duplicates(&self) -> u64 {
        self.shared.duplicates.load(Ordering::Relaxed)
    }

    /// Writes at this rate for so long, and no more than so many rows.
    pub async fn write(
        &mut self,
        rate: u64,
        lasting: Duration,
        rows_max: u64,
        stop: &CancellationToken,
    ) -> anyhow::Result<Wrote> {
        let (shared, rows) = (&self.shared, self.shape.rows as u64);
        lock(&shared.times).clear();
        let (wrote_before, arrived_before) = (self.written(), shared.arrived.load(Ordering::Relaxed));
        let began = Instant::now();
        let ends = began + lasting;
        // The number of the next transaction, and with it the moment at which it is due.
        let turn = AtomicU64::new(0);
        let writing = self.writers.iter_mut().map(|session| async {
            loop {
                let mine = turn.fetch_add(1, Ordering::Relaxed);
                let due = began + Duration::from_secs_f64((mine * rows) as f64 / rate as f64);
                if due >= ends || (mine + 1) * rows > rows_max.max(rows) {
                    return Ok(());
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep_until(due.into()) => {}
                }
                if Instant::now() >= ends {
                    return Ok(());
                }
                let number = shared.next.fetch_add(1, Ordering::Relaxed);
                lock(&shared.open).insert(number, Open { committed: None, left: self.shape.rows });
                bench::write(session, &self.shape, number).await?;
                shared.written.fetch_add(rows, Ordering::Relaxed);
                if let Some(open) = lock(&shared.open).get_mut(&number) {
                    open.committed = Some(Instant::now());
                }
            }
        });
        let written: Result<Vec<()>, crate::store::StoreError> =
            futures_util::future::try_join_all(writing).await;
        written.context("write messages")?;
        if !stop.is_cancelled() {
            tokio::time::sleep_until(ends.into()).await;
        }
        self.check()?;
        let arrived = self.shared.arrived.load(Ordering::Relaxed);
        let mut times = std::mem::take(&mut *lock(&self.shared.times));
        times.sort_unstable();
        Ok(Wrote {
            rows: self.written() - wrote_before,
            arrived: arrived - arrived_before,
            seconds: began.elapsed().as_secs_f64(),
            on_the_way: self.written().saturating_sub(arrived),
            times,
        })
    }

    /// Waits until everything that was written has arrived.
    pub async fn drained(&mut self, session: &mut Session, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut progress = (0, Instant::now());
        loop {
            self.check()?;
            let arrived = self.shared.arrived.load(Ordering::Relaxed);
            if arrived >= self.written() || stop.is_cancelled() {
                return Ok(());
            }
            if arrived != progress.0 {
                progress = (arrived, Instant::now());
            }
            if progress.1.elapsed() > SILENCE {
                let left = if self.is_left(session).await? {
                    "not settled"
                } else {
                    "settled, but not in the topic"
                };
                bail!(
                    "{} of {} messages have not arrived, and none has for {} s; they are {left}: outbox-relay status tells what the \
                     relay is doing",
                    self.written() - arrived,
                    self.written(),
                    SILENCE.as_secs()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether some message is not settled.
    pub async fn is_left(&self, session: &mut Session) -> anyhow::Result<bool> {
        let last = replay::last_id(session).await?;
        Ok(bench::is_left(session, &self.shape.topic, last).await?)
    }

    /// Waits until everything has arrived and is settled, and disconnects.
    pub async fn finish(&mut self, session: &mut Session) -> anyhow::Result<()> {
        let drained = self.drained(session, &CancellationToken::new()).await;
        self.shared.end.store(true, Ordering::Relaxed);
        for writer in self.writers.drain(..) {
            writer.close().await;
        }
        let deadline = Instant::now() + SILENCE;
        while self.is_left(session).await? {
            if Instant::now() > deadline {
                bail!("the messages are not settled within {} s", SILENCE.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        self.is_settled = true;
        drained?;
        match self.reader.take().map(JoinHandle::join) {
            Some(Err(_)) => bail!("the reader of the topic ended unexpectedly"),
            Some(Ok(read)) => Ok(read?),
            None => Ok(()),
        }
    }

    /// Fails when the reader has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        match self.reader.take_if(|reader| reader.is_finished()).map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error.into()),
            Some(_) => bail!("the reader of the topic ended unexpectedly"),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
    }
}

fn start_consumer(settings: &KafkaSettings, topic: &str, header: &str) -> Result<Consumer, KafkaError> {
    let deadline = Instant::now() + KNOWN;
    loop {
        match Consumer::start(settings, topic, header) {
            Err(error) if error.class == "topic" && Instant::now() < deadline => std::thread::sleep(LOOK),
            started => return started,
        }
    }
}

fn listen(mut consumer: Consumer, shared: &Shared) -> Result<(), KafkaError> {
    while !shared.end.load(Ordering::Relaxed) {
        let Some(record) = consumer.next(Duration::from_millis(50))? else { continue };
        let at = Instant::now();
        let number = record.payload.as_deref().and_then(number);
        let mut open = lock(&shared.open);
        let Some((number, transaction)) = number.and_then(|n| Some((n, open.get_mut(&n)?))) else {
            drop(open);
            shared.duplicates.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        transaction.left -= 1;
        let took = transaction.committed.map_or(Duration::ZERO, |committed| at - committed);
        if transaction.left == 0 {
            open.remove(&number);
        }
        drop(open);
        lock(&shared.times).push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        shared.arrived.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The number that a payload begins with.
fn number(payload: &[u8]) -> Option<i64> {
    let text = payload.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_names_its_transaction() {
        assert_eq!(number(b"4711 xxxx"), Some(4711));
        assert_eq!(number(b"x 1"), None);
        assert_eq!(number(b""), None);
    }

    #[test]
    fn shares_of_the_times() {
        let wrote = |times| Wrote { rows: 10, arrived: 5, seconds: 2.0, on_the_way: 5, times };
        let some = wrote((1..=1000).map(|n| n * 1000).collect());
        assert_eq!((some.percentile(0.5), some.percentile(0.999)), (Some(500.0), Some(999.0)));
        assert_eq!((some.written_rate(), some.arrived_rate()), (5.0, 2.5));
        assert_eq!(wrote(Vec::new()).percentile(0.5), None);
    }
}
