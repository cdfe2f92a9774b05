//! The table at the end, as Markdown on stdout.

use crate::latency::Latency;

/// One contender in one round.
#[derive(Clone, Copy)]
pub struct Figures {
    pub rows_per_second: f64,
    pub cpu_seconds_per_million: f64,
    pub peak_megabytes: f64,
}

/// Both contenders, one after the other.
pub struct Round {
    pub alone: Figures,
    pub relay: Figures,
}

/// Prints medians, with the smallest and the largest value of the rounds.
pub fn print(rows: u64, rounds: &[Round], latency: &Latency, idle: f64) {
    let line = |name: &str, figures: &dyn Fn(&Round) -> f64, digits: usize| {
        let mut values: Vec<f64> = rounds.iter().map(figures).collect();
        values.sort_by(f64::total_cmp);
        let (low, middle, high) = (values[0], values[values.len() / 2], values[values.len() - 1]);
        println!("| {name} | {middle:.digits$} | {low:.digits$} – {high:.digits$} |");
    };
    println!("{rows} rows of 240 B with three headers, {} rounds, {}\n", rounds.len(), machine());
    println!("| | median | spread |\n|---|---|---|");
    line("librdkafka alone, rows/s", &|r| r.alone.rows_per_second, 0);
    line("relay end to end with receipts, rows/s", &|r| r.relay.rows_per_second, 0);
    line("ratio", &|r| r.relay.rows_per_second / r.alone.rows_per_second, 2);
    line("librdkafka alone, CPU s per million rows", &|r| r.alone.cpu_seconds_per_million, 2);
    line("relay, CPU s per million rows", &|r| r.relay.cpu_seconds_per_million, 2);
    line("relay, peak memory in MB", &|r| r.relay.peak_megabytes, 0);
    println!("| commit to consumer at 200 rows/s, p50 ms | {:.1} | |", latency.p50);
    println!("| commit to consumer at 200 rows/s, p95 ms | {:.1} | |", latency.p95);
    println!("| commit to consumer at 200 rows/s, p99 ms | {:.1} | |", latency.p99);
    println!("| idle relay, share of one core in % | {:.2} | |", idle * 100.0);
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    format!("{cores} cores, {}", model.trim_start_matches([':', '\t', ' ']))
}
