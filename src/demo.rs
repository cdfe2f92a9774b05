//! `outbox-relay demo`: placeholder of this branch.

use std::process::ExitCode;

use crate::cli::DemoOptions;

/// Placeholder.
pub async fn run(_options: DemoOptions) -> anyhow::Result<ExitCode> {
    std::future::ready(()).await;
    anyhow::bail!("demo comes from another branch")
}
