//! Read: page after page from `outbox.message`, each in one snapshot.
//!
//! Owns the reading positions in memory, main's and those of the lanes, and the pace of polling. It moves on without waiting for
//! anybody: the positions that count are those in the ledger, and a new leader starts there. Main is read as long as there is
//! room; a lane only when the sender asks for its next page.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::lanes::{LanePage, MainPage, Opening, Order};
use super::requests::Controls;
use super::{DeferredRows, Term, TermEnd};
use crate::crash_point;
use crate::health::Loop;
use crate::metrics::{BacklogState, Operation, StopCause};
use crate::position::Position;
use crate::store::lease::{OpenLane, Resume};
use crate::store::poll::{self, From, LateTopic, Page, PageLimits, Reader};
use crate::store::{Session, StoreError};

/// Pause after an error, doubling from the first to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// An empty poll that took so long has walked through rows that nobody may see yet.
const EXPENSIVE: Duration = Duration::from_millis(100);

/// The longest rest after an expensive poll that found nothing.
const REST_MAX: Duration = Duration::from_secs(1);

/// What the loop hands on and hears.
pub(super) struct Ends {
    pub pages: mpsc::Sender<MainPage>,
    pub lane_pages: mpsc::Sender<LanePage>,
    pub orders: mpsc::Receiver<Order>,
    pub deferred: watch::Receiver<DeferredRows>,
    pub controls: watch::Receiver<Controls>,
}

/// Where a stream is read next.
#[derive(Clone)]
struct Place {
    position: Position,
    as_of: String,
}

/// The loop's state.
struct Reading {
    term: Term,
    limits: PageLimits,
    reader: Reader,
    session: Option<Session>,
    main: Place,
    /// Topics that main skips, and where their lanes are.
    lanes: Vec<(String, Place)>,
    /// Names of `lanes`, as the statement takes them.
    skip: Vec<String>,
    /// Lanes that open with the next page of main.
    opening: Vec<Opening>,
    /// Topics that main takes back with its next page.
    closed: Vec<String>,
    /// The large late set that main is paging: its topics, and how many of its rows main has not seen. Empty after a takeover.
    late_set: Vec<LateTopic>,
    late_left: i64,
    /// The last page of main ended short.
    short: bool,
    /// … and was empty.
    idle: bool,
    pause: Duration,
    trouble: Duration,
    /// Reading stands still at the cap of deferred rows, and it has been said.
    capped: bool,
    controls: watch::Receiver<Controls>,
}

/// Reads until draining, or until the term is over.
pub(super) async fn read(
    term: Term,
    resume: Resume,
    lanes: Vec<OpenLane>,
    mut ends: Ends,
) -> Result<(), TermEnd> {
    let running = term.health.running(Loop::Read);
    let drain = term.drain.clone();
    let mut reading = Reading::new(term, resume, lanes, ends.controls.clone());
    let mut next_poll = Instant::now();
    loop {
        running.tick();
        crash_point::work("read");
        let step = tokio::select! {
            biased;
            () = drain.cancelled() => return Ok(()),
            Some(order) = ends.orders.recv() => Step::Order(order),
            // Safe to drop: what it has found out is kept in `reading`. A lane is read while main has no room.
            room = async {
                tokio::time::sleep_until(next_poll.into()).await;
                reading.room(&ends.pages, &mut ends.deferred).await
            } => Step::Main(room),
        };
        match step {
            Step::Order(Order::Open(opening)) => reading.open(opening),
            Step::Order(Order::Read { topic, rows, may_close }) => {
                let page = reading.lane_page(&topic, rows, may_close).await?;
                if ends.lane_pages.send(page).await.is_err() {
                    return Ok(());
                }
            }
            Step::Main(None) => return Ok(()),
            Step::Main(Some(room)) => {
                let (page, pause) = reading.main_page().await?;
                if let Some(page) = page {
                    room.send(page);
                }
                next_poll = Instant::now() + pause;
            }
        }
    }
}

/// What is done next.
enum Step<'a> {
    Order(Order),
    Main(Option<mpsc::Permit<'a, MainPage>>),
}

