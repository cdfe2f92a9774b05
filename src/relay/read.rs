//! Read: page after page from `outbox.message`, each in one snapshot.
//!
//! Owns the reading position in memory and the pace of polling. It moves on without waiting for anybody: the position
//! that counts is the one in the ledger, and a new leader starts there.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::{DeferredRows, Term, TermEnd};
use crate::crash_point;
use crate::health::Loop;
use crate::metrics::{BacklogState, Operation, StopCause};
use crate::store::Session;
use crate::store::lease::Resume;
use crate::store::poll::{self, Page, PageLimits, Reader};

/// Pause after an error, doubling from the first to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The longest rest after an expensive poll that found nothing.
const REST_MAX: Duration = Duration::from_secs(1);

/// Reads until draining, or until the term is over.
pub(super) async fn read(
    term: Term,
    resume: Resume,
    pages: mpsc::Sender<Page>,
    mut deferred: watch::Receiver<DeferredRows>,
) -> Result<(), TermEnd> {
    let running = term.health.running(Loop::Read);
    let limits = PageLimits {
        rows: term.config.page_rows as i64,
        bytes: term.config.page_bytes as i64,
        max_row_bytes: i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX),
    };
    let mut reader = Reader::default();
    let mut session = None;
    let mut position = resume.position;
    let mut as_of = resume.as_of;
    let mut short = false;
    let mut pause = term.config.poll_min;
    let mut trouble = RECONNECT.0;
    loop {
        running.tick();
        let Some(room) = room(&term, &pages, &mut deferred).await else { return Ok(()) };
        let polled = async {
            let session = connected(&term, &mut session).await?;
            let started = Instant::now();
            let page = reader.poll(session, &position, &limits, term.token, short, &as_of).await?;
            if !page.rows.is_empty() {
                poll::flush_barrier(session, page.unflushed).await?;
            }
            Ok((page, started.elapsed()))
        };
        let (page, took) = match polled.await {
            Ok(polled) => polled,
            Err(error) => {
                session = None;
                term.metrics.database_error(Operation::Poll);
                super::settle::refuse_or_wait(error, "read", &mut trouble, &term).await?;
                continue;
            }
        };
        term.metrics.database_seconds(Operation::Poll, took.as_secs_f64());
        trouble = RECONNECT.0;
        short = !page.more;
        let (more, late) = (page.more, position.late.is_some());
        position = page.next.clone();
        as_of.clone_from(&page.as_of);
        if let Some(last_id) = page.last_id {
            term.metrics.set_backlog(BacklogState::Ready, (last_id - position.high).max(0) as u64);
        }
        if page.rows.is_empty() {
            drop(room);
            // An open bulk load makes every poll walk its invisible rows: polling rests four times as long as it works.
            pause = (pause * 2).min(term.config.poll_max).max((4 * took).min(REST_MAX));
        } else {
            crash_point::reach(if late { crash_point::INSIDE_LATE_PAGING } else { crash_point::AFTER_READ });
            room.send(page);
            pause = term.config.poll_min;
        }
        if !more {
            tokio::select! {
                () = term.drain.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Waits for room for a page and below the cap of deferred rows. `None`: nothing is to be read any more.
/// Once stopped, reading goes on when a tenth of the cap has left: it would stop again for every single row otherwise.
async fn room<'a>(
    term: &Term,
    pages: &'a mpsc::Sender<Page>,
    deferred: &mut watch::Receiver<DeferredRows>,
) -> Option<mpsc::Permit<'a, Page>> {
    let cap = term.retry.deferred_max as u64;
    let mut said = false;
    loop {
        let waiting = deferred.borrow_and_update().waiting;
        let full = waiting >= cap || (said && waiting > cap - cap / 10);
        term.metrics.set_reading_stopped(StopCause::DeferredLimit, full);
        if !full {
            break;
        }
        if !said {
            tracing::error!(
                deferred_max = cap,
                "reading stopped because the cap of deferred rows is reached"
            );
            said = true;
        }
        tokio::select! {
            () = term.drain.cancelled() => return None,
            changed = deferred.changed() => changed.ok()?,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        term.health.tick(Loop::Read);
    }
    if said {
        tracing::info!("reading goes on below the cap of deferred rows");
    }
    loop {
        tokio::select! {
            biased;
            () = term.drain.cancelled() => return None,
            room = pages.reserve() => {
                term.metrics.set_reading_stopped(StopCause::WindowFull, false);
                return room.ok();
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                term.metrics.set_reading_stopped(StopCause::WindowFull, true);
                term.health.tick(Loop::Read);
            }
        }
    }
}

async fn connected<'a>(
    term: &Term,
    session: &'a mut Option<Session>,
) -> Result<&'a mut Session, crate::store::StoreError> {
    if session.is_none() {
        *session = Some(term.server.connect("read").await?);
    }
    Ok(session.as_mut().expect("it was opened above"))
}
