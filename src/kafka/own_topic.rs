//! A topic that the demo makes for itself and takes away again.
//!
//! It must not touch a topic that it did not make: a name that is taken is an error.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{KafkaError, KafkaSettings, classify};

/// How long the cluster may take to make or delete a topic.
const REQUEST: Duration = Duration::from_secs(15);
/// The cluster's own default, whatever it is.
const BROKERS_CHOICE: i32 = -1;

/// A topic of our own. Dropping it leaves the topic; [`OwnTopic::delete`] takes it away.
pub struct OwnTopic {
    admin: AdminClient<DefaultClientContext>,
    name: String,
}

impl std::fmt::Debug for OwnTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnTopic").field("name", &self.name).finish_non_exhaustive()
    }
}

impl OwnTopic {
    /// Makes the topic with the cluster's default replication.
    pub async fn create(
        settings: &KafkaSettings,
        name: &str,
        partitions: i32,
    ) -> Result<OwnTopic, KafkaError> {
        const WHAT: &str = "create a topic";
        let admin: AdminClient<DefaultClientContext> =
            settings.client().create().map_err(|error| classify::request_error(WHAT, &error, None))?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(BROKERS_CHOICE));
        let answer = admin.create_topics(&[topic], &options()).await;
        check(WHAT, answer.map_err(|error| classify::request_error(WHAT, &error, None))?)?;
        Ok(OwnTopic { admin, name: name.to_owned() })
    }

    /// Deletes it.
    pub async fn delete(self) -> Result<(), KafkaError> {
        const WHAT: &str = "delete the topic";
        let answer = self.admin.delete_topics(&[&self.name], &options()).await;
        check(WHAT, answer.map_err(|error| classify::request_error(WHAT, &error, None))?)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

fn check(what: &'static str, answers: Vec<Result<String, (String, Code)>>) -> Result<(), KafkaError> {
    let refused = answers.into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |(topic, code)| {
        Err(KafkaError { what, text: format!("{topic}: {code}"), class: classify::class(code) })
    })
}
