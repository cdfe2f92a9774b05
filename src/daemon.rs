//! `outbox-relay run`: placeholder of this branch.

use std::process::ExitCode;

use crate::config::Config;

/// Placeholder.
pub async fn run(_config: Config) -> anyhow::Result<ExitCode> {
    std::future::ready(()).await;
    anyhow::bail!("run comes from another branch")
}
