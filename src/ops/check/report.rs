//! What was found: groups of checks, each with its state and, where something is to be done, the remedy. And how that looks.
//!
//! What hangs on a check that failed is not looked at, and says so: one cause gives one failing line.

use std::fmt::Write as _;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Pass,
    /// It could not be looked at.
    NotChecked,
    /// It works, and somebody should look at it.
    Warn,
    /// The relay does not work with it, or not as promised.
    Fail,
}

impl State {
    fn mark(self) -> &'static str {
        match self {
            State::Pass => "✓ pass",
            State::NotChecked => "- not checked",
            State::Warn => "! warn",
            State::Fail => "✗ fail",
        }
    }

    /// The code of a terminal's colour.
    fn colour(self) -> &'static str {
        match self {
            State::Pass => "32",
            State::NotChecked => "2",
            State::Warn => "33",
            State::Fail => "31",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Checks of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The thing.
    pub group: &'static str,
    /// In the order in which they hang on each other.
    pub checks: Vec<Check>,
    #[serde(skip)]
    order: &'static [&'static str],
    #[serde(skip)]
    cause: Option<String>,
}

impl Group {
    /// A group with these checks, of which none has been looked at.
    pub fn new(group: &'static str, order: &'static [&'static str]) -> Group {
        Group { group, checks: Vec::new(), order, cause: None }
    }

    /// It is as it should be.
    pub fn pass(&mut self, check: &'static str, found: impl Into<String>) {
        self.put(check, State::Pass, found.into(), None);
    }

    /// Somebody should look at it.
    pub fn warn(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.put(check, State::Warn, found.into(), Some(remedy.into()));
    }

    /// It does not work.
    pub fn fail(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.put(check, State::Fail, found.into(), Some(remedy.into()));
    }

    /// It cannot be looked at, although nothing else is wrong.
    pub fn unknown(&mut self, check: &'static str, found: impl Into<String>, remedy: Option<String>) {
        self.put(check, State::NotChecked, found.into(), remedy);
    }

    /// Any of these.
    pub fn put(&mut self, check: &'static str, state: State, found: String, remedy: Option<String>) {
        debug_assert!(self.order.contains(&check), "{check} is no check of {}", self.group);
        self.checks.push(Check { check, state, found: one_line(&found), remedy });
    }

    /// What has not been looked at by now will not be, because of this.
    pub fn because(&mut self, cause: impl Into<String>) {
        self.cause = Some(cause.into());
    }

    /// What failed first, in words for those that hang on it.
    pub fn cause(&self) -> Option<String> {
        let failed = self.checks.iter().find(|check| check.state == State::Fail)?;
        Some(format!("needs {}: {}", self.group, failed.check))
    }

    /// Whether any of these checks has failed.
    pub fn failed(&self) -> bool {
        self.checks.iter().any(|check| check.state == State::Fail)
    }

    /// The same in its order, with those that were not looked at.
    pub fn finish(mut self) -> Group {
        let cause = self.cause.clone().or_else(|| self.cause()).unwrap_or_default();
        for &check in self.order {
            if !self.checks.iter().any(|found| found.check == check) {
                self.put(check, State::NotChecked, cause.clone(), None);
            }
        }
        let place = |check: &Check| self.order.iter().position(|name| *name == check.check);
        self.checks.sort_by_key(place);
        self
    }
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of all.
    pub verdict: State,
    /// How many of each.
    pub passed: usize,
    /// Warnings.
    pub warned: usize,
    /// Failures.
    pub failed: usize,
    /// Not looked at.
    pub not_checked: usize,
    /// The checks.
    pub groups: Vec<Group>,
}

impl Report {
    /// Adds up.
    pub fn of(groups: Vec<Group>) -> Report {
        let of = |state| groups.iter().flat_map(|group| &group.checks).filter(|c| c.state == state).count();
        let (passed, warned, failed) = (of(State::Pass), of(State::Warn), of(State::Fail));
        let verdict = match (failed, warned) {
            (0, 0) => State::Pass,
            (0, _) => State::Warn,
            _ => State::Fail,
        };
        Report { verdict, passed, warned, failed, not_checked: of(State::NotChecked), groups }
    }

    /// The first failure, for whoever waits.
    pub fn first_failure(&self) -> Option<String> {
        self.groups.iter().find_map(|group| {
            let check = group.checks.iter().find(|check| check.state == State::Fail)?;
            Some(format!("{}: {}: {}", group.group, check.check, check.found))
        })
    }

    /// For people. What was not looked at for one cause is one line.
    pub fn as_text(&self, colours: bool) -> String {
        let mut text = String::new();
        let width =
            self.groups.iter().flat_map(|group| group.order).map(|name| name.len()).max().unwrap_or(0);
        let line = |text: &mut String, state: State, name: &str, found: &str| {
            let mark = format!("{:<13}", state.mark());
            let mark = if colours { format!("\u{1b}[{}m{mark}\u{1b}[0m", state.colour()) } else { mark };
            let _ = writeln!(text, "  {}", format!("{mark}  {name:<width$}  {found}").trim_end());
        };
        for group in &self.groups {
            let _ = writeln!(text, "{}", group.group);
            let mut passed_over: Vec<(&str, Vec<&str>)> = Vec::new();
            for check in &group.checks {
                if check.state == State::NotChecked && check.remedy.is_none() {
                    match passed_over.iter_mut().find(|(cause, _)| *cause == check.found) {
                        Some((_, names)) => names.push(check.check),
                        None => passed_over.push((&check.found, vec![check.check])),
                    }
                    continue;
                }
                line(&mut text, check.state, check.check, &check.found);
                for remedy in check.remedy.iter().flat_map(|remedy| remedy.lines()) {
                    let _ = writeln!(text, "  {:13}  {:width$}  -> {remedy}", "", "");
                }
            }
            for (cause, names) in passed_over {
                match names.as_slice() {
                    [name] => line(&mut text, State::NotChecked, name, cause),
                    names => line(&mut text, State::NotChecked, cause, &format!("({})", names.join(", "))),
                }
            }
            text.push('\n');
        }
        let Report { passed, warned, failed, not_checked, .. } = self;
        let _ =
            writeln!(text, "{failed} failed, {warned} warnings, {passed} passed, {not_checked} not checked");
        text
    }
}

/// Servers' words may be of several lines, and no control character reaches the terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_on_a_failure_is_one_line() {
        let mut group = Group::new("postgres", &["reachable", "login", "version", "clock"]);
        group.fail("login", "refused\nby the server", "check the password");
        group.pass("reachable", "db1:5432");
        let cause = group.cause();
        assert_eq!(cause.as_deref(), Some("needs postgres: login"));
        let mut lease = Group::new("lease", &["leader"]);
        lease.because(cause.expect("it failed"));
        let report = Report::of(vec![group.finish(), lease.finish()]);
        assert_eq!(
            (report.verdict, report.passed, report.failed, report.not_checked),
            (State::Fail, 1, 1, 3)
        );
        assert_eq!(
            report.as_text(false),
            "postgres\n  ✓ pass         reachable  db1:5432\n  ✗ fail         login      refused by the server\n\
             \x20                           -> check the password\n\
             \x20 - not checked  needs postgres: login  (version, clock)\n\n\
             lease\n  - not checked  leader     needs postgres: login\n\n1 failed, 0 warnings, 1 passed, 3 not checked\n"
        );
        assert!(report.as_text(true).contains("\u{1b}[31m✗ fail"));
        assert_eq!(report.first_failure().as_deref(), Some("postgres: login: refused by the server"));
    }
}
