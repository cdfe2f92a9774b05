//! Send: rows to Kafka in order, reports back, every row's fate.
//!
//! Owns the window, the blocked keys and what is known of topics; it is the only one that decides who waits. The
//! decisions themselves are pure: `message::judge` before sending, `verdict::decide` after a report.
//!
//! Order is kept by four rules. A row whose key is blocked is put off behind it. When a report is not a success,
//! nothing more goes to the main producer until it has been judged; if the producer died of it, everything behind
//! came back unsent, and it goes out again in order through the spare. Rows that are suspect never travel with
//! others: they are put off without a wait and come back alone, through the second producer. And the first keyed row of
//! a partition goes before all others, until its confirm (`gates`): a broker takes any sequence number for a
//! producer's first, so a second one in flight could pass it.

mod due;
mod put_off;
mod reports;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

use self::reports::{Pace, Returned};
use super::batch::{Batch, DueBatch, Fate, Tag};
use super::remarks::Remarks;
use super::topics::{Answer, KnownTopics, Standing, facts};
use super::{Beside, Decided, DeferredRows, Entrance, Origin, Settled, Term, TermEnd};
use crate::crash_point;
use crate::health::Loop;
use crate::kafka::{NotTaken, Publisher, Report, Topics};
use crate::message::{Fitness, judge};
use crate::metrics::{Dependency, KafkaErrorClass};
use crate::ordering::BlockedKeys;
use crate::partition;
use crate::store::deferred::DueRow;
use crate::store::poll::Page;
use crate::store::settle::{Deferral, Reason};
use crate::verdict::{Failure, Route};

/// Rows handed over between two looks at the reports.
const SLICE: usize = 500;

/// Batches in the window at most; a trickle makes many small ones.
const BATCHES: usize = 256;

/// The sender's state.
pub(super) struct Sender<'a> {
    term: Term,
    publisher: &'a mut Publisher,
    topics: KnownTopics,
    keys: BlockedKeys,
    window: VecDeque<Batch>,
    next_no: u64,
    /// Rows that go out again, in order; they go before any new row.
    again: VecDeque<(u64, usize)>,
    /// Rows that came back from the main producer and have not been judged.
    returned: Vec<Returned>,
    /// Rows handed to the main producer and not reported.
    outstanding: usize,
    /// Since when the main producer has been dead.
    dead_since: Option<Instant>,
    pace: Pace,
    /// The main producer has to give way to one with smaller batches, once its last report is in.
    swap_wanted: bool,
    due: Option<DueBatch>,
    /// Rows that enter from elsewhere, decided and not yet on their way to the settlement.
    entering: Option<Decided>,
    /// The next row's topic is being asked about, on either route.
    main_waits: bool,
    due_waits: bool,
    /// librdkafka's queue was full, or the next row follows the first one of its partition: nothing is handed over
    /// before the next report.
    awaits_report: bool,
    /// Size of the window: rows and bytes offered and not settled.
    rows: usize,
    bytes: usize,
    deferred: watch::Sender<DeferredRows>,
    /// Database clock minus ours, microseconds.
    clock_us: i64,
    reports: Vec<Report>,
    remarks: Remarks,
}

/// What became of an offer.
#[derive(PartialEq)]
enum Offer {
    /// Handed over, or decided without it.
    Done,
    /// Not now: the topic is being asked about, or the producer takes nothing.
    NotNow,
}

