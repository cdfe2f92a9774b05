//! The consumer of the demo: reads the whole topic in a thread and keeps what the audit needs of every record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::audit::Seen;
use super::tally::Tally;
use crate::kafka::{Consumer, KafkaError, Record};

/// How long one look at the topic takes at most.
const LOOK: Duration = Duration::from_millis(50);
/// How long the rest of the topic may take once nobody writes to it any more.
const REST: Duration = Duration::from_secs(20);

/// The consumer, at work. Dropping it ends the thread with its next look.
#[derive(Debug)]
pub struct Reader {
    finish: mpsc::Sender<()>,
    thread: JoinHandle<Result<Vec<Seen>, KafkaError>>,
}

/// What the audit reads of a payload.
#[derive(Deserialize)]
struct Placed {
    version: i64,
}

impl Reader {
    /// Reads on from the consumer's place, counting in `tally`.
    pub fn start(consumer: Consumer, tally: Arc<Tally>) -> std::io::Result<Reader> {
        let (finish, finished) = mpsc::channel();
        let read = move || read(consumer, &tally, &finished);
        let thread = thread::Builder::new().name("demo-reader".into()).spawn(read)?;
        Ok(Reader { finish, thread })
    }

    /// Whether the thread has ended although nobody asked it to; [`Reader::finish`] says why.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Reads to the present end of every partition and returns all records. Blocks.
    pub fn finish(self) -> anyhow::Result<Vec<Seen>> {
        // A thread that has failed hears nothing; its answer is there.
        self.finish.send(()).ok();
        let read = self.thread.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))?;
        Ok(read?)
    }
}

fn read(
    mut consumer: Consumer,
    tally: &Tally,
    finished: &mpsc::Receiver<()>,
) -> Result<Vec<Seen>, KafkaError> {
    let mut seen = Vec::new();
    let mut rest: Option<(BTreeMap<i32, i64>, Instant)> = None;
    loop {
        match finished.try_recv() {
            Ok(()) => rest = Some((consumer.ends()?, Instant::now() + REST)),
            Err(mpsc::TryRecvError::Disconnected) if rest.is_none() => return Ok(seen),
            Err(_) => {}
        }
        if let Some((ends, deadline)) = &rest {
            if consumer.has_reached(ends) {
                return Ok(seen);
            }
            if Instant::now() >= *deadline {
                let text = format!("not read to its end within {} s", REST.as_secs());
                return Err(KafkaError { what: "read the topic", text, class: "unreachable" });
            }
        }
        if let Some(record) = consumer.next(LOOK)? {
            tally.arrived(record.event_id);
            seen.push(note(record));
        }
    }
}

fn note(record: Record) -> Seen {
    let placed = record.payload.as_deref().map(serde_json::from_slice::<Placed>);
    Seen {
        partition: record.partition,
        offset: record.offset,
        event_id: record.event_id,
        customer: String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned(),
        version: placed.and_then(Result::ok).map(|placed| placed.version),
    }
}
