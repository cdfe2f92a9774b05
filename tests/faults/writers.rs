//! Writers whose transactions take turns, and the truth about what they committed.
//!
//! The truth is a table that is written in the same transaction as the outbox row: a commit whose answer got lost may have
//! happened, and only the database knows. What was tried is remembered here as well, so that a record of something that was
//! rolled back, or lost by the server, is told from one of nobody's.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::Record;

const WRITERS: u64 = 4;
/// Rows of a transaction at most. What two cores can do in a second is transactions, requests and answers rather than rows.
const ROWS: usize = 12;
/// From one transaction of a writer to its next while something is broken or heals, unless it is told otherwise.
pub const PAUSE: Duration = Duration::from_millis(40);
/// … while nothing is broken, and they only have to get to their number of rows.
pub const QUICK: Duration = Duration::from_millis(12);
/// … while the scenario waits for its turn.
pub const IDLE: Duration = Duration::from_millis(500);
/// … while brokers start: what three brokers need to become whole again they would need for the writers' rows otherwise.
pub const CALM: Duration = Duration::from_millis(150);
const KEYS: u32 = 40;
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// A writer that gets nothing done for so long has found a fault of the harness.
const PATIENCE: Duration = Duration::from_secs(90);

/// Where writers note what is true, and whose turn it is.
pub const TABLES: &str = "
    create table public.turn (topic text, key text, version bigint not null default 0, primary key (topic, key)) with (fillfactor = 20);
    create table public.truth (event uuid primary key, id bigint not null, topic text not null, key text not null,
                               version bigint not null, digest bigint not null, at timestamptz not null default clock_timestamp());
    grant select, update on public.turn to outbox_producer;
    grant insert on public.truth to outbox_producer";

const WRITE: &str = "
    with turn as (
        update public.turn set version = version + 1 where topic = $1 and key = $2 returning version
    ), message as (
        insert into outbox.message (event_id, topic, key, payload, headers)
        select $3, $1, convert_to($2, 'UTF8'), $4, jsonb_build_object('traceparent', $5::text) from turn returning id
    )
    insert into public.truth (event, id, topic, key, version, digest)
    select $3, message.id, $1, $2, turn.version, $6 from turn, message";

/// What a writer knows of a row that it tried to write.
#[derive(Debug, Clone)]
pub struct Tried {
    pub topic: String,
    pub key: String,
    pub digest: u64,
}

/// Writers at work. They outlast restarts of Postgres.
pub struct Writers {
    stop: CancellationToken,
    writing: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Which database is written to; another one after a promotion.
    pool: Mutex<PgPool>,
    topics: Vec<(String, u32)>,
    tried: Mutex<HashMap<Uuid, Tried>>,
    committed: AtomicUsize,
    /// Pauses are left out.
    burst: AtomicBool,
    /// One row in four has so many bytes; none: 0.
    large: AtomicUsize,
    /// Milliseconds from one transaction of a writer to its next.
    pause: AtomicUsize,
}

impl Writers {
    /// Starts writing to these topics, each with its weight; one transaction in ten is rolled back.
    pub fn start(pool: PgPool, topics: &[(&str, u32)], seed: u64) -> Writers {
        let topics: Vec<(String, u32)> =
            topics.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let shared = Arc::new(Shared {
            pool: Mutex::new(pool),
            topics,
            tried: Mutex::default(),
            committed: AtomicUsize::new(0),
            burst: AtomicBool::new(false),
            large: AtomicUsize::new(0),
            pause: AtomicUsize::new(PAUSE.as_millis() as usize),
        });
        let (stop, mut writing) = (CancellationToken::new(), JoinSet::new());
        for number in 0..WRITERS {
            let random = StdRng::seed_from_u64(seed.wrapping_add(number));
            writing.spawn(write(Arc::clone(&shared), random, stop.clone()));
        }
        Writers { stop, writing, shared }
    }

    /// The rows of these topics' keys that writers lock.
    pub fn turns(topics: &[(&str, u32)]) -> String {
        let rows = topics.iter().map(|(topic, _)| {
            format!("insert into public.turn (topic, key) select '{topic}', 'key-' || n from generate_series(0, {KEYS} - 1) n;")
        });
        rows.collect()
    }

    /// Nobody writes.
    pub fn none() -> Writers {
        let pool = crate::scene::pool("postgres://nobody@127.0.0.1:1/none");
        let shared = Shared {
            pool: Mutex::new(pool),
            topics: Vec::new(),
            tried: Mutex::default(),
            committed: AtomicUsize::new(0),
            burst: AtomicBool::new(false),
            large: AtomicUsize::new(0),
            pause: AtomicUsize::new(PAUSE.as_millis() as usize),
        };
        Writers { stop: CancellationToken::new(), writing: JoinSet::new(), shared: Arc::new(shared) }
    }

    /// A transaction that has written so many rows, of keys of its own, and is not over.
    pub async fn late(&self, topic: &str, admin: &PgPool, rows: usize) -> Late {
        let keys =
            "insert into public.turn (topic, key) select $1, 'late-' || n from generate_series(0, 19) n";
        sqlx::query(keys).bind(topic).execute(admin).await.expect("the keys are new");
        let pool = lock(&self.shared.pool).clone();
        let mut transaction = pool.begin().await.expect("begin");
        for row in 0..rows {
            let event = Uuid::new_v4();
            let written =
                insert(&self.shared, &mut transaction, topic, format!("late-{}", row % 20), event, 100);
            written.await.expect("write a late row");
        }
        Late { transaction, rows, shared: Arc::clone(&self.shared) }
    }

