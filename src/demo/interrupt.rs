//! Ctrl-C and its kin. The first asks the demo to stop writing and to audit what there is, the second to leave at once;
//! either way what the demo has made is taken away.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What signals have asked for so far.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    stop: CancellationToken,
    leave: CancellationToken,
}

impl Interrupt {
    /// Listens from now on.
    pub fn watch() -> anyhow::Result<Interrupt> {
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut hang_up = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
        let asked = Interrupt::default();
        let heard = asked.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    // The terminal is gone, and with it whoever wanted to see the audit.
                    _ = hang_up.recv() => heard.stop.cancel(),
                }
                if heard.stop.is_cancelled() {
                    heard.leave.cancel();
                }
                heard.stop.cancel();
            }
        });
        Ok(asked)
    }

    /// Waits for the first signal.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether there was one.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for the second signal.
    pub async fn left(&self) {
        self.leave.cancelled().await;
    }
}
