//! What happens to topics and rows: limits, permissions, records and topics that go, floods.

use super::{Scenario, hold};
use crate::checker::Expectation;
use crate::scene::Scene;

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("burst", "writers stop pausing: many times the normal rate", |scene| {
            Box::pin(burst(scene))
        }),
        Scenario::new(
            "limit_lowered",
            "max.message.bytes is lowered below most batches, then below some rows",
            |scene| Box::pin(limit_lowered(scene)),
        ),
        Scenario {
            restricted: true,
            ..Scenario::new(
                "permission_revoked",
                "a topic is forbidden in mid-stream, and allowed again",
                |scene| Box::pin(permission_revoked(scene)),
            )
        },
        Scenario {
            relay_settings: &[
                ("relay.max_row_bytes", "1024"),
                ("retry.attempts", "2"),
                ("retry.dead_per_minute", "100000"),
            ],
            ..Scenario::new("dead_letter_flood", "a quarter of all rows is too large and dies", |scene| {
                Box::pin(flood(scene))
            })
        },
        Scenario {
            relay_settings: &[
                ("retention.published", "2s"),
                ("retention.receipts", "1d"),
                ("retention.every", "200ms"),
            ],
            ..Scenario::new(
                "slots_emptied",
                "rows stay for two seconds, their slots are emptied under load, and a topic stands still for longer",
                |scene| Box::pin(slots_emptied(scene)),
            )
        },
        Scenario {
            expectation: Expectation::Removed,
            ..Scenario::new("records_removed", "somebody removes confirmed records from a topic", |scene| {
                Box::pin(records_removed(scene))
            })
        },
        Scenario {
            expectation: Expectation::Removed,
            ..Scenario::new("topic_recreated", "a topic is deleted under load and made again", |scene| {
                Box::pin(topic_recreated(scene))
            })
        },
    ]
}

async fn burst(scene: &mut Scene<'_>) {
    scene.writers.burst(true);
    hold(3.0).await;
    scene.writers.burst(false);
}

async fn flood(scene: &mut Scene<'_>) {
    scene.writers.large(2000);
    scene.more(2000).await;
    scene.writers.large(0);
}

async fn limit_lowered(scene: &mut Scene<'_>) {
    let base = [("min.insync.replicas", "2"), ("message.timestamp.type", "LogAppendTime")];
    for limit in ["3000", "500"] {
        let configs = [base[0], base[1], ("max.message.bytes", limit)];
        scene.cluster.kafka.alter_topic(&scene.main, &configs).await;
        scene.more(500).await;
    }
    scene.cluster.kafka.alter_topic(&scene.main, &base).await;
}

async fn slots_emptied(scene: &mut Scene<'_>) {
    // One has been.
    scene.until("select min(id) > 1 from outbox.message").await;
    let topic = scene.side.clone();
    scene.pause(&topic).await;
    hold(5.0).await;
    scene.resume(&topic).await;
    scene.more(500).await;
}

async fn permission_revoked(scene: &mut Scene<'_>) {
    scene.cluster.set_forbidden(&scene.side, true).await;
    scene.more(500).await;
    scene.cluster.set_forbidden(&scene.side, false).await;
}

/// Between two reads nothing is written to the topic: it is paused.
async fn records_removed(scene: &mut Scene<'_>) {
    let topic = scene.side.clone();
    scene.pause(&topic).await;
    scene.note_removed(&topic).await;
    scene.cluster.remove_records(&topic).await;
    scene.resume(&topic).await;
}

async fn topic_recreated(scene: &mut Scene<'_>) {
    let topic = scene.side.clone();
    scene.pause(&topic).await;
    scene.note_removed(&topic).await;
    scene.cluster.kafka.delete_topic(&topic).await;
    scene.resume(&topic).await;
    scene.more(300).await;
    scene.make_side().await;
}
