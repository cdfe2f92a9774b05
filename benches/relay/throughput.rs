//! Backlogs that contenders drain in turns, round after round; then what little traffic costs.

use std::path::Path;
use std::time::Duration;

use outbox_relay::servers::PrivatePostgres;
use sqlx::PgPool;

use crate::drain::{Beside, Drained, Ground, measure};
use crate::figures::Figures;
use crate::peer::{self, Connect};
use crate::relay_process::Relay;
use crate::topics::{self, Ends};
use crate::workload::{KILOBYTE, Workload, all};
use crate::{alone, plain, postgres, prepare, setting, steady};

const DATABASE: &str = "bench";
/// What `on_failure = "block"` costs is what a relay without it saves.
const SKIP: &str = "[[topic]]\nmatch = \"*\"\non_failure = \"skip\"\n";
/// Rows before the rounds: a JVM compiles what runs often.
const WARM_UP: u64 = 300_000;

/// Debezium, and its Postgres.
struct Peer {
    connect: Connect,
    postgres: PrivatePostgres,
    pool: PgPool,
}

impl Peer {
    async fn start(jars: &Path, brokers: String) -> Peer {
        let postgres = postgres(&[("wal_level", "logical")]);
        let pool = PgPool::connect(&postgres.url("postgres")).await.expect("connect");
        let connect = Connect::start(jars, &pool, (postgres.port(), "postgres"), &brokers).await;
        Peer { connect, postgres, pool }
    }
}

/// Everybody who takes part.
struct Contest<'a> {
    ground: &'a Ground,
    pool: PgPool,
    url: String,
    peer: Option<Peer>,
    figures: Figures,
}

/// The whole report.
pub async fn run(ground: &Ground) {
    let rows = setting("OUTBOX_RELAY_BENCH_ROWS", 1_000_000);
    let rounds = setting("OUTBOX_RELAY_BENCH_ROUNDS", 3);
    prepare(&ground.postgres, DATABASE).await;
    let url = ground.postgres.url(DATABASE);
    let pool = PgPool::connect(&url).await.expect("connect");
    sqlx::raw_sql(plain::TABLE).execute(&pool).await.expect("make the plain relay's table");
    let about = format!("{rows} rows of 240 B, {rounds} rounds, fsync on");
    let mut contest = Contest { ground, pool, url, peer: None, figures: Figures::new("bench", &about) };
    for workload in all() {
        for round in 1..=rounds {
            eprintln!("{}: round {round} of {rounds}", workload.name);
            contest.round(&workload, workload.rows(rows)).await;
        }
    }
    eprintln!("1 kB rows");
    let (topics, ends) = contest.topics(&KILOBYTE, "memory");
    contest.relay(&KILOBYTE, KILOBYTE.rows(rows), &topics, &ends, "relay", None).await;
    let Contest { pool, peer, mut figures, .. } = contest;
    eprintln!("little traffic");
    steady::measure(ground, DATABASE, &pool, &mut figures, true).await;
    if let Some(peer) = peer {
        steady::of_peer(&peer.connect, &peer.pool, ground.kafka.brokers(), &mut figures).await;
    }
    figures.finish();
}

