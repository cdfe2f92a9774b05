//! Kafka: whether it can be reached and used by this login.

use super::Deadline;
use super::report::Group;
use crate::config::Config;
use crate::daemon;
use crate::kafka::examine::{Cluster, Examiner, NoBroker};

pub const CHECKS: &[&str] = &["reachable", "tls", "login", "idempotence"];

/// A cluster that answers.
pub struct Reached {
    /// Asks it.
    pub examiner: Examiner,
    /// Its id.
    pub cluster_id: String,
    /// How many brokers are up.
    pub brokers: usize,
}

/// Looks at it. What was reached can be asked about topics.
pub async fn look(config: &Config, deadline: &Deadline) -> (Group, Option<Reached>) {
    let mut group = Group::new("kafka", CHECKS);
    let examiner = match Examiner::start(daemon::kafka_settings(config)) {
        Ok(examiner) => examiner,
        Err(error) => {
            let remedy = "the properties in [kafka.properties] do not go together; correct them";
            group.fail("reachable", error.to_string(), remedy);
            return (group.finish(), None);
        }
    };
    let brokers = config.kafka.brokers.join(",");
    let cluster = match deadline.within_time(examiner.cluster()).await {
        Some(Ok(cluster)) => cluster,
        answer => {
            let refusal = answer.and_then(Result::err).or_else(|| examiner.trouble());
            refused(config, refusal, &brokers, &mut group, deadline);
            examiner.end().await;
            return (group.finish(), None);
        }
    };
    let Cluster { id, brokers: up } = cluster;
    let many = if up == 1 { "1 broker".to_owned() } else { format!("{up} brokers") };
    group.pass("reachable", format!("{brokers}, {many}"));
    let protocol = property(config, "security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
    encryption(&protocol, &config.kafka.brokers, &mut group);
    group.pass(
        "login",
        match property(config, "sasl.username") {
            Some(user) if protocol.starts_with("sasl") => format!("as {user}"),
            _ if protocol.starts_with("sasl") => "by SASL".to_owned(),
            _ => "none is asked for".to_owned(),
        },
    );
    idempotence(config, &examiner, &mut group, deadline).await;
    // Without a producer id nothing can be published, and the topics are worth a look all the same.
    (group.finish(), Some(Reached { examiner, cluster_id: id, brokers: up }))
}

/// A property of the user's.
pub fn property<'a>(config: &'a Config, name: &str) -> Option<&'a str> {
    config.kafka.properties.get(name).map(|value| value.expose())
}

fn encryption(protocol: &str, brokers: &[String], group: &mut Group) {
    let is_here = |broker: &String| {
        let host = broker.rsplit_once(':').map_or(broker.as_str(), |(host, _)| host);
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    if protocol.ends_with("ssl") {
        group.pass("tls", "the connections are encrypted");
    } else if brokers.iter().all(is_here) {
        group.pass("tls", "not used, and nothing leaves this machine");
    } else {
        group.warn(
            "tls",
            format!("security.protocol is {protocol}: what goes to the brokers can be read on the way"),
            "set security.protocol to ssl or sasl_ssl in [kafka.properties], and ssl.ca.location",
        );
    }
}

async fn idempotence(config: &Config, examiner: &Examiner, group: &mut Group, deadline: &Deadline) {
    let given_up = ["enable.idempotence", "acks", "request.required.acks"];
    if config.kafka.unsafe_properties.iter().any(|name| given_up.contains(&name.as_str())) {
        group.unknown("idempotence", "kafka.unsafe gives it up", None);
        return;
    }
    match deadline.within_time(examiner.idempotence()).await {
        Some(Ok(())) => group.pass("idempotence", "brokers give this login a producer id"),
        Some(Err(text)) => group.fail(
            "idempotence",
            format!("brokers give this login no producer id: {text}"),
            format!(
                "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:{} --operation IdempotentWrite --cluster",
                config.kafka.brokers.join(","),
                property(config, "sasl.username").unwrap_or("…")
            ),
        ),
        None => group.fail(
            "idempotence",
            format!("brokers give no producer id within {}", deadline.shown()),
            "see in the brokers' logs why InitProducerId is not answered; or give it more time with --timeout",
        ),
    }
}

fn refused(
    config: &Config,
    refusal: Option<NoBroker>,
    brokers: &str,
    group: &mut Group,
    deadline: &Deadline,
) {
    let answers = |group: &mut Group| group.pass("reachable", format!("{brokers} answers"));
    match refusal {
        None => group.fail(
            "reachable",
            format!("{brokers} does not answer within {}", deadline.shown()),
            "look for a firewall or a route that swallows packets between here and there; check kafka.brokers",
        ),
        Some(NoBroker::UnknownHost(text)) => group.fail(
            "reachable",
            format!("a host is not known: {text}"),
            "correct kafka.brokers or the hosts' entries in DNS; brokers also name each other by advertised.listeners",
        ),
        Some(NoBroker::Unreachable(text)) => group.fail(
            "reachable",
            format!("no broker can be reached: {text}"),
            "start the brokers, or correct kafka.brokers; brokers also name each other by advertised.listeners",
        ),
        Some(NoBroker::Protocol(text)) => {
            answers(group);
            group.fail(
                "tls",
                text,
                "make security.protocol in [kafka.properties] fit the listener: plaintext, ssl, sasl_plaintext or sasl_ssl",
            );
        }
        Some(NoBroker::Tls(text)) => {
            answers(group);
            group.fail(
                "tls",
                text,
                "check ssl.ca.location, and that the brokers' certificates name the hosts in kafka.brokers; or the listener speaks no TLS",
            );
        }
        Some(NoBroker::Mechanism(text)) => {
            answers(group);
            group.fail("login", text, "set sasl.mechanism in [kafka.properties] to one that the brokers have enabled");
        }
        Some(NoBroker::Login(text)) => {
            answers(group);
            let user = property(config, "sasl.username").unwrap_or("this login");
            group.fail(
                "login",
                format!("{user} is refused: {text}"),
                "correct sasl.username and sasl.password in [kafka.properties]",
            );
        }
    }
}
