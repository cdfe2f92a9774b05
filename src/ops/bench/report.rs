//! What was measured: as a document for programs (`docs/schemas/bench.json`) and as text for people. Pure.

use serde::Serialize;

use super::limit::Seen;
use super::load::Wrote;
use crate::cli::bench::BenchOptions;
use crate::ops::table::{Table, facts};

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub topic: String,
    /// Whose relay it was: `running`, or `own` if none led.
    pub relay: &'static str,
    pub payload_bytes: u32,
    pub writers: u32,
    pub rows_per_transaction: u32,
    pub partitions: u32,
    pub steps: Vec<Step>,
    /// The highest rate that was sustained; 0: not even the first.
    pub sustained_rate: u64,
    /// What kept it from more; none: the last step was sustained.
    pub limit: Option<&'static str>,
    pub rows: u64,
    /// Records that came more than once.
    pub duplicates: u64,
    /// Rows that were deleted afterwards.
    pub deleted: i64,
    pub interrupted: bool,
}

/// One rate.
#[derive(Debug, Serialize)]
pub struct Step {
    pub rate: u64,
    pub written_rate: f64,
    pub delivered_rate: f64,
    /// Written and not arrived at the end of the step.
    pub on_the_way: u64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub sustained: bool,
    pub limit: Option<&'static str>,
    /// Of the relay, in cores; none: its metrics were out of reach.
    pub relay_cpu: Option<f64>,
    pub reading_share: Option<f64>,
    pub marking_share: Option<f64>,
    pub window_full_share: Option<f64>,
    pub machine_cpu_share: Option<f64>,
}

impl Report {
    /// An empty one.
    pub fn new(topic: String, own_relay: bool, options: &BenchOptions) -> Report {
        Report {
            topic,
            relay: if own_relay { "own" } else { "running" },
            payload_bytes: options.bytes,
            writers: options.writers,
            rows_per_transaction: options.per_transaction,
            partitions: options.partitions,
            steps: Vec::new(),
            sustained_rate: 0,
            limit: None,
            rows: 0,
            duplicates: 0,
            deleted: 0,
            interrupted: false,
        }
    }

    /// For people.
    pub fn as_text(&self) -> String {
        let mut table = Table::new([
            "RATE",
            "WRITTEN/S",
            "ARRIVED/S",
            "ON THE WAY",
            "P50 MS",
            "P95 MS",
            "P99 MS",
            "P99.9 MS",
            "",
        ]);
        for step in &self.steps {
            let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
            table.row([
                step.rate.to_string(),
                format!("{:.0}", step.written_rate),
                format!("{:.0}", step.delivered_rate),
                step.on_the_way.to_string(),
                ms(step.p50_ms),
                ms(step.p95_ms),
                ms(step.p99_ms),
                ms(step.p999_ms),
                verdict(step),
            ]);
        }
        let relay = if self.relay == "own" { "started for this" } else { "the one that leads" };
        let mut lines = vec![("relay", relay.to_owned()), ("sustained", self.sustained())];
        if let Some(limit) = self.limit {
            lines.push(("limit", limit_in_words(limit).to_owned()));
        }
        lines.push(("messages", format!("{}, of which {} are deleted again", self.rows, self.deleted)));
        lines.push(("duplicates", self.duplicates.to_string()));
        format!("{}\n{}", table.render("no step was finished"), facts(&lines))
    }

    fn sustained(&self) -> String {
        let step = self.steps.iter().filter(|step| step.sustained).max_by_key(|step| step.rate);
        match step {
            Some(Step { rate, p50_ms: Some(p50), p99_ms: Some(p99), .. }) => {
                format!(
                    "{rate} messages a second; half of them arrive within {p50:.1} ms, 99 of 100 within {p99:.1} ms"
                )
            }
            Some(step) => format!("{} messages a second", step.rate),
            None => "not even the first step".to_owned(),
        }
    }
}

impl Step {
    /// What a step has shown.
    pub fn new(rate: u64, wrote: &Wrote, seen: &Seen, sustained: bool, limit: Option<&'static str>) -> Step {
        let relay = seen.relay;
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Step {
            rate,
            written_rate: rounded(wrote.written_rate()),
            delivered_rate: rounded(wrote.arrived_rate()),
            on_the_way: wrote.on_the_way,
            p50_ms: wrote.percentile(0.5),
            p95_ms: wrote.percentile(0.95),
            p99_ms: wrote.percentile(0.99),
            p999_ms: wrote.percentile(0.999),
            sustained,
            limit,
            relay_cpu: relay.map(|relay| rounded(relay.cpu)),
            reading_share: relay.map(|relay| rounded(relay.reading)),
            marking_share: relay.map(|relay| rounded(relay.marking)),
            window_full_share: relay.map(|relay| rounded(relay.window_full)),
            machine_cpu_share: seen.machine.map(rounded),
        }
    }

    /// For people who wait.
    pub fn as_line(&self) -> String {
        let p99 = self.p99_ms.map_or(String::new(), |ms| format!(", 99 of 100 within {ms:.1} ms"));
        format!("{} a second: {}{p99}", self.rate, verdict(self))
    }
}

fn verdict(step: &Step) -> String {
    match step.limit {
        _ if step.sustained => "sustained".to_owned(),
        Some(limit) => format!("too much ({limit})"),
        None => "too much".to_owned(),
    }
}

fn limit_in_words(limit: &str) -> &'static str {
    match limit {
        "writers" => {
            "the writers: Postgres did not take the inserts faster; more --writers or --per-transaction may write more"
        }
        "consumer" => {
            "the reader of this benchmark: the relay had settled everything, and the records were not here yet"
        }
        "kafka" => "Kafka: the relay waited for its confirms",
        "marking" => "marking: the relay wrote settlements nearly all the time",
        "reading" => "reading: the relay waited for pages of Postgres nearly all the time",
        "cpu" => "CPU: of the relay, or of this machine as a whole",
        "max_rows" => "--max-rows",
        _ => {
            "unknown: the relay's metrics were out of reach or show nothing that is full; --http names where it serves them"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_words() {
        let unknown = limit_in_words("unknown");
        for limit in ["writers", "consumer", "kafka", "marking", "reading", "cpu", "max_rows"] {
            assert_ne!(limit_in_words(limit), unknown, "{limit}");
        }
    }
}