impl<'a> Sender<'a> {
    pub fn new(
        term: Term,
        publisher: &'a mut Publisher,
        topics: Topics,
        waiting: Vec<(Arc<str>, Box<[u8]>, u64)>,
        deferred: watch::Sender<DeferredRows>,
    ) -> Sender<'a> {
        let mut keys = BlockedKeys::default();
        waiting.iter().for_each(|(topic, key, rows)| keys.wait(topic, Some(key), *rows));
        Sender {
            topics: KnownTopics::new(topics, Arc::clone(&term.metrics)),
            term,
            publisher,
            keys,
            window: VecDeque::new(),
            next_no: 0,
            again: VecDeque::new(),
            returned: Vec::new(),
            outstanding: 0,
            dead_since: None,
            pace: Pace::default(),
            swap_wanted: false,
            due: None,
            entering: None,
            main_waits: false,
            due_waits: false,
            awaits_report: false,
            rows: 0,
            bytes: 0,
            deferred,
            clock_us: 0,
            reports: Vec::new(),
            remarks: Remarks::default(),
        }
    }

    /// Sends until both inputs are closed and everything is decided, or the term is over.
    pub async fn run(
        mut self,
        mut pages: mpsc::Receiver<Page>,
        mut beside: mpsc::Receiver<Beside>,
        decided: mpsc::Sender<Decided>,
        mut settled: mpsc::Receiver<Settled>,
    ) -> Result<(), TermEnd> {
        let running = self.term.health.running(Loop::Send);
        let inbox = Arc::clone(self.publisher.inbox());
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        let mut doubts = tokio::time::interval(Duration::from_secs(5));
        let (mut pages_open, mut due_open) = (true, true);
        loop {
            self.take_reports();
            self.judge_returned()?;
            self.hand_over()?;
            if !pages_open
                && !due_open
                && self.window.is_empty()
                && self.due.is_none()
                && self.entering.is_none()
            {
                return Ok(());
            }
            let is_decided = self.front_is_decided() || self.due_is_through() || self.entering.is_some();
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    running.tick();
                    self.look_around()?;
                }
                Some(settled) = settled.recv() => self.leave(settled),
                room = decided.reserve(), if is_decided => match room {
                    Ok(room) => room.send(self.take_decided()),
                    // The settle loop has ended, with an error of its own.
                    Err(_) => return Ok(()),
                },
                () = inbox.arrived() => {}
                answer = self.topics.answered() => self.take_answer(answer)?,
                next = beside.recv(), if due_open && self.due.is_none() && self.entering.is_none() => match next {
                    Some(Beside::Due { rows, settled }) => self.take_due(DueBatch::new(rows, settled)),
                    Some(Beside::Entrance(entrance)) => self.let_in(entrance),
                    None => due_open = false,
                },
                () = tokio::task::yield_now(), if self.may_hand_over() => {}
                page = pages.recv(), if pages_open && self.wants_page() => match page {
                    Some(page) => self.take_page(page),
                    None => pages_open = false,
                },
                _ = doubts.tick() => self.topics.ask_again(),
                _ = minute.tick() => {
                    self.topics.close_silent_gates(Instant::now());
                    self.publisher.teach_spares(&self.topics.ready());
                }
            }
        }
    }

    fn take_page(&mut self, page: Page) {
        self.clock_us = page.database_us - now_us();
        self.topics.count_read(&page.rows);
        self.next_no += 1;
        self.window.push_back(Batch::new(self.next_no, page.rows, page.next));
    }

    fn take_due(&mut self, mut due: DueBatch) {
        self.next_no += 1;
        due.no = self.next_no;
        let late: Vec<usize> = (0..due.rows.len()).filter(|index| due.rows[*index].waits).collect();
        // They are due, but an earlier row of their key is not through.
        for index in late {
            let DueRow { row, reason, attempts, tries, .. } = &due.rows[index];
            if *reason == Reason::Scheduled {
                self.keys.wait(&row.topic, row.key.as_deref(), 1);
                self.deferred.send_modify(|rows| {
                    rows.scheduled = rows.scheduled.saturating_sub(1);
                    rows.waiting += 1;
                });
            }
            let behind = Deferral { attempts: *attempts, tries: *tries, ..Deferral::behind(row.id) };
            due.fates[index] = Fate::PutOff(Box::new(behind));
        }
        self.due = Some(due);
    }

    /// Rows from elsewhere become deferred rows; from now on their keys wait for them.
    fn let_in(&mut self, entrance: Entrance) {
        let mut decided =
            Decided { settled: Some(entrance.settled), left: entrance.rows.len(), ..Decided::default() };
        for row in &entrance.rows {
            self.keys.wait(&row.topic, row.key.as_deref(), 1);
            match entrance.origin {
                Origin::Requeued => decided.outcome.rare.requeued.push(row.id),
                Origin::Found => decided.outcome.deferred.push(Deferral {
                    id: row.id,
                    reason: Reason::Retry,
                    delay_ms: Some(0),
                    attempts: 0,
                    tries: 0,
                    class: Some("unaccounted"),
                    error: Some("no settlement accounted for it".to_owned()),
                    passable: false,
                }),
            }
        }
        self.deferred.send_modify(|rows| rows.waiting += entrance.rows.len() as u64);
        self.entering = Some(decided);
    }

    /// Every row that was read has been offered, and the window has room for more.
    fn wants_page(&self) -> bool {
        self.window.len() < BATCHES
            && self.window.back().is_none_or(|batch| batch.offered == batch.rows.len())
    }

    fn has_room(&self) -> bool {
        self.rows == 0
            || (self.rows < self.term.config.window_rows && self.bytes < self.term.config.window_bytes)
    }

    /// Nothing stands between the next row and the main producer.
    fn gate_is_open(&self) -> bool {
        self.dead_since.is_none()
            && !self.swap_wanted
            && !self.awaits_report
            && !self.main_waits
            && !self.publisher.is_tripped()
    }

    fn may_hand_over(&self) -> bool {
        let new = self.window.back().is_some_and(|batch| batch.offered < batch.rows.len());
        (self.gate_is_open() && (!self.again.is_empty() || (new && self.has_room()))) || self.due_may_go()
    }

    /// Hands over a slice of rows: those that go again first, then new ones in order; then due ones.
    fn hand_over(&mut self) -> Result<(), TermEnd> {
        if !self.term.trust.holds() {
            return Err(TermEnd::TrustRanOut);
        }
        for _ in 0..SLICE {
            // Looked at before every row: the next one must not pass a row that has just come back.
            if !self.gate_is_open() {
                break;
            }
            if let Some(&(no, index)) = self.again.front() {
                if self.offer(self.batch_at(no), index) == Offer::NotNow {
                    break;
                }
                self.again.pop_front();
                continue;
            }
            let Some(at) = self.window.len().checked_sub(1) else { break };
            let index = self.window[at].offered;
            if index == self.window[at].rows.len()
                || !self.has_room()
                || self.offer(at, index) == Offer::NotNow
            {
                break;
            }
            let batch = &mut self.window[at];
            let weight = batch.rows[index].weight();
            batch.offered += 1;
            batch.bytes += weight;
            self.rows += 1;
            self.bytes += weight;
            if batch.offered == batch.rows.len() {
                crash_point::reach(crash_point::AFTER_SEND);
            }
        }
        self.hand_over_due()
    }

    /// Offers a row to the main producer, or decides that it does not go.
    fn offer(&mut self, at: usize, index: usize) -> Offer {
        let now_us = now_us() + self.clock_us;
        let row = &self.window[at].rows[index];
        if row.expires_us.is_some_and(|at| at <= now_us) {
            self.window[at].set(index, Fate::Expired);
            return Offer::Done;
        }
        if let Some(ahead_us) = row.deliver_after_us.map(|at| at.saturating_sub(now_us)).filter(|us| *us > 0)
        {
            self.put_off(at, index, Reason::Scheduled, Some(ahead_us / 1000), None, false);
            return Offer::Done;
        }
        if self.keys.blocks(&row.topic, row.key.as_deref()) {
            self.put_off(at, index, Reason::Behind, None, None, false);
            return Offer::Done;
        }
        let topic = self.topics.get(&row.topic);
        let (settings, narrow) = match &topic.standing {
            Standing::Ready(settings) => (*settings, topic.narrow),
            Standing::Sick { refusal, tries, .. } => {
                let (refusal, delay) = (refusal.clone(), self.term.backoff().delay(*tries, rand::random()));
                self.put_off(at, index, Reason::Retry, Some(millis(delay)), Some(refusal), false);
                return Offer::Done;
            }
            Standing::Unknown => {
                self.topics.ask(&row.topic);
                self.main_waits = true;
                return Offer::NotNow;
            }
        };
        let (compressed, batch_size) = (self.publisher.compresses(), self.publisher.batch_size());
        match judge(row, &facts(&settings, narrow, compressed, batch_size)) {
            Fitness::Fit => {}
            Fitness::Suspect => {
                self.put_off(at, index, Reason::Retry, Some(0), Some(put_off::suspect()), false);
                return Offer::Done;
            }
            Fitness::Unfit(text) => {
                self.put_off_unfit(at, index, text);
                return Offer::Done;
            }
        }
        // A row without key has no order, whoever passes it.
        let gates = &mut self.topics.get(&row.topic).gates;
        let partition = match &row.key {
            Some(key) if !gates.are_open() => {
                Some(row.partition.unwrap_or_else(|| partition::of_key(key, settings.partitions)))
            }
            _ => None,
        };
        if partition.is_some_and(|partition| gates.holds(partition)) {
            self.awaits_report = true;
            return Offer::NotNow;
        }
        let tag = Tag { due: false, no: self.window[at].no, index };
        match self.publisher.hand_over(Route::Main, row, &self.term.stamp, now_us, tag.encode()) {
            Ok(()) => {
                if let Some(partition) = partition {
                    gates.handed_over(partition, tag);
                }
                self.outstanding += 1;
                self.window[at].set(index, Fate::InFlight);
                Offer::Done
            }
            Err(NotTaken::Full) => {
                self.awaits_report = true;
                Offer::NotNow
            }
            Err(NotTaken::Dead) => {
                self.dead_since.get_or_insert_with(Instant::now);
                Offer::NotNow
            }
            // librdkafka refused this very record, so nobody else is involved.
            Err(NotTaken::Refused(refusal)) => {
                let topic = Arc::clone(&row.topic);
                self.count_refusal(&topic, &refusal);
                match refusal.failure {
                    Failure::Topic(_) => self.put_off_sick(at, index, refusal),
                    _ => self.put_off_unfit(at, index, refusal.text),
                }
                Offer::Done
            }
        }
    }

    fn take_answer(&mut self, answer: Answer) -> Result<(), TermEnd> {
        (self.main_waits, self.due_waits) = (false, false);
        match answer {
            Answer::Ready(settings) => {
                if let Some(limit) = settings.max_message_bytes
                    && self.publisher.lower_batch_size(limit)?
                {
                    tracing::info!(batch_size = limit, "a topic's limit lowers the batch size");
                    self.swap_wanted = true;
                }
            }
            Answer::Sick { topic, refusal, news } => {
                self.term.metrics.kafka_error(KafkaErrorClass::named(refusal.class));
                if news {
                    put_off::say_sick(&topic, &refusal);
                }
            }
            Answer::Unanswered(error) => tracing::warn!(error = %error, "kafka did not answer, asking again"),
        }
        Ok(())
    }

    /// Ten times a second: gauges, questions to repeat, producers that died in silence.
    fn look_around(&mut self) -> Result<(), TermEnd> {
        let metrics = &self.term.metrics;
        metrics.in_flight_messages.set(self.rows as f64);
        metrics.in_flight_bytes.set(self.bytes as f64);
        metrics.blocked_keys.set(self.keys.len() as f64);
        metrics.set_dependency_up(Dependency::Kafka, self.publisher.is_connected());
        for class in self.publisher.inbox().take_errors() {
            metrics.kafka_error(KafkaErrorClass::named(class));
        }
        (self.main_waits, self.due_waits) = (false, false);
        if self.publisher.is_dead() {
            self.dead_since.get_or_insert_with(Instant::now);
        }
        self.revive_second()?;
        Ok(())
    }

    /// What a settlement frees: room in the window, and keys whose last waiting row is through.
    fn leave(&mut self, settled: Settled) {
        self.rows -= settled.rows;
        self.bytes -= settled.bytes;
        for (topic, key) in &settled.departed {
            self.keys.leave(topic, key.as_deref());
        }
        if settled.gone > 0 {
            let waiting = settled.departed.len() as u64;
            let scheduled = settled.gone as u64 - waiting;
            self.deferred.send_modify(|rows| {
                rows.waiting = rows.waiting.saturating_sub(waiting);
                rows.scheduled = rows.scheduled.saturating_sub(scheduled);
            });
        }
    }

    fn front_is_decided(&self) -> bool {
        self.window.front().is_some_and(|batch| batch.open == 0)
    }

    fn due_is_through(&self) -> bool {
        self.due.as_ref().is_some_and(DueBatch::is_through)
    }

    /// The next decided batch; pages leave in the order in which they were read.
    fn take_decided(&mut self) -> Decided {
        if let Some(entering) = self.entering.take() {
            return entering;
        }
        if let Some(due) = self.due.take_if(|due| due.is_through()) {
            self.topics.count_due(&due);
            return due.decided();
        }
        let batch = self.window.pop_front().expect("only called when a batch is decided");
        self.term.metrics.publish_seconds.observe(batch.begun.elapsed().as_secs_f64());
        self.term.metrics.batch_messages.observe(batch.rows.len() as f64);
        self.topics.count_batch(&batch);
        batch.decided()
    }

    fn batch_at(&self, no: u64) -> usize {
        // Due batches take numbers too, so those in the window ascend with gaps.
        self.window.partition_point(|batch| batch.no < no)
    }
}

fn millis(delay: Duration) -> i64 {
    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
