//! The figures that are committed, and whether what was measured is near enough. Below a figure by more than its tolerance is a
//! failure as well: what has become cheaper is written down, or the next loss hides behind it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// By name.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures(BTreeMap<String, Figure>);

#[derive(Debug, Serialize, Deserialize)]
struct Figure {
    figure: f64,
    /// How far off it may be, as a part of it.
    tolerance: f64,
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
    pub fn take(&mut self, measured: &[(&str, f64)]) {
        for (name, value) in measured {
            self.0.get_mut(*name).unwrap_or_else(|| panic!("{name} has no tolerance")).figure =
                (value * 10.0).round() / 10.0;
        }
    }

    /// Prints a line for each and returns how many are too far off.
    pub fn judge(&self, measured: &[(&str, f64)]) -> usize {
        let mut failed = 0;
        for (name, value) in measured {
            let Figure { figure, tolerance } =
                self.0.get(*name).unwrap_or_else(|| panic!("{name} has no figure"));
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
