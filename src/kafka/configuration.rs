//! The settings of a topic that decide what it takes and how long it keeps it, as the cluster tells them.

use rdkafka::admin::ConfigResource;

/// Settings of a topic. What this login may not read, or the cluster does not know, is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicConfiguration {
    /// `max.message.bytes`.
    pub max_message_bytes: Option<usize>,
    /// `cleanup.policy` contains `compact`.
    pub compacts: Option<bool>,
    /// `cleanup.policy` contains `delete`.
    pub deletes: Option<bool>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: Option<i32>,
    /// `retention.ms`; -1 keeps records for ever.
    pub retention_ms: Option<i64>,
    /// `retention.bytes` of a partition; -1 is no limit.
    pub retention_bytes: Option<i64>,
    /// `unclean.leader.election.enable`.
    pub unclean_election: Option<bool>,
}

impl TopicConfiguration {
    pub(super) fn of(resource: &ConfigResource) -> TopicConfiguration {
        let value = |name: &str| resource.get(name)?.value.as_deref();
        let policy = value("cleanup.policy");
        TopicConfiguration {
            max_message_bytes: value("max.message.bytes").and_then(|text| text.parse().ok()),
            compacts: policy.map(|policy| policy.contains("compact")),
            deletes: policy.map(|policy| policy.contains("delete")),
            min_insync_replicas: value("min.insync.replicas").and_then(|text| text.parse().ok()),
            retention_ms: value("retention.ms").and_then(|text| text.parse().ok()),
            retention_bytes: value("retention.bytes").and_then(|text| text.parse().ok()),
            unclean_election: value("unclean.leader.election.enable").and_then(|text| text.parse().ok()),
        }
    }
}
