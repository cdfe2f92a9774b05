//! `outbox-relay migrate`: placeholder of this branch.

use std::process::ExitCode;

use crate::cli::MigrateOptions;
use crate::config::Config;

/// Placeholder.
pub async fn run(_config: Config, _options: MigrateOptions) -> anyhow::Result<ExitCode> {
    std::future::ready(()).await;
    anyhow::bail!("migrate comes from another branch")
}
