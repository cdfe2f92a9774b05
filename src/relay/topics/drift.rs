//! Settings of a topic that change behind the relay's back, and those that can lose what was confirmed.
//!
//! Owns what a topic was like when this leader saw it first. It looks at the answers that come anyway, about once a minute for
//! each topic in use, and changes nothing: the gauge and a line in the log are for people.

use crate::kafka::{TopicConfiguration, TopicSettings};
use crate::metrics::{Label, TopicMetrics, TopicSetting};

const SETTINGS: usize = TopicSetting::ALL.len();

/// What was seen of a topic.
#[derive(Debug, Default)]
pub(in crate::relay) struct Drift {
    /// As it was when it was seen first; `None` until the cluster tells.
    first: [Option<i64>; SETTINGS],
    /// What the gauges say.
    shown: [bool; SETTINGS],
}

impl Drift {
    /// Takes an answer of the cluster in.
    pub fn look(&mut self, topic: &str, settings: &TopicSettings, metrics: &TopicMetrics) {
        for &setting in TopicSetting::ALL {
            let at = setting.index();
            let Some(now) = value(setting, settings) else { continue };
            let first = *self.first[at].get_or_insert(now);
            let drifts = now != first || is_dangerous(setting, settings);
            if drifts == self.shown[at] {
                continue;
            }
            self.shown[at] = drifts;
            metrics.setting_drift(setting, drifts);
            let setting = setting.as_str();
            if drifts {
                tracing::warn!(
                    topic,
                    setting,
                    first,
                    now,
                    "a topic is not as it was, or can lose records; see outbox-relay check"
                );
            } else {
                tracing::info!(topic, setting, now, "a topic is again as it was");
            }
        }
    }
}

/// The setting as a number; `None` where this login may not read it.
fn value(setting: TopicSetting, settings: &TopicSettings) -> Option<i64> {
    let TopicConfiguration { compacts, deletes, .. } = settings.configuration;
    let configuration = &settings.configuration;
    match setting {
        TopicSetting::Partitions => Some(settings.partitions.into()),
        TopicSetting::Replicas => Some(settings.replicas.into()),
        TopicSetting::MinInsyncReplicas => configuration.min_insync_replicas.map(i64::from),
        TopicSetting::MaxMessageBytes => configuration.max_message_bytes.map(|bytes| bytes as i64),
        // 1 deletes, 2 compacts, 3 both.
        TopicSetting::CleanupPolicy => Some(i64::from(deletes?) + 2 * i64::from(compacts?)),
        TopicSetting::RetentionMs => configuration.retention_ms,
        TopicSetting::RetentionBytes => configuration.retention_bytes,
        TopicSetting::UncleanElection => configuration.unclean_election.map(i64::from),
    }
}

/// Whatever it was at first.
fn is_dangerous(setting: TopicSetting, settings: &TopicSettings) -> bool {
    match setting {
        TopicSetting::UncleanElection => settings.configuration.unclean_election == Some(true),
        TopicSetting::MinInsyncReplicas => {
            settings.configuration.min_insync_replicas.is_some_and(|least| least > settings.replicas)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn settings(partitions: i32, configuration: TopicConfiguration) -> TopicSettings {
        TopicSettings { partitions, max_message_bytes: None, compacted: false, replicas: 3, configuration }
    }

    #[track_caller]
    fn check(metrics: &Metrics, drifting: &[&str]) {
        let text = metrics.gather_text();
        let lines =
            text.lines().filter_map(|line| line.strip_prefix("outbox_topic_setting_drift{setting=\""));
        let found: Vec<&str> =
            lines.filter_map(|line| line.strip_suffix(",topic=\"orders\"} 1")?.strip_suffix('"')).collect();
        assert_eq!(found, drifting);
    }

    #[test]
    fn what_differs_from_the_first_sight_drifts_until_it_is_back() {
        let metrics = Metrics::new();
        let of_topic = metrics.topic("orders");
        let mut drift = Drift::default();
        let plain = TopicConfiguration {
            retention_ms: Some(1000),
            min_insync_replicas: Some(2),
            ..TopicConfiguration::default()
        };
        // Not to be read at first: what comes later is the first sight of it.
        drift.look("orders", &settings(3, TopicConfiguration::default()), &of_topic);
        drift.look("orders", &settings(3, plain), &of_topic);
        check(&metrics, &[]);
        drift.look("orders", &settings(4, TopicConfiguration { retention_ms: Some(1), ..plain }), &of_topic);
        check(&metrics, &["partitions", "retention_ms"]);
        // What cannot be read any more is what it was.
        drift.look("orders", &settings(3, TopicConfiguration::default()), &of_topic);
        check(&metrics, &["retention_ms"]);
        drift.look("orders", &settings(3, plain), &of_topic);
        check(&metrics, &[]);
    }

    #[test]
    fn some_settings_are_dangerous_from_the_first_sight_on() {
        let metrics = Metrics::new();
        let dangerous = TopicConfiguration {
            unclean_election: Some(true),
            min_insync_replicas: Some(4),
            ..TopicConfiguration::default()
        };
        Drift::default().look("orders", &settings(3, dangerous), &metrics.topic("orders"));
        check(&metrics, &["min_insync_replicas", "unclean_leader_election"]);
        metrics.end_term();
        check(&metrics, &[]);
    }
}
