//! The topics: those of rows that wait or came lately, of open lanes and of the configuration. Whether they are there, may be
//! written to, take what waits, and keep what they were given.
//!
//! Owns which topics are looked at. How a topic's settings are judged is [`settings`].

mod settings;
mod tally;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use self::settings::{Known, Trouble};
use self::tally::{Tally, Tools};
use super::kafka::Reached;
use super::report::{Group, State};
use super::{Deadline, said};
use crate::config::Config;
use crate::kafka::TopicConfiguration;
use crate::kafka::examine::{Standing, Writing};
use crate::partition;
use crate::store::examine::{self, Place, TopicFacts};
use crate::store::{Session, StoreError};

pub const CHECKS: &[&str] = &[
    "there",
    "rights",
    "leaders",
    "settings",
    "replication",
    "in-sync replicas",
    "record size",
    "keys",
    "retention",
    "elections",
    "partitions",
];

/// Rows of each source that are looked at: a backlog of any length costs the same.
const ROWS: i64 = 5_000;
/// Published rows whose place is compared with that of their key.
const PLACES: i64 = 300;
/// Topics that are looked at.
const TOPICS: usize = 200;

/// Looks at them.
pub async fn look(config: &Config, session: &mut Session, kafka: &Reached, deadline: &Deadline) -> Group {
    let mut group = Group::new("topics", CHECKS);
    match deadline.within_time(read(config, session)).await {
        Some(Ok((mut wanted, places))) => {
            let more = wanted.len().saturating_sub(TOPICS);
            wanted.truncate(TOPICS);
            if wanted.is_empty() {
                group.because("no topic is known yet: no row waits, and no [[topic]] section names one");
            } else if let Some(problem) =
                deadline.within_time(ask(config, kafka, &wanted, &places, more, &mut group)).await
            {
                if let Err(text) = problem {
                    group.fail("there", text, "see in the brokers' logs why they do not answer");
                }
            } else {
                let first =
                    CHECKS.iter().find(|check| !group.checks.iter().any(|found| found.check == **check));
                let silent = format!("brokers do not answer within {}", deadline.shown());
                group.fail(first.copied().unwrap_or("there"), silent, "give it more time with --timeout");
            }
        }
        Some(Err(error)) => group.fail("there", said(&error), "see what the server's log says about it"),
        None => group.fail(
            "there",
            format!("the rows that wait cannot be read within {}", deadline.shown()),
            "give it more time with --timeout",
        ),
    }
    group.finish()
}

/// A topic to look at.
struct Wanted {
    name: Arc<str>,
    /// Why it has to be there; `None`: its rows have all been published.
    why: Option<&'static str>,
    facts: Option<TopicFacts>,
}

async fn read(config: &Config, session: &mut Session) -> Result<(Vec<Wanted>, Vec<Place>), StoreError> {
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    for facts in examine::topics(session, ROWS).await? {
        let why = facts.pending.then_some("rows wait for it");
        let name = facts.topic.clone();
        wanted.insert(name.clone(), Wanted { name: name.into(), why, facts: Some(facts) });
    }
    for name in config.policies.topics() {
        let why = Some("a [[topic]] section names it");
        let new = || Wanted { name: name.into(), why, facts: None };
        let known = wanted.entry(name.to_owned()).or_insert_with(new);
        known.why = known.why.or(why);
    }
    Ok((wanted.into_values().collect(), examine::places(session, PLACES).await?))
}

