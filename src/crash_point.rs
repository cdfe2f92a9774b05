//! Named places at which the crash tests end the process. Nothing of this is in a release build.
//!
//! `OUTBOX_RELAY_CRASH_AT=<name>` ends the process with SIGKILL the first time it gets there;
//! `OUTBOX_RELAY_CRASH_AT=<name>:<n>` the n-th time.

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

/// Tasks and callbacks that the tests make panic: `OUTBOX_RELAY_PANIC_AT=<name>`, the first time that it works.
pub const TASKS: [&str; 12] = [
    "read",
    "send",
    "settle",
    "retry",
    "requests",
    "clean",
    "beat",
    "follow",
    "sample",
    "http",
    "delivery",
    "statistics",
];

/// This task is working.
#[inline]
pub fn work(task: &str) {
    if panics(task) {
        panic!("the test makes {task} panic");
    }
}

#[cfg(debug_assertions)]
fn panics(task: &str) -> bool {
    use std::sync::LazyLock;
    static ARMED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("OUTBOX_RELAY_PANIC_AT").ok());
    ARMED.as_deref() == Some(task)
}

#[cfg(not(debug_assertions))]
fn panics(_: &str) -> bool {
    false
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
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

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
