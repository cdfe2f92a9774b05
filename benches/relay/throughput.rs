//! Backlogs that contenders drain in turns, round after round; then what little traffic costs.

use std::path::Path;
use std::time::Duration;

use outbox_relay::servers::PrivatePostgres;
use sqlx::PgPool;

use crate::drain::{Beside, Drained, Ground, measure};
use crate::figures::Figures;
use crate::peer::{self, Connect};
use crate::relay_process::Relay as Process;
use crate::topics::{self, Ends};
use crate::workload::{BAR, KILOBYTE, Workload, all};
use crate::{alone, plain, postgres, prepare, setting, steady, workload};
use Contender::{Alone, Bare, Debezium, Plain, Relay, Skip};

const DATABASE: &str = "bench";
/// What `on_failure = "block"` costs is what a relay without it saves.
const SKIP: &str = "[[topic]]\nmatch = \"*\"\non_failure = \"skip\"\n";
/// Rows with which Debezium begins: it starts only with its first round, and a JVM compiles what runs often.
const WARM_UP: u64 = 300_000;
/// Rows of the round that does not count, at least.
const WARM: u64 = 1_000_000;

/// Who takes part.
#[derive(Clone, Copy, PartialEq)]
enum Contender {
    Relay,
    /// librdkafka with the relay's headers.
    Alone,
    /// librdkafka without any.
    Bare,
    /// The relay without order policy `block`.
    Skip,
    Plain,
    Debezium,
}

const CONTENDERS: [Contender; 6] = [Relay, Alone, Bare, Skip, Plain, Debezium];

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Relay => "relay",
            Alone => "librdkafka alone, three headers",
            Bare => "librdkafka alone, no headers",
            Skip => "relay, on_failure = skip",
            Plain => "plain relay",
            Debezium => "Debezium",
        }
    }
}

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
    // The broker's JVM compiles for millions of records: in that time it took 4.8 CPU s for a million of the relay's instead of 2.8, and
    // whoever came first looked slow.
    eprintln!("a round that does not count: the broker compiles what it runs often");
    contest.round(&BAR, rows.max(WARM), 0).await;
    contest.figures = Figures::new("bench", &about);
    for workload in all() {
        for round in 1..=rounds {
            eprintln!("{}: round {round} of {rounds}", workload.name);
            contest.round(&workload, workload.rows(rows), round as usize - 1).await;
        }
    }
    eprintln!("1 kB rows");
    contest.relay(&KILOBYTE, KILOBYTE.rows(rows), Relay.name(), None).await;
    let Contest { pool, peer, mut figures, .. } = contest;
    for round in 1..=rounds {
        eprintln!("200 rows a second: round {round} of {rounds}");
        steady::latencies(ground, DATABASE, &pool, &mut figures).await;
        if let Some(peer) = &peer {
            steady::latency_of_peer(&peer.pool, ground.kafka.brokers(), &mut figures).await;
        }
    }
    if let Some(peer) = peer {
        steady::idle_peer(&peer.connect, &mut figures).await;
    }
    if workload::is_everything() {
        steady::loads(ground, DATABASE, &mut figures).await;
    }
    steady::little(ground, DATABASE, &pool, &mut figures).await;
    figures.finish();
}

impl Contest<'_> {
    fn topics(&self, workload: &Workload, contender: &str) -> (Vec<String>, Ends) {
        let (topics, brokers) = (workload.topics(contender), self.ground.kafka.brokers());
        topics::create(&brokers, &topics, workload.partitions);
        let ends = Ends::of(&brokers, &topics, workload.partitions);
        (topics, ends)
    }

    /// Each contender once. Who begins changes from round to round, so that nobody always finds a warm or a busy machine.
    async fn round(&mut self, workload: &Workload, rows: u64, number: usize) {
        let jars = peer::jars();
        let mut order: Vec<Contender> =
            CONTENDERS.into_iter().filter(|who| *who != Debezium || jars.is_some()).collect();
        let places = order.len();
        order.rotate_left(number % places);
        let mut rates = Vec::new();
        for who in order {
            let drained = match who {
                Relay => self.relay(workload, rows, who.name(), None).await,
                Skip => self.relay(workload, rows, who.name(), Some(SKIP)).await,
                Alone | Bare => self.alone(workload, rows, who),
                Plain => self.plain(workload, rows).await,
                Debezium => self.debezium(jars.as_deref().expect("they are there"), workload, rows).await,
            };
            rates.push((who, drained.rows_per_second));
        }
        let rate = |who| rates.iter().find(|(one, _)| *one == who).map(|(_, rate)| *rate);
        let relay = rate(Relay).expect("it took part");
        for who in CONTENDERS {
            if let Some(rate) = rate(who).filter(|_| who != Relay) {
                self.figures.note(workload.name, &format!("relay, of {}", who.name()), "ratio", relay / rate);
            }
        }
    }

    fn alone(&mut self, workload: &Workload, rows: u64, who: Contender) -> Drained {
        let (topics, _) = self.topics(workload, "alone");
        let brokers = self.ground.kafka.brokers();
        let run = || alone::run(&brokers, &topics, workload, rows, who == Alone);
        let drained = tokio::task::block_in_place(run);
        drained.note(&mut self.figures, workload.name, who.name());
        drained
    }

    /// Drained when everything is settled.
    async fn relay(&mut self, workload: &Workload, rows: u64, name: &str, file: Option<&str>) -> Drained {
        let (topics, ends) = self.topics(workload, "relay");
        workload.fill(&self.pool, &workload.outbox_insert(), &topics, rows).await;
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
            Some(text) => Process::start_with_file(&self.url, brokers, &settings, text),
            None => Process::start_with(&self.url, brokers, &settings),
        };
        // A topic that floods is read in a lane while main has passed its rows.
        let settled = "select (select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1) >= $1
                              and not exists (select from outbox.open_lane where high < $1)";
        let pool = self.pool.clone();
        let is_settled =
            async || sqlx::query_scalar(settled).bind(last).fetch_one(&pool).await.expect("a boolean");
        let about = (&mut self.figures, workload.name, name);
        measure(self.ground.both(), &self.pool, (&ends, before, rows), relay.pid(), is_settled, about).await
    }

    async fn plain(&mut self, workload: &Workload, rows: u64) -> Drained {
        let (topics, ends) = self.topics(workload, "plain");
        // Half of them: it is slow, and no quicker with more.
        let rows = (rows / 2).max(1);
        workload.fill(&self.pool, &plain::insert(workload), &topics, rows).await;
        let before = tokio::task::block_in_place(|| ends.count());
        let relay = plain::start(&self.url, &self.ground.kafka.brokers(), workload);
        let marked = "select not exists (select from public.plain_outbox where published_at is null)";
        let pool = self.pool.clone();
        let is_done = async || sqlx::query_scalar(marked).fetch_one(&pool).await.expect("a boolean");
        let about = (&mut self.figures, workload.name, Plain.name());
        let drained =
            measure(self.ground.both(), &self.pool, (&ends, before, rows), relay.pid(), is_done, about).await;
        relay.kill();
        sqlx::raw_sql("truncate public.plain_outbox").execute(&self.pool).await.expect("truncate");
        drained
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
        let about = (&mut self.figures, workload.name, Debezium.name());
        let of = (&ends, before, rows);
        let ground = Beside { postgres: &peer.postgres, kafka: &self.ground.kafka };
        let drained = measure(ground, &peer.pool, of, peer.connect.pid(), async || true, about).await;
        sqlx::raw_sql("truncate public.outbox_event").execute(&peer.pool).await.expect("truncate");
        drained
    }
}
