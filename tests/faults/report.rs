//! The table of a run, for people and as JSON. It judges nothing but the times.

use std::fmt;

use serde_json::{Value, json};

use crate::checker::Kind;
use crate::play::Played;
use crate::scenarios::Scenario;
use crate::scene::LEASE;

/// A row of the table.
pub struct Line {
    name: String,
    what: &'static str,
    seed: u64,
    rows: u64,
    faults: usize,
    lost: u64,
    phantom: u64,
    reordered: u64,
    duplicates: u64,
    bound: u64,
    dropped: u64,
    removed: u64,
    lost_by_server: u64,
    recovery: Option<f64>,
    takeover: Option<f64>,
    /// Memory and open files.
    held: Value,
    held_words: Option<String>,
    /// Promises that did not hold, in words.
    broken: Vec<String>,
}

impl Line {
    pub fn of(scenario: &Scenario, seed: u64, played: &Played) -> Line {
        let (verdict, counts) = (&played.verdict, &played.verdict.counts);
        let mut broken: Vec<String> =
            verdict.totals.iter().map(|(kind, total)| format!("{kind:?}: {total}")).collect();
        let recovery = played.recovery.map(|time| time.as_secs_f64());
        if recovery.is_none_or(|seconds| seconds > scenario.recovers_within.as_secs_f64()) {
            broken.push(format!("recovery took {recovery:?} s"));
        }
        if played.charged > 0 {
            broken.push(format!("{} rows were blamed for what is nobody's fault", played.charged));
        }
        broken.extend(played.growth.broken.iter().cloned());
        Line {
            name: scenario
                .bug
                .as_ref()
                .map_or(scenario.name.to_owned(), |bug| format!("{}+{bug}", scenario.name)),
            what: scenario.what,
            seed,
            rows: counts.rows,
            faults: played.faults,
            lost: verdict.total(Kind::Lost),
            phantom: verdict.total(Kind::Phantom),
            reordered: verdict.total(Kind::Reordered),
            duplicates: counts.duplicates,
            bound: verdict.intervals.iter().map(|interval| interval.bound).sum(),
            dropped: counts.at_most_once_lost,
            removed: counts.removed,
            lost_by_server: counts.lost_by_server,
            recovery,
            takeover: played.takeover.map(|time| time.as_secs_f64()),
            held: played.growth.json.clone(),
            held_words: played.growth.words.clone(),
            broken,
        }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    fn to_json(&self) -> Value {
        json!({
            "scenario": self.name, "what": self.what, "seed": self.seed, "messages": self.rows, "faults": self.faults,
            "lost": self.lost, "phantom": self.phantom, "reordered": self.reordered, "duplicates": self.duplicates,
            "duplicates_bound": self.bound, "at_most_once_lost": self.dropped, "removed": self.removed,
            "lost_by_server": self.lost_by_server, "recovery_seconds": self.recovery, "takeover_seconds": self.takeover,
            "held": self.held, "broken": self.broken,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.broken.is_empty() { "holds" } else { "BROKEN" };
        write!(
            f,
            "{word:6} {:24} {:6} messages, lost {}, phantom {}, reordered {}, duplicates {} of {}, recovery {:.1} s",
            self.name,
            self.rows,
            self.lost,
            self.phantom,
            self.reordered,
            self.duplicates,
            self.bound,
            self.recovery.unwrap_or(f64::INFINITY)
        )?;
        self.broken.iter().try_for_each(|what| write!(f, "; {what}"))
    }
}

/// All rows.
pub struct Report {
    seed: u64,
    lines: Vec<Line>,
}

impl Report {
    pub fn new(seed: u64) -> Report {
        Report { seed, lines: Vec::new() }
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn add(&mut self, line: Line) {
        self.lines.push(line);
    }

    pub fn is_clean(&self) -> bool {
        self.lines.iter().all(|line| line.broken.is_empty())
    }

    /// The table, as README shows it.
    pub fn print(&self) {
        println!(
            "| scenario | messages | faults | lost | reordered | duplicates (bound) | recovered after |"
        );
        println!("|---|---|---|---|---|---|---|");
        for line in &self.lines {
            let recovery = line.recovery.map_or("never".to_owned(), |seconds| format!("{seconds:.1} s"));
            println!(
                "| {} | {} | {} | {} | {} | {} ({}) | {recovery} |",
                line.what, line.rows, line.faults, line.lost, line.reordered, line.duplicates, line.bound
            );
        }
        for (line, words) in self.lines.iter().filter_map(|line| Some((line, line.held_words.as_ref()?))) {
            println!("\n{}: {words}", line.name);
        }
        let broken: Vec<&Line> = self.lines.iter().filter(|line| !line.broken.is_empty()).collect();
        let rows: u64 = self.lines.iter().map(|line| line.rows).sum();
        println!(
            "\n{} scenarios, {rows} messages, seed {}, {} broken",
            self.lines.len(),
            self.seed,
            broken.len()
        );
        for line in broken {
            println!("BROKEN {} (seed {}): {}", line.name, line.seed, line.broken.join("; "));
        }
    }

    /// Into `target/reliability.json`.
    pub fn write(&self) {
        let lines: Vec<Value> = self.lines.iter().map(Line::to_json).collect();
        let report = json!({ "seed": self.seed, "lease_seconds": LEASE.as_secs_f64(), "scenarios": lines });
        let text = serde_json::to_string_pretty(&report).expect("numbers and texts");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/reliability.json");
        std::fs::write(path, text + "\n").expect("target is there");
    }
}
