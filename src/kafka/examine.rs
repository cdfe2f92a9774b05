//! What `check` asks of Kafka: whether it can be reached and used, and if not, why not.
//!
//! Owns the clients that ask and the sorting of refused connections; whether an answer is good or bad is `ops::check`. It never
//! creates a topic and never leaves a record.
//!
//! **The right to write** is found out without writing. The probe demands `acks=2`, which no broker grants: Apache Kafka looks at
//! the rights on the topic first and at the acks second, and appends nothing in either case. The answer tells which it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::OwnedHeaders;

use super::producer::Outgoing;
use super::topics::blocking;
use super::{Inbox, KafkaError, KafkaSettings, NotTaken, Producer, TopicConfiguration};
use crate::task;

/// How often is looked whether the client has heard why it cannot connect.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A host may have several addresses, which are tried one after the other: what the first one says is not the last word.
const OTHER_ADDRESSES: Duration = Duration::from_secs(1);

/// One round of polling: how soon a client ends.
const ROUND: Duration = Duration::from_millis(50);

/// How long the end of a client is waited for.
const END: Duration = Duration::from_secs(2);

/// A broker that does not answer costs a thread for so long. Whoever asks may give up before.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the probe would say if it could arrive.
const PROBE: &[u8] = b"outbox-relay check: a record that no broker takes";

/// Why no broker can be used, with librdkafka's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBroker {
    /// Nobody knows a host's name.
    UnknownHost(String),
    /// Nobody listens there, or nobody answers.
    Unreachable(String),
    /// It hangs up at once: it speaks another `security.protocol`.
    Protocol(String),
    /// TLS: certificates, or none where some are wanted.
    Tls(String),
    /// It does not know our SASL mechanism.
    Mechanism(String),
    /// User or password.
    Login(String),
}

/// What a broker says of its cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its id.
    pub id: String,
    /// How many brokers are up.
    pub brokers: usize,
}

/// What metadata says of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    There {
        /// Number of partitions.
        partitions: i32,
        /// Replicas of the partition that has the fewest.
        replicas: i32,
        /// Partitions without a leader.
        leaderless: i32,
    },
    /// It is not there.
    Missing,
    /// This login may not even see it.
    Hidden,
}

/// Whether this login may write to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writing {
    /// It may.
    Allowed,
    /// It may not.
    Forbidden,
    /// The cluster is none of Apache Kafka and took the probe, as a record at this partition and offset.
    Taken(i32, i64),
    /// It did not come to that.
    Unknown(String),
}

/// Asks for the time of one look.
pub struct Examiner {
    settings: KafkaSettings,
    client: Arc<Producer>,
}

impl std::fmt::Debug for Examiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Examiner").finish_non_exhaustive()
    }
}

impl Examiner {
    /// Starts a client that is a producer as the relay's main one is. Does not wait for a connection.
    pub fn start(settings: KafkaSettings) -> Result<Examiner, KafkaError> {
        let client = Producer::start_polled(&settings.examiner(), &Arc::default(), 0, ROUND)?;
        Ok(Examiner { settings, client: Arc::new(client) })
    }

