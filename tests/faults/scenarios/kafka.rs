//! What happens to brokers and to the connections with them.

use std::time::Duration;

use super::{Scenario, hold};
use crate::proxy::Mode;
use crate::scene::Scene;
use crate::writers::{CALM, PAUSE};

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("broker_killed", "one of three brokers is killed and comes back", |scene| {
            Box::pin(one_killed(scene))
        }),
        Scenario::new(
            "broker_frozen",
            "one of three brokers is frozen until others lead, and goes on",
            |scene| Box::pin(one_frozen(scene)),
        ),
        Scenario::new("brokers_rolled", "all brokers restart, one after the other", |scene| {
            Box::pin(rolled(scene))
        }),
        Scenario::new("brokers_down", "all brokers are killed and come back", |scene| {
            Box::pin(all_down(scene))
        }),
        Scenario {
            lonely_side: true,
            ..Scenario::new(
                "lonely_replica_gone",
                "the only replica of one topic is gone for a while",
                |scene| Box::pin(lonely(scene)),
            )
        },
        Scenario::new("responses_swallowed", "Kafka takes everything, its answers get lost", |scene| {
            Box::pin(mode_for(scene, Mode::SwallowResponses, 2.0))
        }),
        Scenario::new("responses_cut", "connections end when Kafka answers, again and again", |scene| {
            Box::pin(responses_cut(scene))
        }),
        Scenario::new("kafka_slow", "300 ms more to and from Kafka", |scene| {
            Box::pin(mode_for(scene, Mode::Delay(Duration::from_millis(300)), 4.0))
        }),
        Scenario::new("kafka_throttled_line", "20 kB/s to and from Kafka", |scene| {
            Box::pin(mode_for(scene, Mode::Throttle(20_000), 4.0))
        }),
        Scenario::new("kafka_deaf", "nobody reads what is sent to Kafka", |scene| {
            Box::pin(mode_for(scene, Mode::StopReading, 4.0))
        }),
        Scenario::new(
            "kafka_half_open",
            "Kafka's side of the connections is gone, ours does not know",
            |scene| Box::pin(mode_for(scene, Mode::HalfOpen, 4.0)),
        ),
        Scenario::new("kafka_reset", "connections to Kafka are reset, again and again", |scene| {
            Box::pin(reset(scene))
        }),
        Scenario::new(
            "kafka_swizzled",
            "a random part of the connections to Kafka stops, one proxy after the other",
            |scene| Box::pin(swizzled(scene)),
        ),
        Scenario {
            charges_nobody: true,
            // A broker that holds a client back leaves its next request unread for longer than three seconds; a request that is
            // given up meanwhile is read later all the same, behind rows that came after it over another connection.
            relay_settings: &[("kafka.stall_after", "60s")],
            ..Scenario::new("quota", "a quota holds the relays' producers back, and is lifted", |scene| {
                Box::pin(quota(scene))
            })
        },
    ]
}

async fn one_killed(scene: &mut Scene<'_>) {
    scene.cluster.kill_broker(2).await;
    hold(3.0).await;
    scene.writers.every(CALM);
    scene.cluster.start_broker(2).await;
    scene.writers.every(PAUSE);
    scene.more(200).await;
}

async fn one_frozen(scene: &mut Scene<'_>) {
    let broker = scene.cluster.broker(3);
    assert!(broker.freeze(), "it runs");
    hold(4.0).await;
    assert!(broker.thaw(), "it runs");
    scene.more(200).await;
}

async fn rolled(scene: &mut Scene<'_>) {
    for node in [2, 3, 1] {
        scene.writers.every(PAUSE);
        scene.cluster.stop_broker(node).await;
        scene.more(100).await;
        scene.writers.every(CALM);
        scene.cluster.start_broker(node).await;
        scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
    }
    scene.writers.every(PAUSE);
}

async fn all_down(scene: &mut Scene<'_>) {
    for node in 1..=3 {
        scene.cluster.kill_broker(node).await;
    }
    hold(2.0).await;
    scene.writers.every(CALM);
    scene.cluster.start_all_brokers().await;
    scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
    scene.writers.every(PAUSE);
}

async fn lonely(scene: &mut Scene<'_>) {
    scene.cluster.kill_broker(3).await;
    hold(5.0).await;
    scene.writers.every(CALM);
    scene.cluster.start_broker(3).await;
    scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
    scene.writers.every(PAUSE);
}

async fn mode_for(scene: &mut Scene<'_>, mode: Mode, seconds: f64) {
    scene.cluster.line_to_kafka(mode).await;
    hold(seconds).await;
    // Connections of such a kind do not heal: they end, and new ones are well.
    scene.cluster.line_to_kafka(Mode::Reset).await;
    // Ends of connections come a moment later.
    hold(0.1).await;
    scene.cluster.line_to_kafka(Mode::Pass).await;
}

async fn responses_cut(scene: &mut Scene<'_>) {
    for _ in 0..8 {
        scene.cluster.line_to_kafka(Mode::CutOnResponse).await;
        hold(0.15).await;
        scene.cluster.line_to_kafka(Mode::Pass).await;
        hold(0.25).await;
    }
}

async fn reset(scene: &mut Scene<'_>) {
    for _ in 0..8 {
        scene.cluster.line_to_kafka(Mode::Reset).await;
        scene.cluster.line_to_kafka(Mode::Pass).await;
        hold(0.4).await;
    }
}

async fn quota(scene: &mut Scene<'_>) {
    // Setting it takes a second and a half, so does lifting it.
    scene.cluster.set_quota(&scene.database, Some(20_000)).await;
    scene.more(1500).await;
    scene.cluster.set_quota(&scene.database, None).await;
}

async fn swizzled(scene: &mut Scene<'_>) {
    for proxy in &scene.cluster.kafka_proxies {
        proxy.set_some(Mode::StopReading, 0.5, &mut scene.random);
        hold(0.7).await;
    }
    for proxy in scene.cluster.kafka_proxies.iter().rev() {
        proxy.set(Mode::Pass).await;
        hold(0.5).await;
    }
}
