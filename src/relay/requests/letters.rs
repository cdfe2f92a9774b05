//! Requests about dead letters, and about published rows that go out again: one page of them on its way at a time.
//!
//! Owns which request has a page on its way, and when the next page of one with a pace may go. A page is not waited for: in an
//! outage it may take as long as that lasts, and meanwhile other requests have to come into effect, its own cancellation first.
//!
//! The settlement of a page carries the progress of its request, so neither a crash nor anything else comes between the two: `max`
//! holds, and nothing is moved twice. Letters that were looked at and are not meant cost no second look.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::replay::{self, Beginning};
use super::{EVERY, Ends};
use crate::crash_point;
use crate::metrics::{Outcome, RedeliveryCause};
use crate::relay::{Decided, Entrance, Entrant, Origin, Term, Written};
use crate::store::replay::{self as store_replay, Terms};
use crate::store::request::{self, Kind, Letter, LetterPage, Progress, Request};
use crate::store::settle::RequestPage;
use crate::store::{Session, StoreError};

/// Dead letters of one page.
const PAGE: i64 = 500;

/// Dead letters looked at for one page, whether they fit or not.
const LOOKS: i64 = 20 * PAGE;

/// A page that was handed on and has not been settled.
struct Page {
    request: Request,
    letters: Vec<Letter>,
    withdrawn: CancellationToken,
    /// `None`: it was withdrawn, or the term ends.
    settled: Pin<Box<dyn Future<Output = Option<Written>> + Send>>,
}

/// What the loop remembers of requests about dead letters.
#[derive(Default)]
pub(super) struct Letters {
    page: Option<Page>,
    /// When the next page of a request with a pace may go.
    paced: HashMap<i64, Instant>,
    /// There is more to do than the last round did.
    more: bool,
}

impl Letters {
    /// How long nothing needs to be done.
    pub fn rest(&self) -> Duration {
        if self.more {
            return Duration::ZERO;
        }
        let now = Instant::now();
        // One whose time has come and that did not go has no room.
        let next = self.paced.values().filter(|at| **at > now).min();
        next.map_or(EVERY, |at| at.saturating_duration_since(now).min(EVERY))
    }

    /// Begins the next page, if there is one and none is on its way.
    pub async fn go_on(
        &mut self,
        term: &Term,
        session: &mut Session,
        open: &[Request],
        ends: &Ends,
    ) -> Result<(), StoreError> {
        self.more = false;
        let is_open = |id: i64| open.iter().any(|request| request.id == id);
        self.paced.retain(|id, _| is_open(*id));
        if let Some(page) = &self.page {
            if !is_open(page.request.id) {
                page.withdrawn.cancel();
            }
            return Ok(());
        }
        let now = Instant::now();
        // Copies that have no room would stop reading for all.
        let room =
            (term.retry.deferred_max as i64 / 10 * 9).saturating_sub(ends.deferred.borrow().waiting as i64);
        let may_go = |request: &&Request| {
            let has_room = match request.kind {
                Some(Kind::Requeue | Kind::Replay | Kind::Repair) => room > 0,
                Some(Kind::Discard) => true,
                _ => false,
            };
            has_room && self.paced.get(&request.id).is_none_or(|at| *at <= now)
        };
        let Some(request) = open.iter().find(may_go) else { return Ok(()) };
        let most = PAGE.min(request.pace.map_or(PAGE, i64::from));
        let most = if request.kind == Some(Kind::Discard) { most } else { most.min(room) };
        let (letters, last_id) = match choose(term, session, request, most, ends).await? {
            Chosen::Page(letters, last_id) => (letters, last_id),
            Chosen::Nothing => {
                self.more = true;
                return Ok(());
            }
            Chosen::Waits => {
                self.paced.insert(request.id, now + EVERY);
                return Ok(());
            }
        };
        crash_point::reach(crash_point::BEFORE_REQUEUE);
        if let Some(pace) = request.pace {
            let wait = Duration::from_secs_f64(letters.len() as f64 / f64::from(pace));
            self.paced.insert(request.id, now + wait);
        }
        let window_s = term.dedupe_window.as_secs() as i64;
        let progress = RequestPage { request: request.id, last_id, window_s };
        let withdrawn = CancellationToken::new();
        let settled: Pin<Box<dyn Future<Output = _> + Send>> = match request.kind {
            Some(Kind::Discard) => Box::pin(discard(&letters, progress, ends)),
            _ => Box::pin(let_in(&letters, origin(request), progress, withdrawn.clone(), ends)),
        };
        self.page = Some(Page { request: request.clone(), letters, withdrawn, settled });
        Ok(())
    }

    /// Waits for the end of the page on its way; for ever, if there is none. Safe to drop and to call again.
    pub async fn page_ends(&mut self, term: &Term) {
        let Some(page) = &mut self.page else { return std::future::pending().await };
        let written = page.settled.as_mut().await;
        let Page { request, letters, .. } = self.page.take().expect("it has just ended");
        let Some(written) = written else { return };
        crash_point::reach(crash_point::AFTER_REQUEUE);
        let moved: Vec<&Letter> =
            letters.iter().filter(|letter| !written.lacking.contains(&letter.0)).collect();
        for run in moved.chunk_by(|a, b| Arc::ptr_eq(&a.1, &b.1)) {
            let (topic, rows) = (term.metrics.topic(&run[0].1), run.len() as u64);
            match request.kind {
                Some(Kind::Discard) => topic.messages(Outcome::Discarded, rows),
                Some(Kind::Requeue) => topic.redeliveries(RedeliveryCause::Requeue, rows),
                _ => topic.redeliveries(RedeliveryCause::Replay, rows),
            }
        }
    }
}

