//! What happens to the machines: full disks, wrong clocks.

use std::sync::Arc;
use std::time::Duration;

use super::{Scenario, Server, hold};
use crate::disk::Full;
use crate::scene::Scene;
use crate::support::{DEADLINE, eventually};

/// Rows that may be marked in a second.
const A_SECOND: u64 = 3000;
const HOUR: i64 = 3600;

pub fn all() -> Vec<Scenario> {
    let relays = |name, what, seconds| Scenario {
        relays_have_a_clock: true,
        charges_nobody: true,
        shifts: seconds,
        ..Scenario::new(name, what, |scene| Box::pin(relays_clock_jumps(scene)))
    };
    let database = |name, what, seconds| Scenario {
        server: Server::Peculiar,
        charges_nobody: true,
        shifts: seconds,
        ..Scenario::new(name, what, |scene| Box::pin(databases_clock_jumps(scene)))
    };
    vec![
        Scenario {
            server: Server::Peculiar,
            undoes: A_SECOND,
            charges_nobody: true,
            ..Scenario::new("postgres_disk_full", "the disk of Postgres is full for a while", |scene| {
                Box::pin(postgres_disk_full(scene))
            })
        },
        Scenario {
            small_broker: true,
            charges_nobody: true,
            ..Scenario::new(
                "broker_disk_full",
                "the disk of a broker is full until the broker ends; it is started again",
                |scene| Box::pin(broker_disk_full(scene)),
            )
        },
        relays("clock_forward", "the clock of the relays jumps an hour ahead, and back", HOUR),
        relays("clock_back", "the clock of the relays jumps an hour back, and ahead", -HOUR),
        database("clock_database_forward", "the clock of Postgres' host jumps an hour ahead, and back", HOUR),
        database("clock_database_back", "the clock of Postgres' host jumps an hour back, and ahead", -HOUR),
    ]
}

async fn relays_clock_jumps(scene: &mut Scene<'_>) {
    let clock = scene.relays_clock.as_ref().expect("this scenario has one");
    clock.is_off_by(scene.scenario.shifts).await;
    scene.more(1000).await;
    clock.is_off_by(0).await;
    scene.more(300).await;
}

async fn databases_clock_jumps(scene: &mut Scene<'_>) {
    let (_, clock) = scene.cluster.peculiar_postgres().await;
    clock.is_off_by(scene.scenario.shifts).await;
    scene.more(1000).await;
    clock.is_off_by(0).await;
    scene.more(300).await;
}

async fn postgres_disk_full(scene: &mut Scene<'_>) {
    let full = Full::fill(&scene.postgres.server.data_directory());
    let before = scene.writers.committed();
    let mut last = before;
    // Segments of the log that are there already take some more.
    eventually(DEADLINE, "nothing can be committed any more", async || {
        hold(0.5).await;
        std::mem::replace(&mut last, scene.writers.committed()) == scene.writers.committed()
    })
    .await;
    hold(2.0).await;
    full.empty().await;
    // It has ended if it could not recover.
    scene.postgres_starts().await;
    scene.more(300).await;
}

async fn broker_disk_full(scene: &mut Scene<'_>) {
    let (broker, _) = scene.cluster.small_broker().await;
    let broker = Arc::clone(broker);
    let full = Full::fill(&broker.data_directory());
    eventually(Duration::from_secs(60), "the broker ends", async || broker.has_ended()).await;
    hold(1.0).await;
    full.empty().await;
    scene.cluster.small_broker().await;
    scene.cluster.in_sync(&[&scene.main, &scene.side, &scene.once]).await;
}
