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

mod behind;
mod circuit;
mod copies;
mod decided;
mod due;
mod enter;
mod lanes;
mod offer;
mod once;
mod put_off;
mod reports;
mod traced;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

use self::circuit::Circuit;
use self::copies::Copies;
use self::once::Once;
use self::reports::{Pace, Returned};
use super::batch::{Batch, DueBatch};
use super::lanes::{Flood, Lane, LanePage, MainPage, Order};
use super::pace::Rates;
use super::remarks::Remarks;
use super::requests::{Controls, Way};
use super::topics::{Answer, KnownTopics};
use super::{Beside, Decided, DeferredRows, Inheritance, Settled, Term, TermEnd};
use crate::crash_point;
use crate::health::Loop;
use crate::kafka::{Publisher, Report, Topics};
use crate::metrics::{Dependency, KafkaErrorClass};
use crate::ordering::BlockedKeys;

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
    /// The main producer is to be replaced at once, whatever it still holds.
    give_up_main: bool,
    /// The main producer has to give way to one with smaller batches, once its last report is in.
    swap_wanted: bool,
    due: Option<DueBatch>,
    /// Due rows came back from the main producer; and some of them are innocents of its end.
    together_returned: bool,
    together_innocent: bool,
    /// Decided without a batch, and not yet on its way to the settlement.
    extra: VecDeque<Decided>,
    /// Lanes by their number; a closed one leaves a gap.
    lanes: Vec<Option<Lane>>,
    orders: mpsc::Sender<Order>,
    /// Rows that main has skipped and no lane has read, as far as is known.
    laned: i64,
    once: Once,
    flood: Flood,
    copies: Option<Copies>,
    circuit: Circuit,
    rates: Rates,
    /// Deferred rows that operators want out of the way, by id.
    heads: HashMap<i64, Way>,
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
    /// When this lease was taken, about.
    taken_at: Instant,
    /// Rows still to be read that the leader before us may have sent; counted only for traces.
    repeats: usize,
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

/// What the sender reads from.
pub(super) struct Inputs {
    pub pages: mpsc::Receiver<MainPage>,
    pub lane_pages: mpsc::Receiver<LanePage>,
    pub beside: mpsc::Receiver<Beside>,
    pub settled: mpsc::Receiver<Settled>,
    pub controls: watch::Receiver<Controls>,
}

