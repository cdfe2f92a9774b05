//! What relays hold while they live: memory and open files, looked at once in a second.
//!
//! Whoever leaks grows for as long as it lives. So a long life is cut into thirds, and the typical second of the last third is
//! compared with that of the first one: all relays together, because the leader holds more than the others, and they change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_secs(1);
/// More than a window of rows, the pages behind it and the allocator's free lists differ by from one time to another: the window is
/// some megabytes. Less than what a relay would have gathered that kept 200 bytes, a small row, of each of the 360,000 rows that
/// pass in twenty minutes.
const MEMORY_BOUND: u64 = 24 << 20;
/// Connections with three brokers come and go with faults, for each of three producers: so many at most are open in one second
/// and not in another. A producer that is never closed keeps as many each time that it is replaced.
const FILES_BOUND: u64 = 24;
/// Seconds in each third, at least, so that one fault is not a whole third.
const LEAST: usize = 20;

/// What a process held in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    bytes: u64,
    files: u64,
}

/// A look at all of them.
struct Look {
    at: f64,
    held: BTreeMap<u32, Held>,
}

#[derive(Default)]
struct Seen {
    relays: Vec<u32>,
    looks: Vec<Look>,
}

/// Looks until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    looking: JoinHandle<()>,
}

impl Watch {
    pub fn start() -> Watch {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, began) = (Arc::clone(&seen), Instant::now());
        let looking = tokio::spawn(async move {
            let mut turns = tokio::time::interval(EVERY);
            loop {
                turns.tick().await;
                let mut seen = lock(&shared);
                let held = seen.relays.iter().filter_map(|pid| Some((*pid, held(*pid)?))).collect();
                seen.looks.push(Look { at: began.elapsed().as_secs_f64(), held });
            }
        });
        Watch { seen, looking }
    }

    /// Looks at this process as well.
    pub fn add(&self, pid: u32) {
        lock(&self.seen).relays.push(pid);
    }

    /// What was seen before now is not compared.
    pub fn begin(&self) {
        lock(&self.seen).looks.clear();
    }

    /// What was seen; `compare`: whether it must not have grown.
    pub fn end(&self, compare: bool) -> Growth {
        let seen = lock(&self.seen);
        let each: Vec<Value> = seen.relays.iter().map(|pid| life(&seen.looks, *pid)).collect();
        let mut growth = Growth { json: json!({ "relays": each }), ..Growth::default() };
        if compare {
            growth.compare(&seen.looks, seen.relays.len());
        }
        growth
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// What was seen, and whether it grew.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// For the report: of each relay, and all together over time.
    pub json: Value,
    /// For people.
    pub words: Option<String>,
    /// What grew beyond its bound.
    pub broken: Vec<String>,
}

impl Growth {
    fn compare(&mut self, looks: &[Look], relays: usize) {
        // A relay that is missing is a scenario's mistake: the sums would not be of the same.
        let whole: Vec<(f64, Held)> = looks
            .iter()
            .filter(|look| look.held.len() == relays)
            .map(|look| (look.at, sum(look.held.values())))
            .collect();
        let third = whole.len() / 3;
        if third < LEAST {
            self.broken.push(format!(
                "relays were looked at for {} s only, too short to see them grow",
                whole.len()
            ));
            return;
        }
        let of =
            |part: &[(f64, Held)], what: fn(&Held) -> u64| median(part.iter().map(|(_, held)| what(held)));
        let (first, last) = (&whole[..third], &whole[whole.len() - third..]);
        let mut words = Vec::new();
        for (name, key, what, bound, unit) in [
            ("MiB", "bytes", (|held| held.bytes) as fn(&Held) -> u64, MEMORY_BOUND, 1 << 20),
            ("open files", "files", |held| held.files, FILES_BOUND, 1),
        ] {
            let (before, after) = (of(first, what), of(last, what));
            let most = whole.iter().map(|(_, held)| what(held)).max().unwrap_or_default();
            let said = format!(
                "{name} of all relays: {} in the first third, {} in the last, {} at most",
                before / unit,
                after / unit,
                most / unit
            );
            if after > before + bound {
                self.broken.push(format!("{said}: grew by more than {}", bound / unit));
            }
            words.push(said);
            self.json[key] = json!({ "first": before, "last": after, "max": most, "bound_of_growth": bound });
        }
        let thinned = whole.iter().step_by((whole.len() / 120).max(1));
        let over_time: Vec<Value> =
            thinned.map(|(at, held)| json!([at.round(), held.bytes, held.files])).collect();
        self.json["seconds_bytes_files"] = json!(over_time);
        self.words = Some(words.join("; "));
    }
}

fn life(looks: &[Look], pid: u32) -> Value {
    let of = |what: fn(&Held) -> u64| {
        let values: Vec<u64> = looks.iter().filter_map(|look| look.held.get(&pid)).map(what).collect();
        json!({ "first": values.first(), "last": values.last(), "max": values.iter().max() })
    };
    json!({ "bytes": of(|held| held.bytes), "files": of(|held| held.files) })
}

fn sum<'a>(all: impl Iterator<Item = &'a Held>) -> Held {
    all.fold(Held { bytes: 0, files: 0 }, |sum, held| Held {
        bytes: sum.bytes + held.bytes,
        files: sum.files + held.files,
    })
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// None: the process has ended.
fn held(pid: u32) -> Option<Held> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    Some(Held { bytes: kilobytes << 10, files })
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
