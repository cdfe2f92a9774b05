//! Dead letters on their way: pages of a requeue or a discard, and copies for the topics that get them.
//!
//! Owns the order of a page's steps. It is **noted** in the request (how many letters, up to which id), then moved by **one
//! settlement**, then **reported** as done. Whoever finds a noted page that was not reported looks whether its letters are still
//! open: a settlement moves all of a page or nothing. So after a crash nothing is moved twice, and `max` holds.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{EVERY, Ends};
use crate::crash_point;
use crate::metrics::{Metrics, Outcome, RedeliveryCause};
use crate::relay::{Beside, Decided, Entrance, Entrant, Origin, Term};
use crate::store::request::{self, Kind, Letter, LetterPage, Progress, Report, Request};
use crate::store::{Session, StoreError, dead_letter};

/// Dead letters of one page.
const PAGE: i64 = 500;

/// Dead letters looked at for one page, whether they fit or not.
const LOOKS: i64 = 20 * PAGE;

/// Copies on their way at a time.
const COPIES: i64 = 100;

/// Something that is on its way through the sender or the settlements. It is told what became of it: `None`, nothing will.
type OnItsWay = Pin<Box<dyn Future<Output = Option<usize>> + Send>>;

/// A page whose settlement is on its way, or has been written and not been reported.
struct Page {
    request: i64,
    /// What there is to say once it is settled.
    report: Report,
}

/// What is on its way, and what may go when.
pub(super) struct Work {
    on_its_way: Option<(Page, OnItsWay)>,
    settled: Option<Page>,
    /// When the next page of a request with a pace may go.
    paced: HashMap<i64, Instant>,
    copies: Option<(bool, OnItsWay)>,
    /// Letters up to this one have been looked at for copies; the next look goes on behind it.
    copied_to: i64,
    copies_at: Instant,
    /// There is more to do than the last round did.
    more: bool,
}

impl Default for Work {
    fn default() -> Work {
        Work {
            on_its_way: None,
            settled: None,
            paced: HashMap::new(),
            copies: None,
            copied_to: 0,
            copies_at: Instant::now(),
            more: false,
        }
    }
}

impl Work {
    /// How long nothing needs to be done.
    pub fn rest(&self) -> Duration {
        if self.more {
            return Duration::ZERO;
        }
        let next = self.paced.values().min().filter(|_| self.on_its_way.is_none());
        next.map_or(EVERY, |at| at.saturating_duration_since(Instant::now()).min(EVERY))
    }

    /// Waits until something that is on its way has come to its end. May be given up and called again.
    pub async fn come_back(&mut self) {
        tokio::select! {
            settled = arrival(&mut self.on_its_way) => {
                let (page, _) = self.on_its_way.take().expect("it has just arrived");
                // Otherwise the lease is over, and the next leader goes on.
                self.settled = settled.is_some().then_some(page);
            }
            copied = arrival(&mut self.copies) => {
                let (were_all, _) = self.copies.take().expect("they have just arrived");
                let rest = if were_all || copied.unwrap_or(0) == 0 { EVERY } else { Duration::ZERO };
                self.copies_at = Instant::now() + rest;
            }
        }
    }

    /// Waits for the page that is on its way, if there is one.
    pub async fn finish(&mut self) {
        while self.on_its_way.is_some() {
            self.come_back().await;
        }
    }

    /// Reports the page that has been settled. Harmless to repeat.
    pub async fn report(&mut self, term: &Term, session: &mut Session) -> Result<(), StoreError> {
        if let Some(page) = &self.settled {
            request::report(session, term.epoch, page.request, &page.report).await?;
            self.settled = None;
        }
        Ok(())
    }

    /// Sends the next page on its way, and the next copies.
    pub async fn go_on(
        &mut self,
        term: &Term,
        session: &mut Session,
        open: &[Request],
        ends: &Ends,
    ) -> Result<(), StoreError> {
        self.more = false;
        self.copy(term, session, ends).await?;
        if self.on_its_way.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        self.paced.retain(|id, _| open.iter().any(|request| request.id == *id));
        // Copies that have no room would stop reading for all.
        let room =
            (term.retry.deferred_max as i64 / 10 * 9).saturating_sub(ends.deferred.borrow().waiting as i64);
        let may_go = |request: &&Request| {
            let has_room = match request.kind {
                Some(Kind::Requeue) => room > 0,
                Some(Kind::Discard) => true,
                _ => false,
            };
            has_room && self.paced.get(&request.id).is_none_or(|at| *at <= now)
        };
        let Some(request) = open.iter().find(may_go) else { return Ok(()) };
        let most = PAGE.min(request.pace.map_or(PAGE, i64::from));
        let most = if request.kind == Some(Kind::Requeue) { most.min(room) } else { most };
        let Some((page, letters)) = choose(term, session, request, most).await? else {
            self.more = true;
            return Ok(());
        };
        crash_point::reach(crash_point::BEFORE_REQUEUE);
        if let Some(pace) = request.pace {
            let wait = Duration::from_secs_f64(letters.len() as f64 / f64::from(pace));
            self.paced.insert(request.id, now + wait);
        }
        self.on_its_way = Some((page, on_its_way(request, letters, ends, Arc::clone(&term.metrics))));
        Ok(())
    }

