//! A backlog is drained: how fast, and what that costs contender, Postgres and broker.

use std::time::{Duration, Instant};

use outbox_relay::servers::{PrivateKafka, PrivatePostgres};
use sqlx::PgPool;

use crate::figures::Figures;
use crate::process::{cpu_seconds, peak_megabytes, tree_cpu_seconds};
use crate::topics::Ends;

/// Even the slowest contender is through by then.
const DEADLINE: Duration = Duration::from_secs(1200);
/// Between two looks: often enough for a drain of seconds, seldom enough to cost nothing.
const LOOK: Duration = Duration::from_millis(20);

/// The servers.
pub struct Ground {
    pub postgres: PrivatePostgres,
    pub kafka: PrivateKafka,
}

/// Of which servers the cost is read.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    pub postgres: &'a PrivatePostgres,
    pub kafka: &'a PrivateKafka,
}

impl Ground {
    pub fn both(&self) -> Beside<'_> {
        Beside { postgres: &self.postgres, kafka: &self.kafka }
    }
}

/// How fast, and the CPU of who sent it.
pub struct Drained {
    pub rows_per_second: f64,
    pub cpu_seconds_per_million: f64,
}

impl Drained {
    pub fn note(&self, figures: &mut Figures, workload: &str, contender: &str) {
        figures.note(workload, contender, "rows/s", self.rows_per_second);
        figures.note(workload, contender, "CPU s/million rows", self.cpu_seconds_per_million);
    }
}

/// What is read before and after.
struct Reading {
    at: Instant,
    records: u64,
    contender: f64,
    postgres: f64,
    broker: f64,
    wal: String,
}

impl Reading {
    async fn take(ground: Beside<'_>, pool: &PgPool, records: u64, contender: u32) -> Reading {
        Reading {
            at: Instant::now(),
            records,
            contender: cpu_seconds(contender),
            postgres: tree_cpu_seconds(ground.postgres.pid().expect("it runs")),
            broker: cpu_seconds(ground.kafka.pid().expect("it runs")),
            wal: sqlx::query_scalar("select pg_current_wal_insert_lsn()::text")
                .fetch_one(pool)
                .await
                .expect("WAL"),
        }
    }
}

/// A process sends `rows` records to the topics of `ends`, which held `before`; and then `is_done` becomes true. The time runs from
/// the first records that are seen in the topics, so a start is not counted.
pub async fn measure(
    ground: Beside<'_>,
    pool: &PgPool,
    (ends, before, rows): (&Ends, u64, u64),
    pid: u32,
    mut is_done: impl AsyncFnMut() -> bool,
    (figures, workload, contender): (&mut Figures, &str, &str),
) -> Drained {
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let deadline = Instant::now() + DEADLINE;
    let mut begun: Option<Reading> = None;
    loop {
        every.tick().await;
        assert!(Instant::now() < deadline, "{contender} drains the backlog within {DEADLINE:?}");
        let records = tokio::task::block_in_place(|| ends.count());
        if records > before && begun.is_none() {
            begun = Some(Reading::take(ground, pool, records, pid).await);
        }
        if records >= before + rows && is_done().await {
            break;
        }
    }
    let first = begun.expect("records were seen");
    let last = Reading::take(ground, pool, before + rows, pid).await;
    // What was there at the first look was not sent while it was measured.
    let measured = (last.records - first.records).max(1) as f64;
    let millions = measured / 1e6;
    let since = "select ($1::pg_lsn - $2::pg_lsn)::float8";
    let wal: f64 = sqlx::query_scalar(since)
        .bind(&last.wal)
        .bind(&first.wal)
        .fetch_one(pool)
        .await
        .expect("a difference");
    let drained = Drained {
        rows_per_second: measured / (last.at - first.at).as_secs_f64(),
        cpu_seconds_per_million: (last.contender - first.contender) / millions,
    };
    drained.note(figures, workload, contender);
    let mut note =
        |what: &str, unit, value| figures.note(workload, &format!("{contender}{what}"), unit, value);
    note(", Postgres beside it", "CPU s/million rows", (last.postgres - first.postgres) / millions);
    note(", broker beside it", "CPU s/million rows", (last.broker - first.broker) / millions);
    note(", WAL", "B/row", wal / measured);
    note(", peak memory", "MB", peak_megabytes(pid));
    drained
}
