//! What `bench` takes. It decides nothing.

use std::time::Duration;

use clap::Args;

use super::operate::Show;

/// Shown below the options.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  measured, and everything was taken away again
  1  refused, failed, interrupted, or something is left: the last lines say what, and how to take it away
  2  bad configuration or usage";

/// How `bench` goes about it.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct BenchOptions {
    /// How.
    #[command(flatten)]
    pub show: Show,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Messages a second of the first step
    #[arg(long, value_name = "RATE", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub from_rate: u64,
    /// Messages a second of the last step; each step has twice as many as the one before
    #[arg(long, value_name = "RATE", default_value_t = 64_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub to_rate: u64,
    /// How long a step lasts
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = step)]
    pub step: Duration,
    /// Size of a payload
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = clap::value_parser!(u32).range(32..=900_000))]
    pub bytes: u32,
    /// Connections that write
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub writers: u32,
    /// Messages of a transaction
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub per_transaction: u32,
    /// Partitions of its topic
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub partitions: u32,
    /// Different keys of the messages
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Messages at most, of all steps together
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_rows: u64,
    /// Where the leading relay serves /metrics, from which is told what limits it [default: http.listen, on this host]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
}

fn step(text: &str) -> Result<Duration, String> {
    let step = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&step) {
        Ok(step)
    } else {
        Err("is between 1s and 10m".to_owned())
    }
}
