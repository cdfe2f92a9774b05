//! The producers of a relay: main, spare and second.
//!
//! Owns which producer a record goes through and how a dead one is replaced. It does not know what a failed record
//! deserves, and does not remember records: that is the sender.
//!
//! - The **main** producer is pipelined and gapless: at the first refused record it dies, and everything behind comes
//!   back unsent. Nothing can pass.
//! - A **spare** is an idle main producer that has its producer id: a cold one needs half a second to its first
//!   confirm, a warm one a millisecond.
//! - The **second** producer sends suspect rows, each in a protocol batch of its own.
//! - The **third** producer hands each record to a broker at most once. It starts when the first such record comes.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use super::producer::Outgoing;
use super::settings::SMALLEST_BATCH_SIZE;
use super::{Inbox, KafkaError, KafkaSettings, NotTaken, Producer, Refusal, Report, Weather};
use crate::message::{HeaderNames, OutboxRow, each_header};
use crate::verdict::{Failure, Route};

/// Spares of a standby: its first record after a takeover must not wait for a producer id.
const STANDBY_SPARES: usize = 1;

/// Spares of a leader: a second refused record may come before a new spare is warm.
const LEADER_SPARES: usize = 2;

/// What the relay adds to every record of a term.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The relay's header names.
    pub names: HeaderNames,
    /// The lease's epoch, as text.
    pub epoch: String,
}

/// The producers of one process. Between terms it holds only spares.
#[derive(Debug)]
pub struct Publisher {
    settings: KafkaSettings,
    inbox: Arc<Inbox>,
    main: Option<Producer>,
    spares: VecDeque<Producer>,
    second: Option<Producer>,
    third: Option<Producer>,
    generations: u32,
    batch_size: usize,
    compresses: bool,
    /// Scratch for numbers as text, so that a header costs no allocation.
    scratch: String,
}

impl Publisher {
    /// Starts a spare. Does not wait for a connection.
    pub fn start(settings: KafkaSettings) -> Result<Publisher, KafkaError> {
        let mut publisher = Publisher {
            batch_size: settings.batch_size(),
            compresses: settings.compresses(),
            settings,
            inbox: Arc::default(),
            main: None,
            spares: VecDeque::new(),
            second: None,
            third: None,
            generations: 0,
            scratch: String::with_capacity(64),
        };
        publisher.keep_spares(STANDBY_SPARES)?;
        Ok(publisher)
    }

    /// Where reports arrive.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// The main producer's `batch.size`.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Whether the user's properties switch compression on.
    pub fn compresses(&self) -> bool {
        self.compresses
    }

    /// A term begins: the spare becomes the main producer, and new spares and the second producer start.
    pub fn begin_term(&mut self) -> Result<(), KafkaError> {
        self.replace_main()?;
        let generation = self.next_generation();
        self.second = Some(Producer::start(&self.settings.alone(), &self.inbox, generation)?);
        Ok(())
    }

    /// A term ends: what is queued and in flight is given up. Reports of these producers no longer matter.
    pub fn end_term(&mut self) {
        self.main = None;
        self.second = None;
        self.third = None;
        self.inbox.take(&mut Vec::new());
    }

    /// The spare takes the main producer's place; what that one still holds is given up.
    pub fn replace_main(&mut self) -> Result<(), KafkaError> {
        // The oldest one that is warm, or else the oldest.
        let next = self.spares.iter().position(Producer::is_warm).unwrap_or(0);
        self.main = match self.spares.remove(next) {
            Some(spare) => Some(spare),
            None => Some(self.start_main()?),
        };
        self.keep_spares(LEADER_SPARES)
    }

    /// A topic in use has a lower limit than the main producer's batches: new producers stay below it.
    /// Returns whether the main producer should be replaced. Topics with tiny limits do not count; theirs go alone.
    pub fn lower_batch_size(&mut self, limit: usize) -> Result<bool, KafkaError> {
        if limit >= self.batch_size || limit < SMALLEST_BATCH_SIZE {
            return Ok(false);
        }
        self.batch_size = limit;
        self.spares.clear();
        self.keep_spares(LEADER_SPARES)?;
        Ok(true)
    }

    /// Batches of this size were too large for a topic whose limit we may not read: new producers try a quarter.
    /// Returns whether that is smaller than before.
    pub fn try_smaller_batches(&mut self) -> Result<bool, KafkaError> {
        self.lower_batch_size((self.batch_size / 4).max(SMALLEST_BATCH_SIZE))
    }

