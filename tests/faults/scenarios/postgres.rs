//! What happens to Postgres and to the connections with it.

use std::time::Duration;

use super::{Scenario, Server, hold};
use crate::checker::Expectation;
use crate::proxy::Mode;
use crate::scene::Scene;

/// Rows that may be marked in a second.
const A_SECOND: u64 = 3000;
const PROMOTION: Duration = Duration::from_secs(30);

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("postgres_restarted", "Postgres is restarted", |scene| {
            Box::pin(restarted(scene, true))
        }),
        Scenario {
            undoes: A_SECOND,
            ..Scenario::new("postgres_crashed", "Postgres is stopped at once and recovers", |scene| {
                Box::pin(restarted(scene, false))
            })
        },
        Scenario::new(
            "backends_terminated",
            "all connections are terminated by an administrator, five times",
            |scene| Box::pin(terminated(scene)),
        ),
        Scenario {
            undoes: A_SECOND,
            ..Scenario::new(
                "backend_killed",
                "a backend is killed, and Postgres recovers from that",
                |scene| Box::pin(backend_killed(scene)),
            )
        },
        Scenario::new("postgres_cut", "connections to Postgres are cut, five times", |scene| {
            Box::pin(cut(scene))
        }),
        Scenario::new(
            "postgres_half_open",
            "Postgres' side of the connections is gone, ours does not know",
            |scene| Box::pin(mode_for(scene, Mode::HalfOpen, 4.0)),
        ),
        Scenario::new("postgres_slow", "50 ms more to and from Postgres", |scene| {
            Box::pin(mode_for(scene, Mode::Delay(Duration::from_millis(50)), 4.0))
        }),
        Scenario::new("postgres_mute", "Postgres takes everything, its answers get lost", |scene| {
            Box::pin(mode_for(scene, Mode::SwallowResponses, 3.0))
        }),
        Scenario::new("old_snapshot", "an idle session holds an old snapshot", |scene| {
            Box::pin(old_snapshot(scene))
        }),
        Scenario::new("open_writer", "a writer leaves its transaction open for a while", |scene| {
            Box::pin(open_writer(scene))
        }),
        Scenario::new("prepared_transaction", "a prepared transaction is committed late", |scene| {
            Box::pin(prepared(scene))
        }),
        Scenario {
            server: Server::Followed { waits: true },
            undoes: A_SECOND,
            recovers_within: PROMOTION,
            ..Scenario::new("promoted", "the primary dies, its synchronous standby is promoted", |scene| {
                Box::pin(promoted(scene))
            })
        },
        Scenario {
            server: Server::Followed { waits: false },
            undoes: A_SECOND,
            recovers_within: PROMOTION,
            expectation: Expectation::AsynchronousPromotion,
            ..Scenario::new(
                "promoted_behind",
                "the primary dies, a standby that lags behind is promoted",
                |scene| Box::pin(promoted(scene)),
            )
        },
        Scenario {
            pooler: true,
            undoes: A_SECOND,
            ..Scenario::new(
                "pooler_postgres_crashed",
                "Postgres crashes behind PgBouncer, connections with the relays stay",
                |scene| Box::pin(restarted(scene, false)),
            )
        },
        Scenario {
            relays: 1,
            pooler: true,
            undoes: 2 * A_SECOND,
            ..Scenario::new(
                "pooler_postgres_crashed_alone",
                "Postgres crashes twice behind PgBouncer, and there is no other relay to take over",
                |scene| Box::pin(crashed_twice(scene)),
            )
        },
        Scenario {
            server: Server::Followed { waits: true },
            pooler: true,
            undoes: A_SECOND,
            recovers_within: PROMOTION,
            ..Scenario::new(
                "pooler_promoted",
                "a synchronous standby is promoted behind PgBouncer",
                |scene| Box::pin(promoted(scene)),
            )
        },
        Scenario {
            server: Server::Followed { waits: true },
            ..Scenario::new("replica_offered", "connections lead to a replica for a while", |scene| {
                Box::pin(replica_offered(scene))
            })
        },
    ]
}

async fn restarted(scene: &mut Scene<'_>, fast: bool) {
    scene.postgres_stops(fast).await;
    scene.postgres_starts().await;
    scene.more(200).await;
}

/// The relay that remembers is the one that goes on.
async fn crashed_twice(scene: &mut Scene<'_>) {
    for _ in 0..2 {
        restarted(scene, false).await;
    }
}

async fn terminated(scene: &mut Scene<'_>) {
    for _ in 0..5 {
        scene
            .execute(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                  where datname = current_database() and application_name like 'outbox-relay%'",
            )
            .await;
        hold(0.5).await;
    }
}

async fn backend_killed(scene: &mut Scene<'_>) {
    let sql = "select pid from pg_stat_activity where datname = current_database() and application_name like 'outbox-relay%' limit 1";
    let pid: i32 = sqlx::query_scalar(sql).fetch_one(&scene.admin).await.expect("a relay is connected");
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill");
    assert!(killed.success());
    scene.more(300).await;
}

async fn cut(scene: &mut Scene<'_>) {
    for _ in 0..5 {
        scene.line_to_postgres(Mode::Cut).await;
        scene.line_to_postgres(Mode::Pass).await;
        hold(0.5).await;
    }
}

async fn mode_for(scene: &mut Scene<'_>, mode: Mode, seconds: f64) {
    scene.line_to_postgres(mode).await;
    hold(seconds).await;
    scene.line_to_postgres(Mode::Reset).await;
    scene.line_to_postgres(Mode::Pass).await;
}

async fn old_snapshot(scene: &mut Scene<'_>) {
    let mut holder = scene.admin.begin().await.expect("begin");
    sqlx::raw_sql("set transaction isolation level repeatable read; select count(*) from outbox.message")
        .execute(&mut *holder)
        .await
        .expect("a snapshot");
    scene.more(2000).await;
    holder.rollback().await.expect("rollback");
}

async fn open_writer(scene: &mut Scene<'_>) {
    let late = scene.writers.late(&scene.main.clone(), &scene.admin, 200).await;
    scene.more(2000).await;
    late.commit().await;
}

async fn prepared(scene: &mut Scene<'_>) {
    let late = scene.writers.late(&scene.main.clone(), &scene.admin, 200).await;
    let name = format!("late_{}", scene.database);
    late.prepare(&name).await;
    scene.more(2000).await;
    scene.execute(&format!("commit prepared '{name}'")).await;
}

async fn promoted(scene: &mut Scene<'_>) {
    scene.promote().await;
    scene.more(300).await;
}

async fn replica_offered(scene: &mut Scene<'_>) {
    let standby = scene.standby_port();
    let primary = scene.postgres.server.port();
    scene.lead_to(standby).await;
    hold(3.0).await;
    scene.lead_to(primary).await;
}