    /// Rows that were committed, as far as was answered.
    pub fn committed(&self) -> usize {
        self.shared.committed.load(Ordering::Relaxed)
    }

    /// From now on one row in four has so many bytes; none: 0.
    pub fn large(&self, bytes: usize) {
        self.shared.large.store(bytes, Ordering::Relaxed);
    }

    /// From one transaction of a writer to its next it is so long from now on.
    pub fn every(&self, pause: Duration) {
        self.shared.pause.store(pause.as_millis() as usize, Ordering::Relaxed);
    }

    pub fn burst(&self, on: bool) {
        self.shared.burst.store(on, Ordering::Relaxed);
    }

    /// From now on they write there.
    pub fn turn_to(&self, pool: PgPool) {
        *lock(&self.shared.pool) = pool;
    }

    /// Ends them and returns what they tried.
    pub async fn stop(mut self) -> HashMap<Uuid, Tried> {
        self.stop.cancel();
        while let Some(ended) = self.writing.join_next().await {
            ended.expect("a writer does not panic");
        }
        std::mem::take(&mut *lock(&self.shared.tried))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(shared: Arc<Shared>, mut random: StdRng, stop: CancellationToken) {
    let (mut turn, mut worked) = (Instant::now(), Instant::now());
    while !stop.is_cancelled() {
        if !shared.burst.load(Ordering::Relaxed) {
            let pause = Duration::from_millis(shared.pause.load(Ordering::Relaxed) as u64);
            turn = (turn + pause).max(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(turn.into()) => {}
                () = stop.cancelled() => break,
            }
        }
        match transact(&shared, &mut random).await {
            Ok(()) => worked = Instant::now(),
            Err(error) => {
                assert!(worked.elapsed() < PATIENCE, "nothing can be written any more: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn transact(shared: &Shared, random: &mut StdRng) -> Result<(), sqlx::Error> {
    let pool = lock(&shared.pool).clone();
    let weights: u32 = shared.topics.iter().map(|(_, weight)| weight).sum();
    let mut rows: Vec<(usize, u32)> = (0..random.random_range(1..=ROWS))
        .map(|_| {
            let mut at = random.random_range(0..weights);
            let topic = shared.topics.iter().position(|(_, weight)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            });
            (topic.expect("below the sum"), random.random_range(0..KEYS))
        })
        .collect();
    // Keys are locked in one order, or writers would wait for each other in a circle.
    rows.sort_unstable();
    let commits = random.random_bool(0.9);
    let events: Vec<Uuid> = rows.iter().map(|_| Uuid::from_u128(random.random())).collect();
    let mut transaction = pool.begin().await?;
    for ((topic, key), event) in rows.iter().zip(&events) {
        let (topic, key) = (&shared.topics[*topic].0, format!("key-{key}"));
        let bytes = match shared.large.load(Ordering::Relaxed) {
            large if large > 0 && random.random_ratio(1, 4) => large,
            _ => random.random_range(60..400),
        };
        insert(shared, &mut transaction, topic, key, *event, bytes).await?;
    }
    if !commits {
        return transaction.rollback().await;
    }
    transaction.commit().await?;
    shared.committed.fetch_add(events.len(), Ordering::Relaxed);
    Ok(())
}

async fn insert(
    shared: &Shared,
    transaction: &mut Transaction<'static, Postgres>,
    topic: &str,
    key: String,
    event: Uuid,
    bytes: usize,
) -> Result<(), sqlx::Error> {
    let mut payload = event.to_string().into_bytes();
    payload.resize(bytes.max(payload.len()), b'.');
    let digest = digest(Some(&payload), [("traceparent", Some(TRACE.as_bytes()))]);
    let tried = Tried { topic: topic.to_owned(), key: key.clone(), digest };
    lock(&shared.tried).insert(event, tried);
    let insert = sqlx::query(WRITE).bind(topic).bind(&key).bind(event).bind(&payload).bind(TRACE);
    insert.bind(digest as i64).execute(&mut **transaction).await.map(|_| ())
}

/// A transaction that commits late.
pub struct Late {
    transaction: Transaction<'static, Postgres>,
    rows: usize,
    shared: Arc<Shared>,
}

impl Late {
    pub async fn commit(self) {
        self.transaction.commit().await.expect("commit");
        self.shared.committed.fetch_add(self.rows, Ordering::Relaxed);
    }

    /// The transaction is handed to the server under this name.
    pub async fn prepare(mut self, name: &str) {
        let prepared =
            sqlx::raw_sql(&format!("prepare transaction '{name}'")).execute(&mut *self.transaction).await;
        prepared.expect("prepare");
        // The server knows no transaction here any more: this only says so.
        self.transaction.rollback().await.ok();
    }
}

/// What must arrive byte for byte: the payload and the writer's headers.
pub fn digest<'h>(
    payload: Option<&[u8]>,
    headers: impl IntoIterator<Item = (&'h str, Option<&'h [u8]>)>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    headers.into_iter().for_each(|header| header.hash(&mut hasher));
    hasher.finish()
}

/// The digest of a record, without what the relay adds.
pub fn digest_of(record: &Record) -> u64 {
    let ours = record.headers.iter().filter(|(name, _)| name != "event-id" && !name.starts_with("outbox-"));
    digest(record.payload.as_deref(), ours.map(|(name, value)| (name.as_str(), value.as_deref())))
}
