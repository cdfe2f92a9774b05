//! The commands that watch: what they take. It decides nothing.

use std::time::Duration;

use clap::Args;

use super::operate::Output;
use crate::policy::Glob;

/// Which published messages `tap` shows, and what of them.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct TapOptions {
    /// Only topics of this pattern: orders, orders.*
    #[arg(long, value_name = "PATTERN", value_parser = str::parse::<Glob>)]
    pub topic: Option<Glob>,
    /// Only this key, which is text
    #[arg(long, conflicts_with = "key_base64")]
    pub key: Option<String>,
    /// Only this key, in base64
    #[arg(long, value_name = "BASE64")]
    pub key_base64: Option<String>,
    /// Only every nth of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: u64,
    /// At most so many a second; the others are counted
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// A hash of the key instead of its size: equal keys have equal ones, and who guesses a key can tell
    #[arg(long, conflicts_with = "show_key")]
    pub key_hash: bool,
    /// The key itself, which may be personal data
    #[arg(long)]
    pub show_key: bool,
    /// Payload and headers as well, for members of outbox_admin; outbox.request keeps who read them
    #[arg(long)]
    pub show_payload: bool,
    /// Lines for people, or a JSON document a line
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How `top` looks.
#[derive(Debug, Clone, Copy, Args)]
#[group(skip)]
pub struct TopOptions {
    /// Between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
    /// Print one screen as text and end; needs no terminal
    #[arg(long)]
    pub once: bool,
    /// How large that screen is
    #[arg(long, value_name = "COLUMNSxLINES", default_value = "80x24", value_parser = size, requires = "once")]
    pub size: (u16, u16),
    /// After so many looks; rates and their curves come from them
    #[arg(long, value_name = "N", default_value_t = 2, requires = "once", value_parser = clap::value_parser!(u32).range(2..=500))]
    pub looks: u32,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("is between 100ms and 1h".to_owned())
    }
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let parts =
        text.split_once('x').and_then(|(columns, lines)| Some((columns.parse().ok()?, lines.parse().ok()?)));
    match parts {
        Some((columns @ 80..=500, lines @ 24..=500)) => Ok((columns, lines)),
        _ => Err("is columns x lines, such as 120x40; at least 80x24".to_owned()),
    }
}
