//! What the drill has found, as a page for people.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::FACTOR;
use crate::prometheus::Alert;

/// An alert that had to fire.
pub struct Fired {
    pub alert: &'static str,
    pub bound: Duration,
    /// None: not within the bound of the longest one.
    pub after: Option<Duration>,
}

impl Fired {
    fn holds(&self) -> bool {
        self.after.is_some_and(|after| after <= self.bound)
    }
}

/// A fault.
pub struct Played {
    pub name: &'static str,
    pub what: &'static str,
    /// Nothing at all was to fire.
    pub silent: bool,
    pub fired: Vec<Fired>,
    pub other_pages: BTreeSet<String>,
    pub other_tickets: BTreeSet<String>,
    /// How long somebody was still paged once it was mended. None: too long.
    pub calm: Option<Duration>,
}

impl Played {
    fn holds(&self) -> bool {
        let quiet = self.other_pages.is_empty() && (!self.silent || self.other_tickets.is_empty());
        quiet && self.calm.is_some() && self.fired.iter().all(Fired::holds)
    }

    /// For whoever watches.
    pub fn line(&self) -> String {
        let fired = self.fired.iter().map(|one| {
            let after = one.after.map_or("never".to_owned(), seconds);
            format!("{} {after} s (bound {} s)", one.alert, seconds(one.bound))
        });
        format!(
            "{}: {}; other pages: {}; tickets: {}; {}",
            self.name,
            fired.collect::<Vec<_>>().join(", "),
            words(&self.other_pages),
            words(&self.other_tickets),
            if self.holds() { "holds" } else { "DOES NOT HOLD" }
        )
    }
}

/// The time before the first fault.
#[derive(Default)]
pub struct Quiet {
    pub time: Duration,
    pub fired: BTreeSet<Alert>,
}

pub struct Report {
    pub quiet: Quiet,
    pub played: Vec<Played>,
    /// What the check of the dashboards has said.
    pub dashboards: String,
    pub dashboards_hold: bool,
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

fn words(names: &BTreeSet<String>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.iter().cloned().collect::<Vec<_>>().join(", ") }
}

impl Report {
    pub fn new(quiet: Duration) -> Report {
        let quiet = Quiet { time: quiet, ..Quiet::default() };
        Report { quiet, played: Vec::new(), dashboards: String::new(), dashboards_hold: false }
    }

    pub fn holds(&self) -> bool {
        self.quiet.fired.is_empty() && self.dashboards_hold && self.played.iter().all(Played::holds)
    }

    /// As `docs/drill.md` has it.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# The alerts, on live relays\n\n\
             Written by `make drill`. Two relays on a real Postgres and a real Kafka are scraped once a second by a real Prometheus, with the\n\
             committed rules, and a real Alertmanager takes its alerts, with the committed routes. Every duration of the rules is divided by\n\
             **{FACTOR}** (`deploy/monitoring/scaled.py {FACTOR}`; with 1 it prints `rules.yml` byte for byte), and so is Prometheus' five\n\
             minutes of patience with a series. The relays' own times are set short and not scaled: `lease.ttl` 1 s, `kafka.stall_after` 2 s.\n\
             So a bound is the rule's own time divided by {FACTOR}, and seconds for relay, sampling and scraping; *unscaled* is what was\n\
             measured times {FACTOR}, and therefore more than it would take in production.\n\n\
             A page counts when Alertmanager would have sent it: one that another alert holds back pages nobody.\n\n\
             **{} quiet minutes: {}.**\n\n\
             | fault | expected alert | bound, s | fired after, s | unscaled | other pages | other tickets |\n\
             |---|---|---|---|---|---|---|\n",
            self.quiet.time.as_secs() / 60,
            if self.quiet.fired.is_empty() {
                "nothing fired".to_owned()
            } else {
                words(&self.quiet.fired.iter().map(ToString::to_string).collect())
            },
        );
        for played in &self.played {
            let mut what = played.what;
            let (pages, tickets) = (words(&played.other_pages), words(&played.other_tickets));
            if played.fired.is_empty() {
                let _ = writeln!(text, "| {what} | none | | | | {pages} | {tickets} |");
            }
            for (number, fired) in played.fired.iter().enumerate() {
                let after = fired.after.map_or("**never**".to_owned(), seconds);
                let late = if fired.holds() || fired.after.is_none() { "" } else { " **late**" };
                let unscaled = fired.after.map_or(String::new(), |after| {
                    format!("{:.1} min", after.as_secs_f64() * f64::from(FACTOR) / 60.0)
                });
                let (pages, tickets) = if number == 0 { (&*pages, &*tickets) } else { ("", "") };
                let (alert, bound) = (fired.alert, seconds(fired.bound));
                let _ = writeln!(
                    text,
                    "| {what} | {alert} | {bound} | {after}{late} | {unscaled} | {pages} | {tickets} |"
                );
                what = "";
            }
        }
        for played in self.played.iter().filter(|played| played.calm.is_none()) {
            let _ = writeln!(text, "\nSomebody was still paged long after the end of {}.", played.name);
        }
        let _ = write!(text, "\n## Dashboards\n\n{}", self.dashboards);
        let _ = write!(
            text,
            "\n{}\n",
            if self.holds() {
                "Everything is as it should be."
            } else {
                "**Something is not as it should be.**"
            }
        );
        text
    }
}