async fn ask(
    config: &Config,
    kafka: &Reached,
    wanted: &[Wanted],
    places: &[Place],
    more: usize,
    group: &mut Group,
) -> Result<(), String> {
    let names: Vec<Arc<str>> = wanted.iter().map(|topic| Arc::clone(&topic.name)).collect();
    let standings = kafka.examiner.standings(names).await.map_err(|error| error.to_string())?;
    let tools = Tools { config, brokers: kafka.brokers };
    let examiner = &kafka.examiner;
    let mut there = Tally::new(group, "there");
    let mut hidden = Vec::new();
    let mut found = Vec::new();
    for (topic, standing) in wanted.iter().zip(standings) {
        match (standing, topic.why) {
            (Standing::There { partitions, replicas, leaderless }, _) => {
                found.push((topic, Known { partitions, replicas, leaderless, configuration: None }));
            }
            (Standing::Hidden, _) => hidden.push(Arc::clone(&topic.name)),
            (Standing::Missing, Some(why)) => {
                there.put(State::Fail, &topic.name, format!("missing, and {why}"), tools.create(&topic.name));
            }
            (Standing::Missing, None) => {
                let gone = "gone, and with it what was published lately";
                there.put(State::Warn, &topic.name, gone, tools.create(&topic.name));
            }
        }
    }
    let beyond = if more > 0 { format!(", {more} more were not looked at") } else { String::new() };
    there.close(format!("{} topics{beyond}", found.len()));

    let names: Vec<Arc<str>> = found.iter().map(|(topic, _)| Arc::clone(&topic.name)).collect();
    let mut rights = Tally::new(group, "rights");
    for name in &hidden {
        rights.put(State::Fail, name, "this login may not see it", tools.allow(name, &["Describe", "Write"]));
    }
    if names.is_empty() {
        if !hidden.is_empty() {
            rights.close(String::new());
        }
        group.because(group.cause().unwrap_or_else(|| "none of the topics is there".to_owned()));
        return Ok(());
    }
    let writings = examiner.rights(&names).await.map_err(|error| error.to_string())?;
    let mut forbidden: HashSet<&str> = HashSet::new();
    for (name, writing) in names.iter().zip(writings) {
        match writing {
            Writing::Allowed => {}
            Writing::Forbidden => {
                forbidden.insert(name);
                rights.put(
                    State::Fail,
                    name,
                    "this login may not write to it",
                    tools.allow(name, &["Write"]),
                );
            }
            Writing::Taken(partition, offset) => rights.put(
                State::Warn,
                name,
                format!(
                    "this cluster took the probe for a record, at partition {partition}, offset {offset}"
                ),
                "tell consumers to pass that record over, and report which Kafka this is".to_owned(),
            ),
            Writing::Unknown(text) => rights.put(
                State::Warn,
                name,
                format!("whether this login may write to it could not be found out: {text}"),
                "try again; see in the brokers' logs why they do not answer".to_owned(),
            ),
        }
    }
    rights.close("this login may see and write to each".to_owned());

    let mut read = Tally::new(group, "settings");
    let mut configurations = examiner.configurations(&names).await?;
    for (topic, known) in &mut found {
        match configurations.remove(&*topic.name) {
            Some(Ok(configuration)) => known.configuration = Some(configuration),
            // Whoever may do nothing with a topic has heard of it above.
            _ if forbidden.contains(&*topic.name) => {}
            answer => {
                let text = answer.and_then(Result::err).unwrap_or_else(|| "no answer".to_owned());
                let unread = format!("they cannot be read: {text}");
                read.put(State::Warn, &topic.name, unread, tools.allow(&topic.name, &["DescribeConfigs"]));
            }
        }
    }
    if read.is_empty() && found.iter().all(|(_, known)| known.configuration.is_none()) {
        group.unknown("settings", "needs topics: rights", None);
    } else {
        read.close("can be read".to_owned());
    }
    judge(config, &found, places, &tools, group);
    Ok(())
}

fn judge(
    config: &Config,
    found: &[(&Wanted, Known)],
    places: &[Place],
    tools: &Tools<'_>,
    group: &mut Group,
) {
    let compresses = crate::daemon::kafka_settings(config).compresses();
    let mut troubles: Vec<(&Wanted, Trouble)> = Vec::new();
    for (topic, known) in found {
        let facts = topic.facts.as_ref();
        let strays = strays(&topic.name, known.partitions, places);
        troubles.extend(
            settings::judge(known, facts, compresses, strays).into_iter().map(|trouble| (*topic, trouble)),
        );
    }
    let readable = found.iter().filter(|(_, known)| known.configuration.is_some()).count();
    for (check, well) in [
        ("leaders", "each partition has one"),
        ("replication", "more than one replica of each partition"),
        ("in-sync replicas", "enough, and not too many"),
        ("record size", "each takes the largest row that waits for it"),
        ("keys", "none lacks the keys that it needs"),
        ("retention", "a day or more"),
        ("elections", "no record is given up for a leader"),
        ("partitions", "records lie where their keys lead"),
    ] {
        let needs_settings = !matches!(check, "leaders" | "replication" | "partitions");
        if needs_settings && readable == 0 {
            group.unknown(check, "needs topics: settings", None);
            continue;
        }
        let mut tally = Tally::new(group, check);
        for (topic, trouble) in troubles.iter().filter(|(_, trouble)| trouble.check == check) {
            let remedy = match &trouble.set {
                Some((name, value)) => tools.configure(&topic.name, name, value),
                None => trouble.remedy.to_owned(),
            };
            tally.put(trouble.state, &topic.name, trouble.found.clone(), remedy);
        }
        tally.close(well.to_owned());
    }
}

/// How many published rows of the topic lie elsewhere than their key leads now, and of how many.
fn strays(topic: &str, partitions: i32, places: &[Place]) -> (usize, usize) {
    let of_topic: Vec<&Place> = places.iter().filter(|place| place.topic == topic).collect();
    let leads = |place: &Place| bytes(&place.key).map(|key| partition::of_key(&key, partitions));
    let astray = of_topic.iter().filter(|place| leads(place).is_some_and(|there| there != place.partition));
    (astray.count(), of_topic.len())
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_before_the_partitions_were_added_are_found() {
        let place = |key: &str, partition| Place {
            topic: "orders".to_owned(),
            key: key.bytes().map(|byte| format!("{byte:02x}")).collect(),
            partition,
        };
        let places: Vec<Place> =
            ["a", "b", "c", "d"].iter().map(|key| place(key, partition::of_key(key.as_bytes(), 3))).collect();
        assert_eq!(strays("orders", 3, &places), (0, 4));
        assert!(strays("orders", 7, &places).0 > 0);
        assert_eq!(strays("users", 7, &places), (0, 0));
    }
}