impl Contest<'_> {
    fn topics(&self, workload: &Workload, contender: &str) -> (Vec<String>, Ends) {
        let (topics, brokers) = (workload.topics(contender), self.ground.kafka.brokers());
        topics::create(&brokers, &topics, workload.partitions);
        let ends = Ends::of(&brokers, &topics, workload.partitions);
        (topics, ends)
    }

    /// Each contender once.
    async fn round(&mut self, workload: &Workload, rows: u64) {
        let (topics, ends) = self.topics(workload, "relay");
        let relay = self.relay(workload, rows, &topics, &ends, "relay", None).await;
        let brokers = self.ground.kafka.brokers();
        let (topics, _) = self.topics(workload, "alone");
        for (headers, contender) in
            [(true, "librdkafka alone, three headers"), (false, "librdkafka alone, no headers")]
        {
            let run = || alone::run(&brokers, &topics, workload, rows, headers);
            let alone = tokio::task::block_in_place(run);
            alone.note(&mut self.figures, workload.name, contender);
            let ratio = relay.rows_per_second / alone.rows_per_second;
            self.figures.note(workload.name, &format!("relay, of {contender}"), "ratio", ratio);
        }
        let (topics, ends) = self.topics(workload, "relay");
        let skip = self.relay(workload, rows, &topics, &ends, "relay, on_failure = skip", Some(SKIP)).await;
        let ratio = relay.rows_per_second / skip.rows_per_second;
        self.figures.note(workload.name, "relay, of the same with on_failure = skip", "ratio", ratio);
        self.plain(workload, rows).await;
        if let Some(jars) = peer::jars() {
            let peer = self.debezium(&jars, workload, rows).await;
            let ratio = relay.rows_per_second / peer.rows_per_second;
            self.figures.note(workload.name, "relay, of Debezium", "ratio", ratio);
        }
    }

    /// Drained when everything is settled.
    async fn relay(
        &mut self,
        workload: &Workload,
        rows: u64,
        topics: &[String],
        ends: &Ends,
        name: &str,
        file: Option<&str>,
    ) -> Drained {
        workload.fill(&self.pool, &workload.outbox_insert(), topics, rows).await;
        let last: i64 = sqlx::query_scalar("select max(id) from outbox.message")
            .fetch_one(&self.pool)
            .await
            .expect("an id");
        let before = tokio::task::block_in_place(|| ends.count());
        let compression = workload.compression.map(|name| format!("compression.type={name}"));
        let settings: Vec<(&str, &str)> =
            compression.iter().map(|text| ("OUTBOX_RELAY__KAFKA__PROPERTIES", text.as_str())).collect();
        let brokers = self.ground.kafka.brokers();
        let relay = match file {
            Some(text) => Relay::start_with_file(&self.url, brokers, &settings, text),
            None => Relay::start_with(&self.url, brokers, &settings),
        };
        // A topic that floods is read in a lane while main has passed its rows.
        let settled = "select (select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1) >= $1
                              and not exists (select from outbox.open_lane where high < $1)";
        let pool = self.pool.clone();
        let is_settled =
            async || sqlx::query_scalar(settled).bind(last).fetch_one(&pool).await.expect("a boolean");
        let about = (&mut self.figures, workload.name, name);
        measure(self.ground.both(), &self.pool, (ends, before, rows), relay.pid(), is_settled, about).await
    }

    async fn plain(&mut self, workload: &Workload, rows: u64) {
        let (topics, ends) = self.topics(workload, "plain");
        // Half of them: it is slow, and no quicker with more.
        let rows = (rows / 2).max(1);
        workload.fill(&self.pool, &plain::insert(workload), &topics, rows).await;
        let before = tokio::task::block_in_place(|| ends.count());
        let relay = plain::start(&self.url, &self.ground.kafka.brokers(), workload);
        let marked = "select not exists (select from public.plain_outbox where published_at is null)";
        let pool = self.pool.clone();
        let is_done = async || sqlx::query_scalar(marked).fetch_one(&pool).await.expect("a boolean");
        let about = (&mut self.figures, workload.name, "plain relay");
        measure(self.ground.both(), &self.pool, (&ends, before, rows), relay.pid(), is_done, about).await;
        relay.kill();
        sqlx::raw_sql("truncate public.plain_outbox").execute(&self.pool).await.expect("truncate");
    }

    async fn debezium(&mut self, jars: &Path, workload: &Workload, rows: u64) -> Drained {
        let (topics, ends) = self.topics(workload, "debezium");
        if self.peer.is_none() {
            let started = Peer::start(jars, self.ground.kafka.brokers()).await;
            let peer = self.peer.insert(started);
            eprintln!("warming Debezium up");
            workload.fill(&peer.pool, &peer::insert(workload), &topics, WARM_UP.min(rows)).await;
            let target = WARM_UP.min(rows);
            while tokio::task::block_in_place(|| ends.count()) < target {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let peer = self.peer.as_ref().expect("it was started");
        peer.connect.pause().await;
        workload.fill(&peer.pool, &peer::insert(workload), &topics, rows).await;
        let before = tokio::task::block_in_place(|| ends.count());
        peer.connect.resume();
        let about = (&mut self.figures, workload.name, "Debezium");
        let of = (&ends, before, rows);
        let ground = Beside { postgres: &peer.postgres, kafka: &self.ground.kafka };
        let drained = measure(ground, &peer.pool, of, peer.connect.pid(), async || true, about).await;
        sqlx::raw_sql("truncate public.outbox_event").execute(&peer.pool).await.expect("truncate");
        drained
    }
}
