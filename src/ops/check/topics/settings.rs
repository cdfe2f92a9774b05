//! What speaks against a topic as it is. Pure: everything comes in as an argument.

use super::State;
use super::TopicConfiguration;
use super::TopicFacts;

/// What the relay adds to a row's bytes at most.
const FRAMING: u64 = 182;
/// Records that go sooner are lost to a consumer that is away for a night, and to replay and audit.
const RETENTION_MS: i64 = 86_400_000;
/// The same where the size of a partition decides: a busy topic fills less within minutes.
const RETENTION_BYTES: i64 = 1 << 30;

/// A topic that is there.
pub struct Known {
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas of the partition that has the fewest.
    pub replicas: i32,
    /// Partitions without a leader.
    pub leaderless: i32,
    /// Its settings, if this login may read them.
    pub configuration: Option<TopicConfiguration>,
}

/// Something that speaks against it.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The line that it belongs to.
    pub check: &'static str,
    /// How bad it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// A setting and the value that mends it; or else
    pub set: Option<(&'static str, String)>,
    /// what to do.
    pub remedy: &'static str,
}

/// Everything that speaks against it. `strays`: published rows that lie elsewhere than their key leads, of how many.
pub fn judge(
    known: &Known,
    facts: Option<&TopicFacts>,
    compresses: bool,
    strays: (usize, usize),
) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    let mut put = |check, state, found: String, set, remedy| {
        troubles.push(Trouble { check, state, found, set, remedy });
    };
    let Known { partitions, replicas, leaderless, configuration } = known;
    if *leaderless > 0 {
        let found = format!("{leaderless} of {partitions} partitions have no leader");
        put("leaders", State::Fail, found, None, "start the brokers that hold their replicas");
    }
    if *replicas == 1 {
        let found = "1 replica: a lost disk loses records that were confirmed".to_owned();
        put("replication", State::Warn, found, None, "kafka-reassign-partitions.sh with three replicas each");
    }
    if strays.0 > 0 {
        let found = format!(
            "{} of the last {} records with a key lie elsewhere than their key leads among {partitions} partitions: their \
             number was changed, and keys have no order across that",
            strays.0, strays.1
        );
        let remedy = "nothing can be undone; tell consumers, and keep the number of partitions from now on";
        put("partitions", State::Warn, found, None, remedy);
    }
    let Some(configuration) = configuration else { return troubles };
    match configuration.min_insync_replicas {
        Some(least) if least > *replicas => {
            let found = format!(
                "min.insync.replicas is {least} and there are {replicas} replicas: nothing is ever confirmed"
            );
            let value = (*replicas - 1).max(1).to_string();
            put("in-sync replicas", State::Fail, found, Some(("min.insync.replicas", value)), "");
        }
        Some(1) if *replicas >= 3 => {
            let found =
                "min.insync.replicas is 1: a record may be confirmed that one broker alone has".to_owned();
            put("in-sync replicas", State::Warn, found, Some(("min.insync.replicas", "2".to_owned())), "");
        }
        _ => {}
    }
    let largest = facts.map_or(0, |facts| facts.largest);
    let limit = configuration.max_message_bytes.map(|limit| limit as u64);
    if let Some(limit) = limit.filter(|limit| largest > 0 && largest + FRAMING > *limit) {
        let bytes = largest + FRAMING;
        let found = format!("max.message.bytes is {limit}, and a record of {bytes} bytes waits");
        let found = if compresses { found + ", uncompressed" } else { found };
        let state = if compresses { State::Warn } else { State::Fail };
        let value = bytes.next_power_of_two().max(1 << 20).to_string();
        put("record size", state, found, Some(("max.message.bytes", value)), "");
    }
    let lacks_keys = facts.is_some_and(|facts| facts.without_key);
    if configuration.compacts == Some(true) && lacks_keys {
        let found =
            "cleanup.policy compacts it, and a row without key waits, which it does not take".to_owned();
        put("keys", State::Fail, found, Some(("cleanup.policy", "delete".to_owned())), "");
    }
    if configuration.deletes != Some(false) {
        match (configuration.retention_ms, configuration.retention_bytes) {
            (Some(ms), _) if (0..RETENTION_MS).contains(&ms) => {
                let kept = humantime::format_duration(std::time::Duration::from_millis(ms.unsigned_abs()));
                let found =
                    format!("retention.ms is {ms} ({kept}): consumers that are away for longer miss records");
                put(
                    "retention",
                    State::Warn,
                    found,
                    Some(("retention.ms", (7 * RETENTION_MS).to_string())),
                    "",
                );
            }
            (_, Some(bytes)) if (0..RETENTION_BYTES).contains(&bytes) => {
                let found = format!(
                    "retention.bytes is {bytes}: a busy partition loses records before they are read"
                );
                put("retention", State::Warn, found, Some(("retention.bytes", "-1".to_owned())), "");
            }
            _ => {}
        }
    }
    if configuration.unclean_election == Some(true) {
        let found =
            "unclean.leader.election.enable is on: a replica that lacks confirmed records may become leader"
                .to_owned();
        put(
            "elections",
            State::Warn,
            found,
            Some(("unclean.leader.election.enable", "false".to_owned())),
            "",
        );
    }
    troubles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(replicas: i32, configuration: TopicConfiguration) -> Known {
        Known { partitions: 3, replicas, leaderless: 0, configuration: Some(configuration) }
    }

    #[track_caller]
    fn check(known: &Known, facts: Option<&TopicFacts>, compresses: bool, expected: &[(&str, State)]) {
        let found = judge(known, facts, compresses, (0, 0));
        let found: Vec<(&str, State)> = found.iter().map(|trouble| (trouble.check, trouble.state)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_setting_is_judged_on_its_own() {
        let plain = TopicConfiguration {
            max_message_bytes: Some(1_000_000),
            compacts: Some(false),
            deletes: Some(true),
            min_insync_replicas: Some(2),
            retention_ms: Some(7 * RETENTION_MS),
            retention_bytes: Some(-1),
            unclean_election: Some(false),
        };
        check(&known(3, plain), None, false, &[]);
        check(&known(3, TopicConfiguration::default()), None, false, &[]);
        let insync = |least| TopicConfiguration { min_insync_replicas: Some(least), ..plain };
        check(&known(3, insync(1)), None, false, &[("in-sync replicas", State::Warn)]);
        check(&known(3, insync(4)), None, false, &[("in-sync replicas", State::Fail)]);
        check(&known(2, insync(1)), None, false, &[]);
        check(&known(1, insync(1)), None, false, &[("replication", State::Warn)]);
        let short = TopicConfiguration { retention_ms: Some(1000), ..plain };
        check(&known(3, short), None, false, &[("retention", State::Warn)]);
        let state_only = TopicConfiguration { deletes: Some(false), compacts: Some(true), ..short };
        check(&known(3, state_only), None, false, &[]);
        let small = TopicConfiguration { retention_bytes: Some(1000), ..plain };
        check(&known(3, small), None, false, &[("retention", State::Warn)]);
        let unclean = TopicConfiguration { unclean_election: Some(true), ..plain };
        check(&known(3, unclean), None, false, &[("elections", State::Warn)]);
        let leaderless = Known { leaderless: 1, ..known(3, plain) };
        check(&leaderless, None, false, &[("leaders", State::Fail)]);

        let row = |largest, without_key| TopicFacts {
            topic: "orders".to_owned(),
            pending: true,
            cause: None,
            largest,
            without_key,
        };
        check(&known(3, plain), Some(&row(900_000, true)), false, &[]);
        check(&known(3, plain), Some(&row(1_000_000, false)), false, &[("record size", State::Fail)]);
        check(&known(3, plain), Some(&row(1_000_000, false)), true, &[("record size", State::Warn)]);
        check(&known(3, state_only), Some(&row(1, true)), false, &[("keys", State::Fail)]);
        assert_eq!(judge(&known(3, plain), None, false, (2, 9))[0].check, "partitions");
    }
}
