//! Heartbeat: a row of the relay's own at a steady pace, for outboxes in which nothing else would show that all is well.
//!
//! Owns the pace. The row is an ordinary committed one: read, sent, settled, counted and removed like any other, so its arrival
//! proves the whole way from Postgres to Kafka. While one of them waits no other is written.

use std::time::{Duration, Instant};

use super::{Term, TermEnd};
use crate::metrics::Operation;
use crate::store::heartbeat;

/// Writes heartbeat rows, if any are wanted, until draining, or until the term is over.
pub(super) async fn heartbeat(term: Term) -> Result<(), TermEnd> {
    let Some(topic) = &term.heartbeat.topic else {
        term.drain.cancelled().await;
        return Ok(());
    };
    let mut session = None;
    let mut trouble = Duration::from_millis(100);
    loop {
        crate::crash_point::work("heartbeat");
        let started = Instant::now();
        let written = async {
            if session.is_none() {
                session = Some(term.server.connect("heartbeat").await?);
            }
            let session = session.as_mut().expect("it was opened above");
            heartbeat::write(session, term.epoch, term.token, topic).await
        };
        let written = tokio::select! {
            // Whether the statement is still carried out does not matter: its row is one more.
            () = term.drain.cancelled() => return Ok(()),
            written = written => written,
        };
        match written {
            Ok(written) => {
                term.metrics.database_seconds(Operation::Heartbeat, started.elapsed().as_secs_f64());
                tracing::debug!(written, "heartbeat");
                trouble = Duration::from_millis(100);
            }
            Err(error) => {
                session = None;
                term.metrics.database_error(Operation::Heartbeat);
                super::settle::refuse_or_wait(error, "heartbeat", &mut trouble, &term).await?;
                continue;
            }
        }
        tokio::select! {
            () = term.drain.cancelled() => return Ok(()),
            () = tokio::time::sleep(term.heartbeat.every) => {}
        }
    }
}