impl Reading {
    fn new(term: Term, resume: Resume, lanes: Vec<OpenLane>, controls: watch::Receiver<Controls>) -> Reading {
        let limits = PageLimits {
            rows: term.config.page_rows as i64,
            bytes: term.config.page_bytes as i64,
            max_row_bytes: i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX),
        };
        let place =
            |lane: OpenLane| (lane.topic, Place { position: lane.resume.position, as_of: lane.resume.as_of });
        let lanes: Vec<(String, Place)> = lanes.into_iter().map(place).collect();
        let mut main = Place { position: resume.position, as_of: resume.as_of };
        if crash_point::bug("keeps_memory_behind_pooler") {
            main = remembered().take().unwrap_or(main);
        }
        Reading {
            pause: term.config.poll_min,
            term,
            limits,
            reader: Reader::default(),
            session: None,
            main,
            skip: lanes.iter().map(|(topic, _)| topic.clone()).collect(),
            lanes,
            opening: Vec::new(),
            closed: Vec::new(),
            late_set: Vec::new(),
            late_left: 0,
            short: false,
            idle: false,
            trouble: RECONNECT.0,
            capped: false,
            controls,
        }
    }

    /// Rows of a page: no more than may go in a second. A page is settled as a whole, so one of a thousand rows, ten of which go a
    /// second, would look for minutes as if nothing went at all.
    fn page_limits(&self) -> PageLimits {
        let rate = self.controls.borrow().rate(self.term.config.rate);
        let second = rate.map_or(i64::MAX, |rate| i64::from(rate.max(1)));
        PageLimits { rows: self.limits.rows.min(second), ..self.limits }
    }

    /// From the next page on main skips the topic; its lane begins where main stands.
    fn open(&mut self, opening: Opening) {
        if self.skip.iter().any(|topic| **topic == *opening.topic) {
            return;
        }
        self.skip.push(opening.topic.to_string());
        self.opening.push(opening);
        // Main has rows to look at that it has not skipped yet.
        self.short = false;
    }

    /// The next page of main, or nothing, and the pause before the one after it.
    async fn main_page(&mut self) -> Result<(Option<MainPage>, Duration), TermEnd> {
        let limits = self.page_limits();
        // A lane opens where main stands before this page, which leaves its topic out already.
        let here = self.main.clone();
        let passed = self.pass_late_set();
        let (page, took) = loop {
            let from = From {
                position: &self.main.position,
                as_of: &self.main.as_of,
                skip: &self.skip,
                short: self.short,
                idle: self.idle,
            };
            let polled = async {
                let session = connected(&self.term, &mut self.session).await?;
                let started = Instant::now();
                let page = self.reader.poll(session, from, &limits, self.term.token).await?;
                if !page.rows.is_empty() || page.next.late.is_some() {
                    poll::flush_barrier(session, page.unflushed, self.term.token).await?;
                }
                Ok((page, started.elapsed()))
            };
            match polled.await {
                Ok(polled) => break polled,
                Err(error) => self.refuse_or_wait(error).await?,
            }
        };
        let mut page = page;
        page.skipped += passed;
        if crash_point::bug("forgets_late_rows") {
            page.rows.retain(|row| row.id > self.main.position.high);
        }
        self.term.metrics.database_seconds(Operation::Poll, took.as_secs_f64());
        self.trouble = RECONNECT.0;
        (self.short, self.idle) = (!page.more, page.rows.is_empty());
        let late = self.main.position.late.is_some();
        self.follow_late_set(&mut page);
        let opening = std::mem::take(&mut self.opening);
        let opened: Vec<Opening> =
            opening.into_iter().map(|opening| self.begin_lane(opening, here.clone())).collect();
        self.main = Place { position: page.next.clone(), as_of: page.as_of.clone() };
        if crash_point::bug("keeps_memory_behind_pooler") {
            *remembered() = Some(self.main.clone());
        }
        if let Some(behind) = page.behind {
            // Above a page that ends short only rolled back ids and rows of open transactions are left.
            let ready = if page.more { behind.max(0) as u64 } else { 0 };
            self.term.metrics.set_backlog(BacklogState::Ready, ready);
        }
        let more = page.more;
        let mut main_page = None;
        if page.rows.is_empty() {
            self.pause = (self.pause * 2).min(self.term.config.poll_max);
            // An open bulk load makes every poll walk its invisible rows: then polling rests four times as long as it
            // works. A poll that merely waited for a busy machine must not: that would be its latency.
            if took >= EXPENSIVE {
                self.pause = self.pause.max((4 * took).min(REST_MAX));
            }
        } else {
            crash_point::reach(if late { crash_point::INSIDE_LATE_PAGING } else { crash_point::AFTER_READ });
            self.pause = self.term.config.poll_min;
        }
        // An empty page matters where main gets past skipped rows: its position must not stay behind for hours.
        let closed = std::mem::take(&mut self.closed);
        if !page.rows.is_empty() || !opened.is_empty() || !closed.is_empty() || page.skipped > 0 {
            main_page = Some(MainPage { page, closed, opened });
        }
        Ok((main_page, if more { Duration::ZERO } else { self.pause }))
    }

    /// Main need not look through a large late set of which every topic has a lane or gets it now. Returns how many rows it passes.
    fn pass_late_set(&mut self) -> i64 {
        let all_laned = self.late_set.iter().all(|late| self.skip.contains(&late.topic));
        if self.late_set.is_empty() || !all_laned {
            return 0;
        }
        self.late_set.clear();
        self.main.position = self.main.position.after_late_page(self.main.position.high);
        std::mem::take(&mut self.late_left).max(0)
    }

    /// Keeps what is known of a large late set for as long as main is paging it.
    fn follow_late_set(&mut self, page: &mut Page) {
        if !page.late_set.is_empty() {
            self.late_set = std::mem::take(&mut page.late_set);
            self.late_left = self.late_set.iter().map(|late| late.rows).sum();
        } else if page.next.late.is_none() {
            self.late_set.clear();
        } else {
            self.late_left -= page.rows.len() as i64 + page.skipped;
        }
    }

    fn begin_lane(&mut self, opening: Opening, place: Place) -> Opening {
        let opening =
            Opening { position: Some(place.position.clone()), as_of: Some(place.as_of.clone()), ..opening };
        self.lanes.push((opening.topic.to_string(), place));
        opening
    }

    /// The next page of a lane. If it ends where main stands and may close, main takes the topic back with its next page.
    async fn lane_page(&mut self, topic: &str, rows: usize, may_close: bool) -> Result<LanePage, TermEnd> {
        let limits = PageLimits { rows: (rows as i64).min(self.limits.rows), ..self.limits };
        let page = loop {
            let Some((_, place)) = self.lanes.iter().find(|(name, _)| name == topic) else {
                return Ok(LanePage { topic: topic.into(), page: None, caught_up: false, closes: false });
            };
            let main = &self.main.position;
            if main.is_behind(&place.position) {
                // Lanes settle without waiting for main, so after a takeover one may be ahead of it. As of main's older snapshot
                // it would forget what it has seen, and take all of that for late rows once main has moved on.
                return Ok(LanePage { topic: topic.into(), page: None, caught_up: false, closes: false });
            }
            let from =
                From { position: &place.position, as_of: &place.as_of, skip: &[], short: false, idle: false };
            let polled = async {
                let session = connected(&self.term, &mut self.session).await?;
                let started = Instant::now();
                let token = self.term.token;
                let page = self.reader.poll_lane(session, topic, from, main, &limits, token).await?;
                if !page.rows.is_empty() || page.next.late.is_some() {
                    poll::flush_barrier(session, page.unflushed, self.term.token).await?;
                }
                self.term.metrics.database_seconds(Operation::Poll, started.elapsed().as_secs_f64());
                Ok(page)
            };
            match polled.await {
                Ok(page) => break page,
                Err(error) => self.refuse_or_wait(error).await?,
            }
        };
        self.trouble = RECONNECT.0;
        let main = &self.main;
        let at = self.lanes.iter().position(|(name, _)| name == topic).expect("it was found above");
        let place = &mut self.lanes[at].1;
        if page.next.high > place.position.high {
            place.as_of.clone_from(&main.as_of);
        }
        place.position = page.next.clone();
        let caught_up = !page.more && place.position == main.position;
        let closes = caught_up && may_close;
        let as_of = place.as_of.clone();
        if closes {
            self.lanes.remove(at);
            self.skip.retain(|name| name != topic);
            self.closed.push(topic.to_owned());
            // Main has rows to look at that it skipped so far.
            self.short = false;
        }
        Ok(LanePage { topic: topic.into(), page: Some(Page { as_of, ..page }), caught_up, closes })
    }

    /// Ends the term if the error says so; otherwise waits a little.
    async fn refuse_or_wait(&mut self, error: StoreError) -> Result<(), TermEnd> {
        self.session = None;
        self.term.metrics.database_error(Operation::Poll);
        super::settle::refuse_or_wait(error, "read", &mut self.trouble, &self.term).await
    }

    /// Waits for room for a page and below the cap of deferred rows. `None`: nothing is to be read any more.
    /// Once stopped, reading goes on when a tenth of the cap has left: it would stop again for every single row otherwise.
    async fn room<'a>(
        &mut self,
        pages: &'a mpsc::Sender<MainPage>,
        deferred: &mut watch::Receiver<DeferredRows>,
    ) -> Option<mpsc::Permit<'a, MainPage>> {
        let (metrics, cap) = (&self.term.metrics, self.term.retry.deferred_max as u64);
        loop {
            let waiting = deferred.borrow_and_update().waiting;
            let full = waiting >= cap || (self.capped && waiting > cap - cap / 10);
            metrics.set_reading_stopped(StopCause::DeferredLimit, full);
            if !full {
                break;
            }
            if !self.capped {
                tracing::error!(
                    deferred_max = cap,
                    "reading stopped because the cap of deferred rows is reached"
                );
                self.capped = true;
            }
            tokio::select! {
                changed = deferred.changed() => changed.ok()?,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            self.term.health.tick(Loop::Read);
        }
        if std::mem::take(&mut self.capped) {
            tracing::info!("reading goes on below the cap of deferred rows");
        }
        loop {
            tokio::select! {
                biased;
                room = pages.reserve() => {
                    metrics.set_reading_stopped(StopCause::WindowFull, false);
                    return room.ok();
                }
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    metrics.set_reading_stopped(StopCause::WindowFull, true);
                    self.term.health.tick(Loop::Read);
                }
            }
        }
    }
}

/// Where main stood in the term before this one: the memory that a relay must not keep.
fn remembered() -> MutexGuard<'static, Option<Place>> {
    static REMEMBERED: Mutex<Option<Place>> = Mutex::new(None);
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connected<'a>(term: &Term, session: &'a mut Option<Session>) -> Result<&'a mut Session, StoreError> {
    if session.is_none() {
        *session = Some(term.server.connect("read").await?);
    }
    Ok(session.as_mut().expect("it was opened above"))
}
