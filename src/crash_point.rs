//! Named places at which tests break the process, or a part of it. Nothing of this is in a release build.
//!
//! - `OUTBOX_RELAY_CRASH_AT=<name>` ends the process with SIGKILL the first time it gets there; `<name>:<n>` the n-th time.
//! - `OUTBOX_RELAY_PANIC_AT=<task>` makes a task panic, `OUTBOX_RELAY_END_AT=<task>` makes it end, `OUTBOX_RELAY_HANG_AT=<task>`
//!   makes it stand still.
//! - `OUTBOX_RELAY_MINUTE=<seconds>` is how long a minute of the probes takes.
//! - `OUTBOX_RELAY_FATAL_AT=<producer>:<n>:<times>` gives a producer a fatal error with every n-th record, so many times.
//! - `OUTBOX_RELAY_BUG=<name>` breaks a promise all the time.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A page has been read, nothing of it was handed over.
pub const AFTER_READ: &str = "after_read";
/// Rows have been handed to librdkafka.
pub const AFTER_SEND: &str = "after_send";
/// Rows have been confirmed, nothing was settled.
pub const AFTER_CONFIRM: &str = "after_confirm";
/// A settlement is on its way to Postgres.
pub const INSIDE_SETTLEMENT: &str = "inside_settlement";
/// A settlement has been written.
pub const AFTER_SETTLEMENT: &str = "after_settlement";
/// A page out of a large set of late rows has been read.
pub const INSIDE_LATE_PAGING: &str = "inside_late_paging";

/// A page of dead letters has been moved by a settlement, which told its request as well; the loop has not heard of it.
pub const AFTER_REQUEUE: &str = "after_requeue";

/// A page of dead letters has been chosen, none of them has moved.
pub const BEFORE_REQUEUE: &str = "before_requeue";

/// All of them; first those of a batch's way, in its order.
pub const ALL: [&str; 8] = [
    AFTER_READ,
    INSIDE_LATE_PAGING,
    AFTER_SEND,
    AFTER_CONFIRM,
    INSIDE_SETTLEMENT,
    AFTER_SETTLEMENT,
    BEFORE_REQUEUE,
    AFTER_REQUEUE,
];

/// Tasks, threads and callbacks that tests make panic, the first time that they work.
pub const TASKS: [&str; 22] = [
    "read",
    "send",
    "settle",
    "retry",
    "requests",
    "reconcile",
    "clean",
    "heartbeat",
    "beat",
    "follow",
    "sample",
    "vitals",
    "export",
    "signal",
    "http",
    "describe",
    "ask kafka",
    "learn",
    "poll",
    "delivery",
    "statistics",
    "error",
];

/// Those of them that go on for ever unless they are asked to stop; tests make them end.
pub const ENDLESS: [&str; 13] = [
    "read",
    "send",
    "settle",
    "retry",
    "requests",
    "reconcile",
    "clean",
    "heartbeat",
    "sample",
    "vitals",
    "export",
    "http",
    "poll",
];

/// What a variable arms.
type Armed = LazyLock<Option<String>>;

/// This task is working.
#[inline]
pub fn work(task: &str) {
    static PANIC: Armed = LazyLock::new(|| std::env::var("OUTBOX_RELAY_PANIC_AT").ok());
    static HANG: Armed = LazyLock::new(|| std::env::var("OUTBOX_RELAY_HANG_AT").ok());
    if is_armed(&PANIC, task) {
        panic!("the test makes {task} panic");
    }
    while is_armed(&HANG, task) {
        std::thread::park();
    }
}

/// How long this takes; less where a test shortens the minute.
pub fn shortened(minute: Duration) -> Duration {
    let armed = cfg!(debug_assertions).then(|| std::env::var("OUTBOX_RELAY_MINUTE").ok()).flatten();
    armed.and_then(|seconds| seconds.parse().ok()).map_or(minute, Duration::from_secs)
}

/// This task is to end although nobody has asked it to.
#[inline]
pub fn ends(task: &str) -> bool {
    static END: Armed = LazyLock::new(|| std::env::var("OUTBOX_RELAY_END_AT").ok());
    is_armed(&END, task)
}

/// This producer has been given a record, and is to have a fatal error now.
#[inline]
pub fn is_fatal(producer: &str) -> bool {
    static FATAL: LazyLock<Option<(String, u32, u32)>> = LazyLock::new(|| {
        let armed = std::env::var("OUTBOX_RELAY_FATAL_AT").ok()?;
        let mut parts = armed.split(':');
        Some((parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    static RECORDS: AtomicU32 = AtomicU32::new(0);
    match cfg!(debug_assertions).then(|| FATAL.as_ref()).flatten() {
        Some((armed, every, times)) if armed == producer => {
            let record = RECORDS.fetch_add(1, Ordering::Relaxed) + 1;
            record.is_multiple_of(*every) && record / every <= *times
        }
        _ => false,
    }
}

fn is_armed(armed: &Armed, task: &str) -> bool {
    cfg!(debug_assertions) && armed.as_deref() == Some(task)
}

/// Promises that a test breaks on purpose, with `OUTBOX_RELAY_BUG=<name>`, to see that the checker of histories rejects them.
/// `scripts/bite.sh` names a scenario of the fault harness for each.
pub const BUGS: [&str; 10] = [
    "marks_before_confirm",
    "no_fencing",
    "drops_last_row",
    "ignores_key_order",
    "unblocks_early",
    "swallows_error",
    "takes_timeout_for_success",
    "forgets_late_rows",
    "keeps_memory_behind_pooler",
    "trims_unaccounted",
];

/// Whether this relay has this bug.
#[inline]
pub fn bug(name: &str) -> bool {
    static SEEDED: Armed = LazyLock::new(|| std::env::var("OUTBOX_RELAY_BUG").ok());
    debug_assert!(BUGS.contains(&name), "{name} is listed");
    is_armed(&SEEDED, name)
}

/// The process has got to this place.
#[inline]
pub fn reach(name: &str) {
    if due(name) {
        crash();
    }
}

/// Whether the process is to end here, for places that need a preparation.
#[cfg(debug_assertions)]
pub fn due(name: &str) -> bool {
    static ARMED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let armed = std::env::var("OUTBOX_RELAY_CRASH_AT").ok()?;
        match armed.split_once(':') {
            Some((name, times)) => Some((name.to_owned(), times.parse().ok()?)),
            None => Some((armed, 1)),
        }
    });
    static REACHED: AtomicU32 = AtomicU32::new(0);
    match &*ARMED {
        Some((armed, times)) if armed == name => REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *times,
        _ => false,
    }
}

/// Never, in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn due(_: &str) -> bool {
    false
}

/// SIGKILL, like the real thing: no destructor runs, no buffer is flushed.
pub fn crash() {
    let _ = std::process::Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
    loop {
        std::thread::park();
    }
}