    /// Sends copies of dead letters on their way to the topics that get them. One that fails is asked for again in its turn, so
    /// a topic that is missing holds up no other.
    async fn copy(&mut self, term: &Term, session: &mut Session, ends: &Ends) -> Result<(), StoreError> {
        if self.copies.is_some() || self.copies_at > Instant::now() {
            return Ok(());
        }
        let max_row_bytes = i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX);
        let rows = dead_letter::owed_copies(session, self.copied_to, COPIES, max_row_bytes).await?;
        let are_all = (rows.len() as i64) < COPIES;
        self.copied_to = if are_all { 0 } else { rows.last().map_or(0, |row| row.id) };
        if rows.is_empty() {
            return Ok(());
        }
        let beside = ends.beside.clone();
        let copies = async move {
            let (settled, is_settled) = oneshot::channel();
            beside.send(Beside::Copies { rows, settled }).await.ok()?;
            is_settled.await.ok()
        };
        self.copies = Some((are_all, Box::pin(copies)));
        Ok(())
    }
}

async fn arrival<T>(on_its_way: &mut Option<(T, OnItsWay)>) -> Option<usize> {
    match on_its_way {
        Some((_, future)) => future.await,
        None => std::future::pending().await,
    }
}

/// Chooses the next page of a request and notes it. `None`: none of those that were looked at fits, which has been reported.
async fn choose(
    term: &Term,
    session: &mut Session,
    request: &Request,
    most: i64,
) -> Result<Option<(Page, Vec<Letter>)>, StoreError> {
    let mut request = request.clone();
    if request.planned > 0 {
        // A leader before this one has begun with that page. It cannot write any more.
        let found = request::letters(session, &request, request.last_id, request.planned, LOOKS).await?;
        if !found.letters.iter().any(|(id, ..)| *id <= request.planned_id) {
            request.done += request.planned;
            request.last_id = request.planned_id;
        }
    }
    let max = request.filter.get("max").and_then(Value::as_i64);
    let most = max.map_or(most, |max| most.min(max - request.done));
    let found = look(session, &mut request, most).await;
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let Some(text) = error.unreadable() else { return Err(error) };
            let refused = Report { error: Some(text), ..Report::of(&request, Progress::Refused) };
            request::report(session, term.epoch, request.id, &refused).await?;
            return Ok(None);
        }
    };
    let rows = found.letters.len() as i64;
    let is_short = rows < most;
    let Some((planned_id, ..)) = found.letters.last() else {
        let (progress, last_id) = match found.looked_to {
            Some(id) => (Progress::Running, id),
            None => (Progress::Done, request.last_id),
        };
        if progress == Progress::Done {
            tracing::info!(request = request.id, kind = ?request.kind, done = request.done, "request is done");
        }
        let looked = Report { last_id, ..Report::of(&request, progress) };
        request::report(session, term.epoch, request.id, &looked).await?;
        return Ok(None);
    };
    let planned_id = *planned_id;
    let noted = Report { planned: rows, planned_id, ..Report::of(&request, Progress::Running) };
    request::report(session, term.epoch, request.id, &noted).await?;
    let last_id = found.looked_to.filter(|_| is_short).unwrap_or(planned_id);
    let report = Report { done: request.done + rows, last_id, ..Report::of(&request, Progress::Running) };
    Ok(Some((Page { request: request.id, report }, found.letters)))
}

/// Reads the next page. Most requests mean most of the letters of their index; only where none of the first ones fits, many are
/// looked at. `last_id` of the request follows.
async fn look(session: &mut Session, request: &mut Request, most: i64) -> Result<LetterPage, StoreError> {
    if most <= 0 {
        return Ok(LetterPage::default());
    }
    let found = request::letters(session, request, request.last_id, most, 2 * most).await?;
    match found.looked_to {
        Some(id) if found.letters.is_empty() => {
            request.last_id = id;
            request::letters(session, request, id, most, LOOKS).await
        }
        _ => Ok(found),
    }
}

/// The way of a page: through the ordered pipeline, or straight to the settlements. Counts it when it is settled.
fn on_its_way(request: &Request, letters: Vec<Letter>, ends: &Ends, metrics: Arc<Metrics>) -> OnItsWay {
    let is_requeue = request.kind == Some(Kind::Requeue);
    let (entrances, decided) = (ends.entrances.clone(), ends.decided.clone());
    Box::pin(async move {
        let moved =
            if is_requeue { requeue(&letters, entrances).await } else { discard(&letters, decided).await };
        moved?;
        crash_point::reach(crash_point::AFTER_REQUEUE);
        for run in letters.chunk_by(|a, b| Arc::ptr_eq(&a.1, &b.1)) {
            let (topic, rows) = (metrics.topic(&run[0].1), run.len() as u64);
            if is_requeue {
                topic.redeliveries(RedeliveryCause::Requeue, rows);
            } else {
                topic.messages(Outcome::Discarded, rows);
            }
        }
        Some(letters.len())
    })
}

async fn requeue(letters: &[Letter], entrances: mpsc::Sender<Entrance>) -> Option<usize> {
    let (settled, is_settled) = oneshot::channel();
    let entrant = |(id, topic, key): &Letter| Entrant { id: *id, topic: Arc::clone(topic), key: key.clone() };
    let rows = letters.iter().map(entrant).collect();
    entrances.send(Entrance { rows, origin: Origin::Requeued, settled }).await.ok()?;
    is_settled.await.ok()
}

async fn discard(letters: &[Letter], decided: mpsc::Sender<Decided>) -> Option<usize> {
    let (settled, is_settled) = oneshot::channel();
    let mut given_up = Decided { settled: Some(settled), ..Decided::default() };
    given_up.outcome.rare.discarded = letters.iter().map(|(id, ..)| *id).collect();
    decided.send(given_up).await.ok()?;
    is_settled.await.ok()
}