    /// Connects. Fails as soon as every broker has refused; waits where none answers.
    pub async fn cluster(&self) -> Result<Cluster, NoBroker> {
        const WHAT: &str = "read the kafka cluster id";
        let client = Arc::clone(&self.client);
        let asked = async {
            // Before that the question could not even be sent, and would hold a thread.
            while !self.client.is_connected() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            blocking(WHAT, move || {
                let metadata = client.metadata_within(WHAT, None, PATIENCE)?;
                let text = "no broker named it".to_owned();
                let id = client.cluster_id().ok_or(KafkaError { what: WHAT, text, class: "unreachable" })?;
                Ok(Cluster { id, brokers: metadata.brokers().len() })
            })
            .await
        };
        let refused = async {
            while !self.client.weather().all_down {
                if self.client.weather().refused_login {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            tokio::time::sleep(OTHER_ADDRESSES).await;
        };
        let why_not = |text: String| self.trouble().unwrap_or(NoBroker::Unreachable(text));
        tokio::select! {
            answer = asked => answer.map_err(|error| why_not(error.text)),
            () = refused => Err(why_not("all brokers are down".to_owned())),
        }
    }

    /// What the client has heard so far about why it cannot connect.
    pub fn trouble(&self) -> Option<NoBroker> {
        let (code, text) = self.client.trouble()?;
        Some(sort(code, text))
    }

    /// Whether brokers give the client a producer id, without which it cannot be idempotent. Waits for it.
    pub async fn idempotence(&self) -> Result<(), String> {
        loop {
            if self.client.is_warm() {
                return Ok(());
            }
            if self.client.is_dead() {
                let said = self.client.trouble().map(|(_, text)| text);
                return Err(said.unwrap_or_else(|| "brokers refuse a producer id".to_owned()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks for each topic, never creating one.
    pub async fn standings(&self, topics: Vec<Arc<str>>) -> Result<Vec<Standing>, KafkaError> {
        const WHAT: &str = "read a topic's metadata";
        let client = Arc::clone(&self.client);
        blocking(WHAT, move || topics.iter().map(|topic| standing(&client, WHAT, topic)).collect()).await
    }

    /// The settings of each topic; an error is the broker's word on why they cannot be read.
    pub async fn configurations(
        &self,
        topics: &[Arc<str>],
    ) -> Result<HashMap<String, Result<TopicConfiguration, String>>, String> {
        let admin: AdminClient<DefaultClientContext> =
            self.settings.client().create().map_err(|error| error.to_string())?;
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let wanted: Vec<ResourceSpecifier<'_>> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let answers = admin.describe_configs(&wanted, &options).await.map_err(|error| error.to_string())?;
        let mut found = HashMap::new();
        // An error does not name its topic; the answers come in the order of the question.
        for (topic, answer) in topics.iter().zip(answers) {
            match answer {
                Ok(resource) => {
                    let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
                    let configuration = TopicConfiguration::of(&resource);
                    // The binding does not pass on that it is forbidden; there is nothing in the answer then.
                    let is_told = configuration != TopicConfiguration::default();
                    let told = is_told.then_some(configuration).ok_or("this login may not".to_owned());
                    found.insert(name.clone(), told);
                }
                Err(code) => _ = found.insert(topic.to_string(), Err(code.to_string())),
            }
        }
        Ok(found)
    }

    /// Whether this login may write to each of these topics, which are there.
    pub async fn rights(&self, topics: &[Arc<str>]) -> Result<Vec<Writing>, KafkaError> {
        let inbox: Arc<Inbox> = Arc::default();
        let producer = Producer::start_polled(&self.settings.probe(), &inbox, 1, ROUND)?;
        let unheard = || Writing::Unknown("no broker answered the probe".to_owned());
        let mut found: Vec<Writing> = topics.iter().map(|_| unheard()).collect();
        let mut open = 0;
        for (at, topic) in topics.iter().enumerate() {
            let probe = Outgoing {
                topic,
                partition: None,
                key: Some(PROBE),
                payload: Some(PROBE),
                timestamp_ms: 0,
                headers: OwnedHeaders::new(),
            };
            match producer.send(probe, at) {
                Ok(()) => open += 1,
                Err(NotTaken::Refused(refusal)) if refusal.class == "authorization" => {
                    found[at] = Writing::Forbidden;
                }
                Err(NotTaken::Refused(refusal)) => found[at] = Writing::Unknown(refusal.text),
                Err(NotTaken::Full | NotTaken::Dead) => found[at] = unheard(),
            }
        }
        let granted = Code::InvalidRequiredAcks.to_string();
        let mut reports = Vec::new();
        while open > 0 {
            inbox.arrived().await;
            inbox.take(&mut reports);
            open -= reports.len();
            for report in reports.drain(..) {
                found[report.opaque] = match report.result {
                    Ok(receipt) => Writing::Taken(receipt.partition, receipt.offset.unwrap_or(-1)),
                    Err(refusal) if refusal.class == "authorization" => Writing::Forbidden,
                    Err(refusal) if refusal.text == granted => Writing::Allowed,
                    Err(refusal) => Writing::Unknown(refusal.text),
                };
            }
        }
        end(producer).await;
        Ok(found)
    }

    /// Ends its client; a question that is still open keeps it.
    pub async fn end(self) {
        if let Some(client) = Arc::into_inner(self.client) {
            end(client).await;
        }
    }
}

async fn end(producer: Producer) {
    let ended = tokio::task::spawn_blocking(|| task::within("end kafka client", || producer.end()));
    let _ = tokio::time::timeout(END, ended).await;
}

fn standing(client: &Producer, what: &'static str, topic: &str) -> Result<Standing, KafkaError> {
    let metadata = client.metadata_within(what, Some(topic), PATIENCE)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Standing::Missing);
    };
    match found.error().map(Code::from) {
        Some(Code::UnknownTopicOrPartition | Code::InvalidTopic) => Ok(Standing::Missing),
        Some(Code::TopicAuthorizationFailed) => Ok(Standing::Hidden),
        None | Some(Code::LeaderNotAvailable) if !found.partitions().is_empty() => Ok(Standing::There {
            partitions: found.partitions().len() as i32,
            replicas: found.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0) as i32,
            leaderless: found.partitions().iter().filter(|p| p.leader() < 0).count() as i32,
        }),
        None => Ok(Standing::Missing),
        Some(code) => {
            Err(KafkaError { what, text: format!("{topic}: {code}"), class: super::classify::class(code) })
        }
    }
}

/// What kind of refusal it is. librdkafka has one code for most of them, its words tell them apart.
fn sort(code: Code, text: String) -> NoBroker {
    match code {
        Code::Resolve => NoBroker::UnknownHost(text),
        Code::SSL => NoBroker::Tls(text),
        Code::UnsupportedSASLMechanism => NoBroker::Mechanism(text),
        Code::Authentication | Code::SaslAuthenticationFailed
            if text.contains("mechanism handshake failed") =>
        {
            NoBroker::Mechanism(text)
        }
        Code::Authentication | Code::SaslAuthenticationFailed => NoBroker::Login(text),
        _ if text.contains("SSL handshake") => NoBroker::Tls(text),
        _ if text.contains("Disconnected") => NoBroker::Protocol(text),
        _ => NoBroker::Unreachable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let text = |text: &str| text.to_owned();
        let refused = text("b:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused");
        assert_eq!(sort(Code::BrokerTransportFailure, refused.clone()), NoBroker::Unreachable(refused));
        let hangs_up =
            text("b:9092/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN");
        assert_eq!(sort(Code::BrokerTransportFailure, hangs_up.clone()), NoBroker::Protocol(hangs_up));
        let handshake =
            text("ssl://b:9092/bootstrap: SSL handshake failed: connecting to a PLAINTEXT listener?");
        assert_eq!(sort(Code::BrokerTransportFailure, handshake.clone()), NoBroker::Tls(handshake));
        let mechanism = text("SASL SCRAM-SHA-256 mechanism handshake failed: unsupported");
        assert_eq!(sort(Code::Authentication, mechanism.clone()), NoBroker::Mechanism(mechanism));
        let password = text("SASL authentication error: Authentication failed");
        assert_eq!(sort(Code::Authentication, password.clone()), NoBroker::Login(password));
    }
}