    /// Hands one record to librdkafka, which copies it. `opaque` comes back in its report.
    pub fn hand_over(
        &mut self,
        route: Route,
        row: &OutboxRow,
        stamp: &Stamp,
        now_us: i64,
        opaque: usize,
    ) -> Result<(), NotTaken> {
        let headers = headers(row, stamp, &mut self.scratch)?;
        let producer = match route {
            Route::Main => self.main.as_ref(),
            Route::Alone | Route::Copy => self.second.as_ref(),
            Route::Once => {
                if self.third.is_none() {
                    let generation = self.next_generation();
                    let started = Producer::start(&self.settings.once(), &self.inbox, generation);
                    self.third = Some(started.map_err(|_| NotTaken::Dead)?);
                }
                self.third.as_ref()
            }
        };
        let producer = producer.ok_or(NotTaken::Dead)?;
        producer.send(
            Outgoing {
                topic: &row.topic,
                partition: row.partition,
                key: row.key.as_deref(),
                payload: row.payload.as_deref(),
                timestamp_ms: row.timestamp_ms(now_us),
                headers,
            },
            opaque,
        )?;
        #[cfg(debug_assertions)]
        {
            let name = match route {
                Route::Main => "main",
                Route::Alone | Route::Copy => "second",
                Route::Once => "third",
            };
            if crate::crash_point::is_fatal(name) {
                producer.kill();
            }
        }
        Ok(())
    }

    /// A failure has been reported by the main producer and not been judged yet.
    pub fn is_tripped(&self) -> bool {
        self.main.as_ref().is_some_and(Producer::is_tripped)
    }

    /// The main producer's failures have been judged and it lives: the gate opens.
    pub fn reset(&self) {
        if let Some(main) = &self.main {
            main.reset();
        }
    }

    /// The main producer takes nothing more.
    pub fn is_dead(&self) -> bool {
        self.main.as_ref().is_none_or(Producer::is_dead)
    }

    /// The second producer takes nothing more; a new one starts in its place.
    pub fn revive_second(&mut self) -> Result<bool, KafkaError> {
        if !self.second.as_ref().is_some_and(Producer::is_dead) {
            return Ok(false);
        }
        let generation = self.next_generation();
        self.second = Some(Producer::start(&self.settings.alone(), &self.inbox, generation)?);
        Ok(true)
    }

    /// Gives up what the main producer holds; its reports arrive as unsent or unknown.
    pub fn purge_main(&self) {
        if let Some(main) = &self.main {
            main.purge();
        }
    }

    /// The report comes from a producer that is still in use.
    pub fn is_current(&self, report: &Report) -> bool {
        [&self.main, &self.second, &self.third]
            .into_iter()
            .flatten()
            .any(|p| p.generation() == report.generation)
    }

    /// Some producer is connected to a broker.
    pub fn is_connected(&self) -> bool {
        self.main.iter().chain(&self.spares).any(Producer::is_connected)
    }

    /// What the main producer knows of the brokers.
    pub fn weather(&self) -> Weather {
        self.main.as_ref().map(Producer::weather).unwrap_or_default()
    }

    /// Gives up a third producer that takes nothing more; the next record starts another one. Returns whether it did.
    pub fn revive_third(&mut self) -> bool {
        self.third.take_if(|third| third.is_dead()).is_some()
    }

    /// Lets the spares learn where the topics in use are, in the background.
    pub fn teach_spares(&self, topics: &[Arc<str>]) {
        self.spares.iter().for_each(|spare| spare.learn(topics.to_vec()));
    }

    fn keep_spares(&mut self, number: usize) -> Result<(), KafkaError> {
        while self.spares.len() < number {
            let spare = self.start_main()?;
            self.spares.push_back(spare);
        }
        Ok(())
    }

    fn start_main(&mut self) -> Result<Producer, KafkaError> {
        let generation = self.next_generation();
        Producer::start(&self.settings.main(self.batch_size), &self.inbox, generation)
    }

    fn next_generation(&mut self) -> u32 {
        self.generations += 1;
        self.generations
    }
}

fn headers(row: &OutboxRow, stamp: &Stamp, scratch: &mut String) -> Result<OwnedHeaders, NotTaken> {
    let mut event_id = [0; uuid::fmt::Hyphenated::LENGTH];
    let event_id: &str = row.event_id.hyphenated().encode_lower(&mut event_id);
    scratch.clear();
    write!(scratch, "{}", row.id).expect("writing to a string does not fail");
    let mut headers = OwnedHeaders::new_with_capacity(8)
        .insert(Header { key: &stamp.names.event_id, value: Some(event_id) })
        .insert(Header { key: &stamp.names.seq, value: Some(scratch.as_str()) });
    if let Some(name) = &stamp.names.epoch {
        headers = headers.insert(Header { key: name, value: Some(&stamp.epoch) });
    }
    let Some(text) = row.headers.as_deref() else { return Ok(headers) };
    let mut held = Some(headers);
    let read = each_header(text, |name, value| {
        if !stamp.names.is_ours(name) {
            held = held.take().map(|headers| headers.insert(Header { key: name, value }));
        }
    });
    match (read, held) {
        (Ok(()), Some(headers)) => Ok(headers),
        (Err(error), _) => Err(NotTaken::Refused(Refusal {
            failure: Failure::Refused,
            class: "record",
            text: format!("headers cannot be read: {error}"),
        })),
        (Ok(()), None) => unreachable!("the headers are put back after every insert"),
    }
}
