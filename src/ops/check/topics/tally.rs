//! One line for the troubles of many topics, and Kafka's own commands that end them.

use std::sync::Arc;

use crate::config::Config;
use crate::ops::check::kafka::property;
use crate::ops::check::report::{Group, State};

/// Topics, and troubles, that a line names.
const NAMED: usize = 5;

/// Troubles of several topics on their way to one line.
pub struct Tally<'a> {
    group: &'a mut Group,
    check: &'static str,
    state: State,
    /// What was found, and of which topics.
    found: Vec<(String, Vec<Arc<str>>)>,
    remedies: Vec<String>,
}

impl<'a> Tally<'a> {
    /// An empty one.
    pub fn new(group: &'a mut Group, check: &'static str) -> Tally<'a> {
        Tally { group, check, state: State::Pass, found: Vec::new(), remedies: Vec::new() }
    }

    /// Something is wrong with a topic.
    pub fn put(&mut self, state: State, topic: &Arc<str>, found: impl Into<String>, remedy: String) {
        if state > self.state {
            // A warning about one topic must not hide the failure of another one behind it.
            self.found.clear();
            self.remedies.clear();
        } else if state < self.state {
            return;
        }
        self.state = state;
        let (found, topic) = (found.into(), Arc::clone(topic));
        match self.found.iter_mut().find(|(known, _)| *known == found) {
            Some((_, topics)) => topics.push(topic),
            None => self.found.push((found, vec![topic])),
        }
        if !self.remedies.contains(&remedy) {
            self.remedies.push(remedy);
        }
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Writes the line; `well` is what it says when there is no trouble.
    pub fn close(self, well: String) {
        let few = |words: Vec<String>, between: &str| {
            let more = words.len().saturating_sub(NAMED);
            let words = words.into_iter().take(NAMED).collect::<Vec<_>>().join(between);
            if more > 0 { format!("{words}{between}and {more} more") } else { words }
        };
        let topics = |topics: Vec<Arc<str>>| few(topics.iter().map(ToString::to_string).collect(), ", ");
        let found = self.found.into_iter().map(|(found, of)| format!("{}: {found}", topics(of))).collect();
        let remedies = self.remedies.into_iter().take(NAMED).collect::<Vec<_>>().join("\n");
        match self.state {
            State::Pass => self.group.pass(self.check, well),
            state => self.group.put(self.check, state, few(found, "; "), Some(remedies)),
        }
    }
}

/// Kafka's own commands, filled in.
pub struct Tools<'a> {
    pub config: &'a Config,
    /// How many brokers there are: no topic can have more replicas.
    pub brokers: usize,
}

impl Tools<'_> {
    fn bootstrap(&self) -> String {
        self.config.kafka.brokers.join(",")
    }

    /// Makes a topic.
    pub fn create(&self, topic: &str) -> String {
        let (brokers, replicas) = (self.bootstrap(), self.brokers.clamp(1, 3));
        format!(
            "kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 6 --replication-factor {replicas}"
        )
    }

    /// Lets this login do something with a topic.
    pub fn allow(&self, topic: &str, operations: &[&str]) -> String {
        let user = property(self.config, "sasl.username").unwrap_or("…");
        let operations: String =
            operations.iter().map(|operation| format!(" --operation {operation}")).collect();
        let brokers = self.bootstrap();
        format!(
            "kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal User:{user}{operations} --topic {topic}"
        )
    }

    /// Changes a setting of a topic.
    pub fn configure(&self, topic: &str, name: &str, value: &str) -> String {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {name}={value}",
            self.bootstrap()
        )
    }
}
