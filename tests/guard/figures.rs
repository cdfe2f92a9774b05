//! The figures that are committed, and whether what was measured is near enough. Below a figure by more than its tolerance is a
//! failure as well: what has become cheaper is written down, or the next loss hides behind it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// By name, and what they were measured with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    figures: BTreeMap<String, Figure>,
    measured_with: Versions,
}

/// What figures depend on beside our code: another compiler counts other instructions, another server other buffers and WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Major version.
    postgres: i32,
    /// As `rustc --version` says it.
    rustc: String,
}

impl Versions {
    /// Those that are here.
    pub fn here(server_version_num: i32) -> Versions {
        let output = Command::new("rustc").arg("--version").output().expect("cargo comes with rustc");
        let rustc = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Versions { postgres: server_version_num / 10_000, rustc }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Figure {
    figure: f64,
    /// How far off it may be, as a part of it.
    tolerance: f64,
    /// … with another compiler or server than it was measured with.
    elsewhere: f64,
}

impl Figures {
    /// Reads the committed ones.
    pub fn read(path: &Path) -> Figures {
        let text =
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).expect("it is JSON")
    }

    /// Writes them, tolerances as they are.
    pub fn write(&self, path: &Path) {
        let text = serde_json::to_string_pretty(self).expect("numbers are JSON") + "\n";
        std::fs::write(path, text).expect("the repository can be written");
    }

    /// Takes what was measured for the figures from now on.
    pub fn take(&mut self, measured: &[(&str, f64)], here: Versions) {
        self.measured_with = here;
        for (name, value) in measured {
            self.figures.get_mut(*name).unwrap_or_else(|| panic!("{name} has no tolerance")).figure =
                (value * 10.0).round() / 10.0;
        }
    }

    /// Prints a line for each and returns how many are too far off.
    pub fn judge(&self, measured: &[(&str, f64)], here: &Versions) -> usize {
        let mut failed = 0;
        let is_elsewhere = *here != self.measured_with;
        if is_elsewhere {
            println!(
                "measured with {:?}, here is {here:?}: only coarse changes can be seen",
                self.measured_with
            );
        }
        for (name, value) in measured {
            let Figure { figure, tolerance, elsewhere } =
                self.figures.get(*name).unwrap_or_else(|| panic!("{name} has no figure"));
            let tolerance = if is_elsewhere { elsewhere } else { tolerance };
            let off = value / figure - 1.0;
            let verdict = if off.abs() <= *tolerance { "ok" } else { "FAILED" };
            failed += usize::from(verdict == "FAILED");
            println!(
                "{verdict:<6} {name}: {value:.1}, committed {figure:.1}, {:+.1} % of {:.1} % allowed",
                off * 100.0,
                tolerance * 100.0
            );
        }
        if failed > 0 {
            println!(
                "A row costs more, or less, than it did. If that is meant: OUTBOX_RELAY_GUARD=write make guard writes \
                 tests/guard/figures.json anew; say in the commit why."
            );
        }
        failed
    }
}
