//! Random faults at once, and relays that live through many of them.
//!
//! Only faults that can be undone: each begins, holds, and ends, whatever else is broken meanwhile.

use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{Scenario, hold};
use crate::checker::{Fault, Micros};
use crate::proxy::Mode;
use crate::scene::Scene;

/// Rows that may be marked in a second.
const A_SECOND: u64 = 3000;

/// As the environment says; in a soak a third of it at most.
fn duration(name: &str, otherwise: &str) -> Duration {
    let given = std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    humantime::parse_duration(&given).unwrap_or_else(|_| panic!("{name} is a duration such as {otherwise}"))
}

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("combined", "two or three random faults at once, three times", |scene| {
            Box::pin(combined(scene))
        }),
        Scenario {
            by_hand: true,
            watches: true,
            length: duration("OUTBOX_RELAY_FAULTS_LONG_RUN", "5m"),
            ..Scenario::new(
                "long_run",
                "the same relays live through random faults, one or two every 15 s",
                |scene| Box::pin(long_run(scene)),
            )
        },
        Scenario {
            by_hand: true,
            length: duration("OUTBOX_RELAY_FAULTS_OUTAGE", "20m"),
            charges_nobody: true,
            ..Scenario::new("outage_of_minutes", "all brokers are down for minutes", |scene| {
                Box::pin(outage_of_minutes(scene))
            })
        },
    ]
}

/// What can be broken and mended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    RelayKilled(usize),
    RelayFrozen(usize),
    Kafka(Mode),
    KafkaSwizzled,
    Postgres(Mode),
    BackendsTerminated,
    PostgresRestarted,
    PostgresCrashed,
    BrokerKilled(usize),
    BrokerFrozen(usize),
}

impl Trouble {
    /// Those that may come, each with what stands for its kind: two of a kind would undo each other.
    fn any(relays_die: bool, random: &mut impl Rng) -> (u8, Trouble) {
        let modes = [
            Mode::Delay(Duration::from_millis(100)),
            Mode::Throttle(30_000),
            Mode::StopReading,
            Mode::SwallowResponses,
            Mode::HalfOpen,
            Mode::CutOnResponse,
            Mode::Cut,
            Mode::Reset,
            Mode::Refuse,
        ];
        let mode = *modes.choose(random).expect("there are some");
        let (relay, broker) = (random.random_range(0..2), random.random_range(2..=3));
        match random.random_range(0..10) {
            0 if relays_die => (0, Trouble::RelayKilled(relay)),
            0 | 1 => (0, Trouble::RelayFrozen(relay)),
            2 | 3 => (1, Trouble::Kafka(mode)),
            4 => (1, Trouble::KafkaSwizzled),
            5 => (2, Trouble::Postgres(mode)),
            6 => (3, Trouble::BackendsTerminated),
            7 => (3, if random.random() { Trouble::PostgresRestarted } else { Trouble::PostgresCrashed }),
            8 => (4, Trouble::BrokerKilled(broker)),
            _ => (4, Trouble::BrokerFrozen(broker)),
        }
    }

    /// So many of different kinds.
    fn some(number: usize, relays_die: bool, random: &mut impl Rng) -> Vec<Trouble> {
        let mut chosen: Vec<(u8, Trouble)> = Vec::new();
        while chosen.len() < number {
            let (kind, trouble) = Trouble::any(relays_die, random);
            if chosen.iter().all(|(other, _)| *other != kind) {
                chosen.push((kind, trouble));
            }
        }
        chosen.into_iter().map(|(_, trouble)| trouble).collect()
    }

    async fn begins(self, scene: &mut Scene<'_>) {
        match self {
            Trouble::RelayKilled(relay) => scene.kill_relay(relay).await,
            Trouble::RelayFrozen(relay) => scene.relays[relay].stop(),
            Trouble::Kafka(mode) => scene.cluster.line_to_kafka(mode).await,
            Trouble::KafkaSwizzled => {
                for proxy in &scene.cluster.kafka_proxies {
                    proxy.set_some(Mode::StopReading, 0.5, &mut scene.random);
                }
            }
            Trouble::Postgres(mode) => scene.line_to_postgres(mode).await,
            Trouble::BackendsTerminated => {
                let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                            where datname = current_database() and application_name like 'outbox-relay%'";
                scene.execute(sql).await;
            }
            Trouble::PostgresRestarted => scene.postgres_stops(true).await,
            Trouble::PostgresCrashed => scene.postgres_stops(false).await,
            Trouble::BrokerKilled(broker) => scene.cluster.kill_broker(broker).await,
            Trouble::BrokerFrozen(broker) => assert!(scene.cluster.broker(broker).freeze(), "it runs"),
        }
    }

