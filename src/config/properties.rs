//! Which librdkafka properties carry a promise, and what each would break; which of them hold secrets.
//! Everything not listed here is the user's. librdkafka itself refuses names that it does not know.

use std::collections::BTreeMap;

use super::Secret;

/// Properties (with their aliases) that the relay sets itself, and the promise that another value would break.
struct Protected {
    names: &'static [&'static str],
    breaks: &'static str,
}

const PROTECTED: &[Protected] = &[
    Protected {
        names: &["acks", "request.required.acks"],
        breaks: "nothing committed is lost: a record counts as published only when all in-sync replicas have it",
    },
    Protected {
        names: &["enable.idempotence"],
        breaks: "a run without faults has no duplicates, and order per key survives librdkafka's own retries",
    },
    Protected {
        names: &["enable.gapless.guarantee"],
        breaks: "order per key: when the broker rejects a record, nothing of its key may pass it",
    },
    Protected {
        names: &["message.timeout.ms", "delivery.timeout.ms"],
        breaks: "a broker outage costs latency, never attempts: a record that times out may have been written, and later ones pass it",
    },
    Protected {
        names: &["retries", "message.send.max.retries"],
        breaks: "a broker outage costs latency, never attempts: a record given up early is overtaken by its key",
    },
    Protected {
        names: &["max.in.flight", "max.in.flight.requests.per.connection"],
        breaks: "order per key: brokers deduplicate and order at most five requests in flight",
    },
    Protected {
        names: &["queuing.strategy"],
        breaks: "order per key: librdkafka must retry in the order in which rows were handed over",
    },
    Protected {
        names: &["partitioner"],
        breaks: "order per key: a key stays on the partition where Java producers and Debezium put it",
    },
    Protected {
        names: &["allow.auto.create.topics"],
        breaks: "a misspelt topic is reported instead of becoming a topic with default settings",
    },
    Protected {
        names: &["transactional.id"],
        breaks: "a confirm is final: records of an open transaction are invisible to consumers and may be undone",
    },
    Protected {
        names: &["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
        breaks: "the window is bounded by relay.window_rows and relay.window_bytes, and librdkafka's queue holds all of it",
    },
    Protected {
        names: &[
            "reconnect.backoff.ms",
            "reconnect.backoff.max.ms",
            "retry.backoff.ms",
            "retry.backoff.max.ms",
        ],
        breaks: "the relay is back within seconds after a broker outage: its pace is fixed; [retry] is for rows",
    },
    Protected {
        names: &["delivery.report.only.error"],
        breaks: "every published row has a receipt: confirms must be reported, too",
    },
    Protected {
        names: &["statistics.interval.ms"],
        breaks: "a producer is replaced by one that is warm, which its statistics tell",
    },
    Protected {
        names: &["log.queue"],
        breaks: "librdkafka's log lines arrive in the relay's own log, in its format",
    },
    Protected {
        names: &["test.mock.num.brokers"],
        breaks: "nothing committed is lost: a mock cluster lives in memory",
    },
];

/// Properties that have a key of their own, so that there is one place for each setting.
const OWN_KEY: &[(&str, &str)] =
    &[("bootstrap.servers", "kafka.brokers"), ("metadata.broker.list", "kafka.brokers")];

/// The problems of the given properties under the list `kafka.unsafe`; values are never part of the text.
pub(super) fn problems(properties: &BTreeMap<String, Secret>, accepted: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for name in properties.keys() {
        if let Some((_, key)) = OWN_KEY.iter().find(|(own, _)| own == name) {
            problems.push(format!("kafka.properties.{name}: set {key} instead"));
        } else if let Some(promise) = promise(name)
            && !accepted.contains(name)
        {
            problems.push(format!(
                "kafka.properties.{name}: would break a promise ({promise}); remove it, or accept that by naming it in kafka.unsafe"
            ));
        }
    }
    for name in accepted {
        if promise(name).is_none() {
            problems.push(format!("kafka.unsafe: {name} carries no promise; it needs no permission"));
        } else if !properties.contains_key(name) {
            problems.push(format!("kafka.unsafe: {name} is not set in [kafka.properties]; remove it here"));
        }
    }
    problems
}

/// The promise that the property carries.
fn promise(name: &str) -> Option<&'static str> {
    PROTECTED.iter().find(|protected| protected.names.contains(&name)).map(|protected| protected.breaks)
}

/// Whether the property's value is hidden in `config show`; unknown names that sound like a secret are.
pub(super) fn is_secret(name: &str) -> bool {
    const MARKS: [&str; 8] =
        ["password", "passphrase", "secret", "token", "credential", "key.pem", "private.key", "config"];
    MARKS.iter().any(|mark| name.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(set: &[&str], accepted: &[&str], expected: &[&str]) {
        let set = set.iter().map(|name| ((*name).to_owned(), Secret::from("hunter2"))).collect();
        let accepted: Vec<String> = accepted.iter().map(|name| (*name).to_owned()).collect();
        let found = problems(&set, &accepted);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (problem, part) in found.iter().zip(expected) {
            assert!(problem.contains(part), "{problem} should contain {part}");
            assert!(!problem.contains("hunter2"), "{problem} shows a value");
        }
    }

    #[test]
    fn properties_that_carry_a_promise_need_permission() {
        check(&["compression.type", "security.protocol", "linger.ms", "batch.num.messages"], &[], &[]);
        check(&["acks"], &[], &["nothing committed is lost"]);
        check(&["request.required.acks"], &[], &["kafka.unsafe"]);
        check(&["acks"], &["acks"], &[]);
        check(&["acks"], &["request.required.acks"], &["kafka.properties.acks", "is not set"]);
        check(&["linger.ms"], &["linger.ms"], &["carries no promise"]);
        check(&["bootstrap.servers"], &["bootstrap.servers"], &["set kafka.brokers", "carries no promise"]);
        check(
            &["retries", "partitioner"],
            &[],
            &["kafka.properties.partitioner", "kafka.properties.retries"],
        );
    }

    #[test]
    fn secret_properties_are_recognised() {
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.jaas.config", "sasl.oauthbearer.config", "ssl.keystore.password"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["sasl.username", "ssl.ca.location", "ssl.key.location", "security.protocol"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
