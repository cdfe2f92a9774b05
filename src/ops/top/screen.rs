//! What there is to see: the last look, and the rates of the last ones. Pure.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::store::follow::Flow;
use crate::store::inspect::{KeyRow, LetterGroup, Overview, RequestRow, TopicRow};

/// Rates that are kept for the curves.
const HISTORY: usize = 200;

/// How much a second was done between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Messages.
    pub published: f64,
    /// Attempts that failed.
    pub failed: f64,
    /// Messages that became dead letters.
    pub dead: f64,
}

impl Rates {
    /// None if no time has passed, or the server's clock was set back.
    pub fn between(before: &Flow, now: &Flow) -> Option<Rates> {
        let seconds = now.at_seconds - before.at_seconds;
        let rate = |count: i64| count as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            published: rate(now.published),
            failed: rate(now.failed),
            dead: rate(now.dead),
        })
    }
}

/// One look.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The database's clock.
    pub at: String,
    /// None with the first look.
    pub rates: Option<Rates>,
    /// How the relay is.
    pub overview: Overview,
    /// The leader has not been heard of for too long.
    pub is_silent: bool,
    /// What waits, by topic.
    pub topics: Vec<TopicRow>,
    /// Keys that do not move.
    pub keys: Vec<KeyRow>,
    /// What messages died of.
    pub causes: Vec<LetterGroup>,
    /// What operators asked for and is not over.
    pub requests: Vec<RequestRow>,
}

/// All that is on the screen.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    /// The last look that succeeded.
    pub sample: Option<Sample>,
    /// Rates, the newest last.
    pub history: VecDeque<Rates>,
    /// The screen stands still.
    pub is_paused: bool,
    /// Why the last look failed.
    pub trouble: Option<String>,
    /// Topics above the first one that is shown.
    pub first_topic: usize,
}

impl Screen {
    /// Takes a look in; while the screen stands still it is dropped.
    pub fn take(&mut self, looked: Result<Sample, String>) {
        if self.is_paused {
            return;
        }
        match looked {
            Ok(mut sample) => {
                sample.topics.sort_by_key(|topic| (Reverse(backlog(topic)), topic.topic.clone()));
                self.history.extend(sample.rates);
                while self.history.len() > HISTORY {
                    self.history.pop_front();
                }
                (self.sample, self.trouble) = (Some(sample), None);
                self.scroll(0);
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    /// Moves the topics up or down, as far as there are any.
    pub fn scroll(&mut self, by: isize) {
        let topics = self.sample.as_ref().map_or(0, |sample| sample.topics.len());
        self.first_topic = self.first_topic.saturating_add_signed(by).min(topics.saturating_sub(1));
    }
}

/// Rows of a topic that wait for something.
pub fn backlog(topic: &TopicRow) -> i64 {
    topic.waiting + topic.retrying + topic.behind
}