    async fn ends(self, scene: &mut Scene<'_>) {
        match self {
            Trouble::RelayKilled(relay) => _ = scene.start_relay(relay, &[]).await,
            Trouble::RelayFrozen(relay) => scene.relays[relay].cont(),
            Trouble::Kafka(_) | Trouble::KafkaSwizzled => {
                scene.cluster.line_to_kafka(Mode::Reset).await;
                // Ends of connections come a moment later.
                hold(0.1).await;
                scene.cluster.line_to_kafka(Mode::Pass).await;
            }
            Trouble::Postgres(_) => {
                scene.line_to_postgres(Mode::Reset).await;
                scene.line_to_postgres(Mode::Pass).await;
            }
            Trouble::BackendsTerminated => {}
            Trouble::PostgresRestarted | Trouble::PostgresCrashed => scene.postgres_starts().await,
            Trouble::BrokerKilled(broker) => scene.cluster.start_broker(broker).await,
            Trouble::BrokerFrozen(broker) => assert!(scene.cluster.broker(broker).thaw(), "it runs"),
        }
    }

    fn undoes(self) -> u64 {
        if self == Trouble::PostgresCrashed { A_SECOND } else { 0 }
    }
}

/// Breaks so many things for so long, one shortly after the other, and mends them in another order.
async fn round(scene: &mut Scene<'_>, number: usize, seconds: f64, relays_die: bool) {
    let troubles = Trouble::some(number, relays_die, &mut scene.random);
    let mut begun: Vec<(Trouble, Micros)> = Vec::new();
    for trouble in &troubles {
        begun.push((*trouble, scene.now()));
        trouble.begins(scene).await;
        let pause = scene.random.random_range(0.0..0.5);
        hold(pause).await;
    }
    hold(seconds).await;
    begun.shuffle(&mut scene.random);
    for (trouble, from) in begun {
        trouble.ends(scene).await;
        let to = scene.now();
        scene.faults.push(Fault::new(format!("{trouble:?}"), from, to).undoing(trouble.undoes()));
    }
    // With two of three replicas a further broker must not go.
    scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
    scene.more(200).await;
}

async fn combined(scene: &mut Scene<'_>) {
    for _ in 0..3 {
        let (number, seconds) = (scene.random.random_range(2..=3), scene.random.random_range(0.5..2.5));
        round(scene, number, seconds, true).await;
    }
}

async fn long_run(scene: &mut Scene<'_>) {
    const EVERY: Duration = Duration::from_secs(15);
    scene.writers.every(Duration::from_millis(20));
    // Each relay leads once before anything is compared: a leader has more in its hands.
    for _ in 0..2 {
        let leader = scene.leader().await;
        let from = scene.now();
        scene.relays[leader].stop();
        hold(5.0).await;
        scene.relays[leader].cont();
        scene.faults.push(Fault::new("RelayFrozen", from, scene.now()));
        hold(5.0).await;
    }
    scene.watch.begin();
    let (began, length) = (Instant::now(), scene.length);
    while began.elapsed() < length {
        let next = Instant::now() + EVERY;
        let (number, seconds) = (scene.random.random_range(1..=2), scene.random.random_range(0.5..4.0));
        round(scene, number, seconds, false).await;
        tokio::time::sleep_until(next.into()).await;
    }
    scene.writers.every(crate::writers::PAUSE);
}

async fn outage_of_minutes(scene: &mut Scene<'_>) {
    scene.writers.every(Duration::from_secs(2));
    for node in 1..=3 {
        scene.cluster.kill_broker(node).await;
    }
    tokio::time::sleep(scene.length).await;
    scene.cluster.start_all_brokers().await;
    scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
    scene.writers.every(crate::writers::PAUSE);
}
