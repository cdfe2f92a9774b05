//! What was measured: one value a round, medians with their spread, as Markdown on stdout and as files in target/bench.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::plot;

/// Figures of one run, in the order in which they were first noted.
pub struct Figures {
    name: &'static str,
    about: String,
    lines: Vec<Line>,
}

/// One figure of every round.
pub struct Line {
    pub workload: String,
    pub name: String,
    pub unit: &'static str,
    values: Vec<f64>,
}

impl Line {
    /// The smallest, the middle and the largest value.
    pub fn spread(&self) -> (f64, f64, f64) {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        (values[0], values[values.len() / 2], values[values.len() - 1])
    }
}

impl Figures {
    /// None yet. `about` says in a sentence what was done.
    pub fn new(name: &'static str, about: &str) -> Figures {
        Figures { name, about: format!("{about}; {}", machine()), lines: Vec::new() }
    }

    /// A value of this round.
    pub fn note(&mut self, workload: &str, name: &str, unit: &'static str, value: f64) {
        eprintln!("  {workload}{}{name}: {value:.2} {unit}", if workload.is_empty() { "" } else { ": " });
        let known = self
            .lines
            .iter_mut()
            .find(|line| line.workload == workload && line.name == name && line.unit == unit);
        match known {
            Some(line) => line.values.push(value),
            None => self.lines.push(Line {
                workload: workload.to_owned(),
                name: name.to_owned(),
                unit,
                values: vec![value],
            }),
        }
    }

    /// Prints the table, and writes table, document and plots.
    pub fn finish(self) {
        let table = self.table();
        println!("{table}");
        let directory = directory();
        std::fs::create_dir_all(&directory).expect("target/bench can be made");
        let write = |ending: &str, text: String| {
            let path = directory.join(format!("{}{ending}", self.name));
            std::fs::write(&path, text).expect("target/bench can be written");
            eprintln!("wrote {}", path.display());
        };
        write(".md", table);
        write(".json", serde_json::to_string_pretty(&self.document()).expect("numbers are JSON") + "\n");
        for unit in ["rows/s", "CPU s/million rows", "ms", "MB", "B/row"] {
            let lines: Vec<&Line> = self.lines.iter().filter(|line| line.unit == unit).collect();
            if lines.len() > 1 {
                let file = unit.replace(['/', ' '], "-");
                write(&format!("-{file}.svg"), plot::bars(unit, &lines));
            }
        }
    }

    fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.about);
        let mut workload = None;
        for line in &self.lines {
            if workload != Some(&line.workload) {
                let between = if workload.is_some() { "\n" } else { "" };
                text.push_str(&format!("{between}| {} | median | spread |\n|---|---|---|\n", line.workload));
                workload = Some(&line.workload);
            }
            let (low, middle, high) = line.spread();
            let digits = if high < 100.0 { 2 } else { 0 };
            let spread = if line.values.len() == 1 {
                String::new()
            } else {
                format!("{low:.digits$} – {high:.digits$}")
            };
            text.push_str(&format!("| {}, {} | {middle:.digits$} | {spread} |\n", line.name, line.unit));
        }
        text
    }

    fn document(&self) -> serde_json::Value {
        let line = |line: &Line| {
            let (low, median, high) = line.spread();
            json!({
                "workload": line.workload, "name": line.name, "unit": line.unit,
                "median": median, "lowest": low, "highest": high, "rounds": line.values,
            })
        };
        json!({ "about": self.about, "figures": self.lines.iter().map(line).collect::<Vec<_>>() })
    }
}

/// Where files go.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    format!("{cores} cores, {}", model.trim_start_matches([':', '\t', ' ']))
}
