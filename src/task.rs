//! The end of an internal task is the end of the process: a relay of which a part is dead looks alive and does nothing.
//!
//! Owns the last line and the exit code. Every task, thread and callback is covered by one hook, because a panic in any of them
//! runs it first: in a callback of librdkafka it must not unwind into C, and in a thread of our own nobody would look.

use std::panic::PanicHookInfo;

/// The exit code: an internal error, as sysexits.h names it. A restart helps, a report as well.
pub const EXIT_CODE: i32 = 70;

/// From now on a panic anywhere ends the process, with a last line that says where.
pub fn end_process_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        ended(&place, &reason(panic));
    }));
}

/// Says that a task has ended that must not, and ends the process. Nothing is drained: what is in flight is sent again by the
/// next leader, after a clean look at what the database says.
pub fn ended(task: &str, reason: &str) -> ! {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(task, thread, reason, exit_code = EXIT_CODE, "internal task ended unexpectedly");
    std::process::exit(EXIT_CODE);
}

fn reason(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}
