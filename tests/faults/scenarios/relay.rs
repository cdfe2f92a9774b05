//! What happens to relays: killed, frozen, crashed at every named point.

use super::{Scenario, hold};
use crate::proxy::Mode;
use crate::scene::{LEASE, Scene};

/// Of the first relay only.
const LOW_LIMIT: (&str, &str) = ("OUTBOX_RELAY__RELAY__MAX_ROW_BYTES", "1024");

pub fn all() -> Vec<Scenario> {
    let mut all = vec![
        Scenario::new("calm", "nothing", |_| Box::pin(async {})),
        Scenario::new("relay_killed", "the leader is killed, three times", |scene| Box::pin(killed(scene))),
        Scenario::new(
            "relay_killed_in_flight",
            "the leader is killed while nobody reads what is sent to Kafka, and that is lost, twice",
            |scene| Box::pin(killed_in_flight(scene)),
        ),
        Scenario::new("relay_frozen", "the leader is frozen beyond its lease and goes on", |scene| {
            Box::pin(frozen(scene))
        }),
        Scenario::new(
            "relay_frozen_settling",
            "the leader is frozen inside a settlement, beyond its lease, and goes on",
            |scene| Box::pin(frozen_inside_a_settlement(scene)),
        ),
        Scenario::new("relay_stopped", "the leader is told to stop, three times", |scene| {
            Box::pin(stopped(scene))
        }),
    ];
    let crash = |name, what, first_relay| Scenario {
        first_relay,
        ..Scenario::new(name, what, |scene| Box::pin(crashes(scene)))
    };
    all.extend([
        crash(
            "crash_after_read",
            "the leader crashes: a page is read",
            &[("OUTBOX_RELAY_CRASH_AT", "after_read:40")],
        ),
        crash("crash_after_send", "… rows are handed over", &[("OUTBOX_RELAY_CRASH_AT", "after_send:40")]),
        crash(
            "crash_after_confirm",
            "… rows are confirmed",
            &[("OUTBOX_RELAY_CRASH_AT", "after_confirm:40")],
        ),
        crash(
            "crash_in_settlement",
            "… a settlement is on its way",
            &[("OUTBOX_RELAY_CRASH_AT", "inside_settlement:40")],
        ),
        crash(
            "crash_after_settlement",
            "… a settlement is written",
            &[("OUTBOX_RELAY_CRASH_AT", "after_settlement:40")],
        ),
    ]);
    all.push(Scenario {
        first_relay: &[("OUTBOX_RELAY_CRASH_AT", "inside_late_paging")],
        ..Scenario::new("crash_in_late_paging", "… among many rows that committed late", |scene| {
            Box::pin(crashes_among_late_rows(scene))
        })
    });
    let requeues = |name, what, first_relay| Scenario {
        first_relay,
        relay_settings: &[("retry.attempts", "2"), ("retry.dead_per_minute", "100000")],
        requeues: true,
        ..Scenario::new(name, what, |scene| Box::pin(crashes_while_letters_are_requeued(scene)))
    };
    all.extend([
        requeues(
            "crash_before_requeue",
            "… a page of dead letters is chosen to be sent again",
            &[("OUTBOX_RELAY_CRASH_AT", "before_requeue"), LOW_LIMIT],
        ),
        requeues(
            "crash_after_requeue",
            "… a page of dead letters goes out again",
            &[("OUTBOX_RELAY_CRASH_AT", "after_requeue"), LOW_LIMIT],
        ),
    ]);
    all
}

async fn killed(scene: &mut Scene<'_>) {
    for _ in 0..3 {
        let leader = scene.leader().await;
        scene.kill_relay(leader).await;
        scene.start_relay(leader, &[]).await;
        scene.leader().await;
        scene.more(300).await;
    }
}

/// What it has handed over sits in the connections' buffers, and goes with them.
async fn killed_in_flight(scene: &mut Scene<'_>) {
    for _ in 0..2 {
        let leader = scene.leader().await;
        scene.cluster.line_to_kafka(Mode::StopReading).await;
        scene.more(500).await;
        scene.kill_relay(leader).await;
        scene.cluster.line_to_kafka(Mode::Reset).await;
        // Ends of connections come a moment later.
        hold(0.1).await;
        scene.cluster.line_to_kafka(Mode::Pass).await;
        scene.start_relay(leader, &[]).await;
        scene.leader().await;
        scene.more(300).await;
    }
}

async fn stopped(scene: &mut Scene<'_>) {
    for _ in 0..3 {
        let leader = scene.leader().await;
        scene.counters_lost = true;
        scene.relays[leader].terminate().await;
        scene.start_relay(leader, &[]).await;
        scene.leader().await;
        scene.more(300).await;
    }
}

async fn frozen(scene: &mut Scene<'_>) {
    let leader = scene.leader().await;
    scene.relays[leader].stop();
    hold(2.0 * LEASE.as_secs_f64()).await;
    scene.more(300).await;
    scene.relays[leader].cont();
    scene.more(300).await;
}

async fn frozen_inside_a_settlement(scene: &mut Scene<'_>) {
    let leader = scene.leader().await;
    let mut lock = scene.admin.begin().await.expect("begin");
    // Settlements append to it.
    sqlx::raw_sql("lock table outbox.ledger in share mode").execute(&mut *lock).await.expect("lock");
    scene.until("select exists (select from pg_stat_activity a where a.datname = current_database() and a.wait_event_type = 'Lock')").await;
    scene.relays[leader].stop();
    lock.rollback().await.expect("unlock");
    hold(2.0 * LEASE.as_secs_f64()).await;
    scene.relays[leader].cont();
    scene.more(300).await;
}

async fn crashes(scene: &mut Scene<'_>) {
    scene.counters_lost = true;
    scene.relays[0].wait_for_exit(std::time::Duration::from_secs(30)).await;
    scene.start_relay(0, &[]).await;
    scene.leader().await;
}

/// More rows than a page become visible behind the position.
async fn crashes_among_late_rows(scene: &mut Scene<'_>) {
    let late = scene.writers.late(&scene.main.clone(), &scene.admin, 3000).await;
    scene.more(500).await;
    late.commit().await;
    crashes(scene).await;
}

/// The leader has a low limit, above which rows die. It crashes while they are sent again; the next one takes them.
async fn crashes_while_letters_are_requeued(scene: &mut Scene<'_>) {
    scene.writers.large(2000);
    scene.until("select count(*) >= 100 from outbox.dead_letter").await;
    scene.writers.large(0);
    let filter = format!("{{\"topic\": \"{}\"}}", scene.main);
    scene.execute(&format!("select outbox.requeue('{filter}', 'the limit is raised')")).await;
    crashes(scene).await;
    scene.until("select bool_and(state = 'done') from outbox.request").await;
}
