//! Requests about dead letters: one page of them on its way at a time.
//!
//! Owns which request has a page on its way, and when the next page of one with a pace may go. A page is not waited for: in an
//! outage it may take as long as that lasts, and meanwhile other requests have to come into effect, its own cancellation first.
//!
//! The settlement of a page carries the progress of its request, so neither a crash nor anything else comes between the two.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Ends;
use crate::crash_point;
use crate::metrics::{Outcome, RedeliveryCause};
use crate::relay::{Decided, Entrance, Entrant, Origin, Term, Written};
use crate::store::request::{self, Kind, Letter, Progress, Request};
use crate::store::settle::RequestPage;
use crate::store::{Session, StoreError};

/// Dead letters of one page.
const PAGE: i64 = 500;

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
}

impl Letters {
    /// Begins the next page, if there is one and none is on its way. Returns whether there may be more at once.
    pub async fn go_on(
        &mut self,
        term: &Term,
        session: &mut Session,
        open: &[Request],
        ends: &Ends,
    ) -> Result<bool, StoreError> {
        let is_open = |id: i64| open.iter().any(|request| request.id == id);
        self.paced.retain(|id, _| is_open(*id));
        if let Some(page) = &self.page {
            if !is_open(page.request.id) {
                page.withdrawn.cancel();
            }
            return Ok(false);
        }
        let next = open.iter().find(|request| {
            let is_letters = matches!(request.kind, Some(Kind::Requeue | Kind::Discard));
            is_letters && self.paced.get(&request.id).is_none_or(|at| *at <= Instant::now())
        });
        let Some(request) = next else { return Ok(false) };
        let left =
            request.filter.get("max").and_then(Value::as_i64).map_or(i64::MAX, |max| max - request.done);
        let rows = PAGE.min(request.pace.map_or(PAGE, i64::from)).min(left).max(0);
        // Copies that have no room would stop reading for all.
        let waiting = ends.deferred.borrow().waiting + rows as u64;
        if request.kind == Some(Kind::Requeue) && waiting > term.retry.deferred_max as u64 / 10 * 9 {
            return Ok(false);
        }
        let letters = match request::letters(session, &request.filter, request.last_id, rows).await {
            // The filter is not what Postgres can read, such as a key that is no base64.
            Err(StoreError::Failed { source, .. }) => {
                let error = source.to_string();
                request::report(session, term.epoch, request.id, Progress::Refused, Some(&error)).await?;
                return Ok(true);
            }
            letters => letters?,
        };
        let Some((last_id, ..)) = letters.last() else {
            request::report(session, term.epoch, request.id, Progress::Done, None).await?;
            tracing::info!(request = request.id, kind = ?request.kind, done = request.done, "request is done");
            return Ok(true);
        };
        let progress = RequestPage { request: request.id, last_id: *last_id };
        let withdrawn = CancellationToken::new();
        let settled: Pin<Box<dyn Future<Output = _> + Send>> = match request.kind {
            Some(Kind::Requeue) => Box::pin(requeue(&letters, progress, withdrawn.clone(), ends)),
            _ => Box::pin(discard(&letters, progress, ends)),
        };
        self.page = Some(Page { request: request.clone(), letters, withdrawn, settled });
        Ok(false)
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
                Some(Kind::Requeue) => topic.redeliveries(RedeliveryCause::Requeue, rows),
                _ => topic.messages(Outcome::Discarded, rows),
            }
        }
        if let Some(pace) = request.pace {
            let wait = Duration::from_secs_f64(letters.len() as f64 / f64::from(pace));
            self.paced.insert(request.id, Instant::now() + wait);
        }
    }
}

fn requeue(
    letters: &[Letter],
    progress: RequestPage,
    withdrawn: CancellationToken,
    ends: &Ends,
) -> impl Future<Output = Option<Written>> + Send + use<> {
    let (settled, is_settled) = oneshot::channel();
    let entrant = |(id, topic, key): &Letter| Entrant { id: *id, topic: Arc::clone(topic), key: key.clone() };
    let rows = letters.iter().map(entrant).collect();
    let entrance = Entrance { rows, origin: Origin::Requeued, request: Some(progress), withdrawn, settled };
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
