//! The end of an internal task is the end of the process: a relay of which a part is dead looks alive and does nothing.
//!
//! Owns the last line, the exit code, and the name of the task that is at work. A panic in any task, thread or callback
//! runs one hook, before anything unwinds: in a callback of librdkafka it must not unwind into C, and in a thread of our own
//! nobody would look.

use std::panic::PanicHookInfo;

use tokio_util::sync::CancellationToken;

use crate::crash_point;

/// The exit code: an internal error, as sysexits.h names it. A restart helps, a report as well.
pub const EXIT_CODE: i32 = 70;

tokio::task_local! {
    /// The innermost task at work here.
    static NAME: &'static str;
}

/// Works under this name, for as long as the future is polled.
pub async fn named<T>(task: &'static str, work: impl Future<Output = T>) -> T {
    NAME.scope(task, work).await
}

/// As [`named`], for what blocks: a thread, or a callback on one.
pub fn within<T>(task: &'static str, work: impl FnOnce() -> T) -> T {
    NAME.sync_scope(task, work)
}

/// As [`named`], for a task that goes on until it fails or is asked to `stop`. Should it merely end, the process ends.
pub async fn endless<E>(
    task: &'static str,
    stop: CancellationToken,
    work: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let ended = if crash_point::ends(task) { Ok(()) } else { named(task, work).await };
    if ended.is_ok() && !stop.is_cancelled() {
        self::ended(task, ENDED);
    }
    ended
}

/// The reason of a task that did not fail and should have gone on.
pub const ENDED: &str = "it has ended";

/// From now on a panic anywhere ends the process, with a last line that says in which task and where.
pub fn end_process_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        // Whoever has given no name has a thread of a name of its own, or is a library's.
        let task = NAME.try_with(|name| (*name).to_owned());
        let task = task.unwrap_or_else(|_| thread.name().unwrap_or("unnamed").to_owned());
        end(&task, &place, &reason(panic));
    }));
}

/// Says that a task has ended that must not, and ends the process. Nothing is drained: what is in flight is sent again by the
/// next leader, after a clean look at what the database says.
pub fn ended(task: &str, reason: &str) -> ! {
    end(task, "", reason)
}

fn end(task: &str, place: &str, reason: &str) -> ! {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(task, place, thread, reason, exit_code = EXIT_CODE, "internal task ended unexpectedly");
    std::process::exit(EXIT_CODE);
}

fn reason(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}
