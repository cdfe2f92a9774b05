//! Copies of dead letters: which are sent next, and which topics are left alone for a while because they took none.
//!
//! A page is on its way at a time, and takes an equal share of every topic that is owed some. A topic that failed is looked at
//! again after a pause, so it costs the others a share of a page now and then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::Ends;
use crate::relay::{Beside, Term, Written};
use crate::store::dead_letter;
use crate::store::{Session, StoreError};

/// Copies on their way at a time.
const COPIES: i64 = 100;

/// How long a topic that took no copy is left alone: as long as librdkafka may take to find out that it does not.
const PAUSE: Duration = Duration::from_secs(10);

/// What the loop remembers of copies.
#[derive(Default)]
pub(super) struct Copies {
    on_their_way: Option<OnTheirWay>,
    /// Topics that took no copy, and until when they are left alone.
    sick: HashMap<Arc<str>, Instant>,
}

struct OnTheirWay {
    failed: oneshot::Receiver<HashSet<Arc<str>>>,
    settled: oneshot::Receiver<Written>,
}

impl Copies {
    /// Sends the next page, if the last one is settled. What is on its way is not asked for again.
    pub async fn go_on(
        &mut self,
        term: &Term,
        session: &mut Session,
        owed: bool,
        ends: &Ends,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        if let Some(mut page) = self.on_their_way.take() {
            if matches!(page.settled.try_recv(), Err(TryRecvError::Empty)) {
                self.on_their_way = Some(page);
                return Ok(());
            }
            let failed = page.failed.try_recv().unwrap_or_default();
            self.sick.extend(failed.into_iter().map(|topic| (topic, now + PAUSE)));
        }
        self.sick.retain(|_, until| *until > now);
        if !owed {
            return Ok(());
        }
        let max_row_bytes = i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX);
        let except: Vec<&str> = self.sick.keys().map(|topic| &**topic).collect();
        let rows = dead_letter::owed_copies(session, COPIES, max_row_bytes, &except).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let (failed, has_failed) = oneshot::channel();
        let (settled, is_settled) = oneshot::channel();
        let sent = ends.beside.send(Beside::Copies { rows, failed, settled }).await;
        self.on_their_way = sent.is_ok().then_some(OnTheirWay { failed: has_failed, settled: is_settled });
        Ok(())
    }
}