impl<'a> Sender<'a> {
    pub fn new(
        term: Term,
        publisher: &'a mut Publisher,
        topics: Topics,
        inheritance: &Inheritance,
        orders: mpsc::Sender<Order>,
        deferred: watch::Sender<DeferredRows>,
    ) -> Sender<'a> {
        term.metrics.set_rate_limit(term.config.rate);
        let mut keys = BlockedKeys::default();
        inheritance.waiting.iter().for_each(|(topic, key, rows)| keys.wait(topic, Some(key), *rows));
        let mut sender = Sender {
            topics: KnownTopics::new(topics, Arc::clone(&term.metrics), term.policies.clone()),
            circuit: Circuit::new(term.stall_after),
            rates: Rates::new(term.config.rate),
            heads: HashMap::new(),
            taken_at: Instant::now(),
            repeats: match (&term.traces, &term.trouble) {
                (Some(_), Some(_)) => term.config.window_rows,
                _ => 0,
            },
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
            give_up_main: false,
            swap_wanted: false,
            due: None,
            together_returned: false,
            together_innocent: false,
            extra: VecDeque::new(),
            lanes: Vec::new(),
            orders,
            laned: 0,
            once: Once::default(),
            flood: Flood::default(),
            copies: None,
            main_waits: false,
            due_waits: false,
            awaits_report: false,
            rows: 0,
            bytes: 0,
            deferred,
            clock_us: 0,
            reports: Vec::new(),
            remarks: Remarks::default(),
        };
        sender.take_controls(&inheritance.controls);
        sender.inherit(inheritance);
        sender
    }

    /// Sends until the inputs are closed and everything is decided, or the term is over.
    pub async fn run(mut self, mut from: Inputs, decided: mpsc::Sender<Decided>) -> Result<(), TermEnd> {
        let running = self.term.health.running(Loop::Send);
        let inbox = Arc::clone(self.publisher.inbox());
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        let mut doubts = tokio::time::interval(Duration::from_secs(5));
        let (mut pages_open, mut due_open) = (true, true);
        loop {
            crash_point::work("send");
            self.take_reports();
            self.judge_returned()?;
            self.hand_over()?;
            if !pages_open && !due_open && self.is_idle() {
                return Ok(());
            }
            let is_decided = self.decided_at().is_some() || self.due_is_through() || !self.extra.is_empty();
            let next_lane = self.next_lane_ask();
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    running.tick();
                    self.look_around()?;
                }
                Some(settled) = from.settled.recv() => self.leave(settled),
                room = decided.reserve(), if is_decided => match room {
                    Ok(room) => room.send(self.take_decided()),
                    // The settle loop has ended, with an error of its own.
                    Err(_) => return Ok(()),
                },
                () = inbox.arrived() => {}
                Ok(()) = from.controls.changed() => {
                    let controls = from.controls.borrow_and_update().clone();
                    self.take_controls(&controls);
                    self.drive_lanes();
                }
                answer = self.topics.answered() => self.take_answer(answer)?,
                // Before main's: main may have the topic back in the page after this one.
                Some(page) = from.lane_pages.recv() => self.take_lane_page(page),
                next = from.beside.recv(), if due_open && self.due.is_none() => match next {
                    Some(Beside::Due { rows, settled }) => self.take_due(DueBatch::new(rows, settled)),
                    Some(Beside::Entrance(entrance)) => self.let_in(entrance),
                    Some(Beside::Copies { rows, failed, settled }) => self.take_copies(rows, failed, settled),
                    None => due_open = false,
                },
                () = tokio::task::yield_now(), if self.may_hand_over() => {}
                page = from.pages.recv(), if pages_open && self.wants_page() => match page {
                    Some(page) => self.take_page(page),
                    None => pages_open = false,
                },
                () = sleep_until(self.rates.next()), if self.rates.next().is_some() => {
                    self.rates.refill();
                    self.stop_waiting();
                }
                () = sleep_until(next_lane), if next_lane.is_some() => self.ask_lanes(),
                _ = doubts.tick() => self.topics.ask_again(),
                _ = minute.tick() => {
                    self.topics.close_silent_gates(Instant::now());
                    self.publisher.teach_spares(&self.topics.ready());
                }
            }
        }
    }

    /// Nothing is on its way. A lane's last page may still be with the reader, which ends first.
    fn is_idle(&self) -> bool {
        self.window.is_empty()
            && self.due.is_none()
            && self.extra.is_empty()
            && self.once.is_empty()
            && self.copies.is_none()
    }

    /// Operators have asked for something else.
    fn take_controls(&mut self, controls: &Controls) {
        let rate = controls.rate(self.term.config.rate);
        self.term.metrics.set_rate_limit(rate);
        self.rates.set_all(rate);
        self.topics.take_controls(controls);
        self.heads.clone_from(&controls.heads);
        for (_, topic) in &controls.repaired {
            self.topics.may_have_changed(topic);
        }
        self.stop_waiting();
    }

    fn take_page(&mut self, MainPage { mut page, closed, opened }: MainPage) {
        if crash_point::bug("drops_last_row") && page.rows.len() > 1 {
            page.rows.pop();
        }
        self.clock_us = page.database_us - now_us();
        self.topics.count_read(&page.rows);
        self.laned += page.skipped;
        self.watch_for_floods(&page);
        if page.skipped > 0 {
            self.wake_lanes();
        }
        self.next_no += 1;
        let mut batch = Batch::new(self.next_no, page.rows, page.next);
        batch.opened = opened;
        batch.repeats = self.may_repeat(batch.rows.len());
        let mut lane_of = |topic: String| self.topics.get(&Arc::from(topic)).lane;
        batch.closed = closed.into_iter().filter_map(&mut lane_of).collect();
        self.window.push_back(batch);
    }

    /// Every row that was read has been offered, and the window has room for more.
    fn wants_page(&self) -> bool {
        self.window.len() < BATCHES && self.unoffered(None).is_none()
    }

    /// Where the next row of main or of a lane is that was never offered. Only the last page of a stream has such rows.
    fn unoffered(&self, lane: Option<usize>) -> Option<usize> {
        let last = if self.lanes.is_empty() {
            self.window.len().checked_sub(1)
        } else {
            self.window.iter().rposition(|batch| batch.lane == lane)
        };
        last.filter(|at| self.window[*at].offered < self.window[*at].rows.len())
    }

    /// Whether the next row of a stream may be offered. The oldest batch may be, to its end, when no settlement is on its way that
    /// makes room: rows leave the window with their whole batch, so batches that are offered in part would wait for each other for
    /// ever.
    fn has_room_for(&self, lane: Option<usize>) -> bool {
        let is_oldest = |front: &Batch| front.lane == lane && front.offered < front.rows.len();
        let nothing_settles = || self.rows == self.window.iter().map(|batch| batch.offered).sum::<usize>();
        self.has_room() || (self.window.front().is_some_and(is_oldest) && nothing_settles())
    }

    fn has_room(&self) -> bool {
        let beside = self.due.as_ref().map_or(0, |due| due.in_flight);
        self.rows == 0
            || (self.rows + beside < self.term.config.window_rows
                && self.bytes < self.term.config.window_bytes)
    }

    /// Nothing stands between the next row and the main producer.
    fn gate_is_open(&self) -> bool {
        self.dead_since.is_none()
            && !self.swap_wanted
            && !self.awaits_report
            && !self.circuit.is_open()
            && !self.publisher.is_tripped()
    }

    fn may_hand_over(&self) -> bool {
        let main = || !self.main_waits && self.has_room_for(None) && self.unoffered(None).is_some();
        (self.gate_is_open()
            && !self.rates.is_used_up()
            && (!self.again.is_empty() || main() || self.a_lane_may_go()))
            || self.due_may_go()
    }

    fn take_answer(&mut self, answer: Answer) -> Result<(), TermEnd> {
        self.stop_waiting();
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
                self.lane_for_sick(&topic);
                if self.has_in_flight(&topic) {
                    // Its rows would hold up its lane, and the others' settlements.
                    self.give_up_main = true;
                }
            }
            Answer::Electing => {}
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
        metrics.circuit_open.set(f64::from(u8::from(self.circuit.is_open())));
        metrics.set_dependency_up(Dependency::Kafka, self.publisher.is_connected());
        for class in self.publisher.inbox().take_errors() {
            metrics.kafka_error(KafkaErrorClass::named(class));
        }
        self.stop_waiting();
        if self.publisher.is_dead() {
            self.dead_since.get_or_insert_with(Instant::now);
        }
        self.revive_second()?;
        self.judge_progress();
        self.drive_lanes();
        self.look_after_once();
        Ok(())
    }

    /// Whoever waited for an answer about a topic looks again.
    fn stop_waiting(&mut self) {
        (self.main_waits, self.due_waits) = (false, false);
        self.lanes.iter_mut().flatten().for_each(|lane| lane.waits = false);
    }

    fn wait_for_answer(&mut self, lane: Option<usize>) {
        match lane.and_then(|lane| self.lanes[lane].as_mut()) {
            Some(lane) => lane.waits = true,
            None => self.main_waits = true,
        }
    }

    fn batch_at(&self, no: u64) -> usize {
        // Due batches take numbers too, so those in the window ascend with gaps.
        self.window.partition_point(|batch| batch.no < no)
    }
}

/// Until then; for ever, if there is no then.
async fn sleep_until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}

fn millis(delay: Duration) -> i64 {
    i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
