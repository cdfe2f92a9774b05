//! What `check` takes. It decides nothing.

use std::time::Duration;

use clap::Args;

use super::operate::Show;

/// Shown below the options.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  nothing fails (there may be warnings)    1  something fails    2  bad configuration or usage";

/// How `check` goes about it.
#[derive(Debug, Clone, Copy, Args)]
#[group(skip)]
pub struct CheckOptions {
    /// How.
    #[command(flatten)]
    pub show: Show,
    /// Look again and again until nothing fails, so long at most
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// How long one look may take, also where a network swallows everything
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Warnings count as failures
    #[arg(long)]
    pub strict: bool,
}