/// What a look for the next page comes to.
enum Chosen {
    /// Its letters, and up to which id the request is dealt with once they have moved.
    Page(Vec<Letter>, i64),
    /// None of those that were looked at is meant, which has been reported.
    Nothing,
    /// The next one is on its way for an earlier request.
    Waits,
}

/// Chooses the next page of a request.
async fn choose(
    term: &Term,
    session: &mut Session,
    request: &Request,
    most: i64,
    ends: &Ends,
) -> Result<Chosen, StoreError> {
    if replay::is_replay(request) && !request.is_running {
        let (progress, last_id, why) = match replay::begin(session, request, ends).await? {
            Beginning::Behind(id) => (Progress::Running, id, None),
            Beginning::Refused(why) => (Progress::Refused, 0, Some(why)),
        };
        tracing::info!(
            request = request.id,
            kind = request.kind_word(),
            progress = progress.as_str(),
            error = why,
            "request"
        );
        request::report(session, term.epoch, request.id, progress, last_id, why.as_deref()).await?;
        return Ok(Chosen::Nothing);
    }
    let max = request.filter.get("max").and_then(Value::as_i64);
    let most = max.map_or(most, |max| most.min(max - request.done));
    let mut page = match look(term, session, request, most).await {
        Ok(found) => found,
        Err(error) => {
            let Some(text) = error.unreadable() else { return Err(error) };
            tracing::info!(
                request = request.id,
                kind = request.kind_word(),
                error = text,
                "request is refused"
            );
            let (refused, last_id) = (Progress::Refused, request.last_id);
            request::report(session, term.epoch, request.id, refused, last_id, Some(&text)).await?;
            return Ok(Chosen::Nothing);
        }
    };
    // All that was looked at behind the last one is not meant, unless the page is full.
    let is_short = (page.letters.len() as i64) < most;
    let last = match replay::is_replay(request) {
        true => replay::address(&mut page, request, ends),
        false => page.letters.last().map(|(id, ..)| *id),
    };
    let LetterPage { letters, looked_to } = page;
    let dealt_with = last.map(|last| looked_to.filter(|_| is_short).unwrap_or(last));
    if let (Some(last_id), false) = (dealt_with, letters.is_empty()) {
        return Ok(Chosen::Page(letters, last_id));
    }
    if dealt_with.is_none() && looked_to == Some(request.last_id) {
        return Ok(Chosen::Waits);
    }
    let (progress, last_id) = match dealt_with.or(looked_to) {
        Some(id) => (Progress::Running, id),
        None => (Progress::Done, request.last_id),
    };
    request::report(session, term.epoch, request.id, progress, last_id, None).await?;
    if progress == Progress::Done {
        tracing::info!(
            request = request.id,
            kind = request.kind_word(),
            done = request.done,
            "request is done"
        );
    }
    Ok(Chosen::Nothing)
}

/// Reads the next page. Most requests mean most of the letters of their index; only where none of the first ones fits, many are
/// looked at.
async fn look(
    term: &Term,
    session: &mut Session,
    request: &Request,
    most: i64,
) -> Result<LetterPage, StoreError> {
    if most <= 0 {
        return Ok(LetterPage::default());
    }
    let mut read = async |after, looks| match replay::is_replay(request) {
        true => store_replay::page(session, request, term.dedupe_window, after, most, looks).await,
        false => request::letters(session, request, after, most, looks).await,
    };
    let found = read(request.last_id, 2 * most).await?;
    match found.looked_to {
        Some(id) if found.letters.is_empty() => read(id, LOOKS).await,
        _ => Ok(found),
    }
}

fn origin(request: &Request) -> Origin {
    match replay::is_replay(request) {
        true => Origin::Replayed { elsewhere: Terms::of(request).to.is_some() },
        false => Origin::Requeued,
    }
}

fn let_in(
    letters: &[Letter],
    origin: Origin,
    progress: RequestPage,
    withdrawn: CancellationToken,
    ends: &Ends,
) -> impl Future<Output = Option<Written>> + Send + use<> {
    let (settled, is_settled) = oneshot::channel();
    let entrant = |(id, topic, key): &Letter| Entrant { id: *id, topic: Arc::clone(topic), key: key.clone() };
    let rows = letters.iter().map(entrant).collect();
    let entrance = Entrance { rows, origin, request: Some(progress), withdrawn, settled };
    let entrances = ends.entrances.clone();
    async move {
        entrances.send(entrance).await.ok()?;
        is_settled.await.ok()
    }
}

fn discard(
    letters: &[Letter],
    progress: RequestPage,
    ends: &Ends,
) -> impl Future<Output = Option<Written>> + Send + use<> {
    let (settled, is_settled) = oneshot::channel();
    let mut page = Decided { settled: Some(settled), ..Decided::default() };
    page.outcome.rare.discarded = letters.iter().map(|(id, ..)| *id).collect();
    page.outcome.rare.request = Some(progress);
    let decided = ends.decided.clone();
    async move {
        decided.send(page).await.ok()?;
        is_settled.await.ok()
    }
}
