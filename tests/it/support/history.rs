//! Writers whose transactions take turns, and the comparison of what they committed with what a topic holds.
//!
//! The database says what was committed, never a writer: a commit whose answer got lost may have happened. A row's
//! payload is its key and its version; versions of a key are drawn under a row lock and rolled back with their
//! transaction, so a key's committed versions are 1, 2, 3, … in the order in which its writers took turns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::env::Env;
use super::relay::RelayBuilder;
use super::wait::eventually;

/// A server that is restarted under load on two busy cores comes back within this time, and what waited is relayed.
pub const RECOVERY: Duration = Duration::from_secs(90);

const WRITERS: u64 = 4;
const KEYS: u32 = 6;
/// Between two transactions of a writer: enough load to fill small windows, and most of the machine left to others.
const PACE: Duration = Duration::from_millis(10);
/// Rows of a transaction.
const ROWS_MAX: u32 = 3;

/// No more rows than this are committed in a second.
pub const ROWS_PER_SECOND: usize = WRITERS as usize * 100 * ROWS_MAX as usize;

/// The business table: a key's row is locked while its writer has its turn.
const TURNS: &str = "create table if not exists public.turn \
    (topic text, key text, version bigint not null, primary key (topic, key)) with (fillfactor = 20); \
    grant select, update on public.turn to outbox_producer";

const TAKE_A_TURN: &str = "with turn as ( \
        update public.turn set version = version + 1 where topic = $1 and key = $2 returning topic, key, version) \
    insert into outbox.message (topic, key, payload) \
    select topic, convert_to(key, 'UTF8'), convert_to(key || ' ' || version, 'UTF8') from turn";

/// What the ledger has to say before a history is complete: every row is named as published.
const ALL_PUBLISHED: &str = "select case \
    when (select l.high from outbox.ledger l order by l.epoch desc, l.seq desc limit 1) \
         < (select coalesce(max(id), 0) from outbox.message) then false \
    else coalesce((select range_agg(r) from outbox.ledger l cross join unnest(l.published) r), '{}') \
         @> (select coalesce(range_agg(int8range(id, id, '[]')), '{}') from outbox.message) end";

/// Makes a relay name its epoch in every record, which [`Delivered`] tells repetitions apart by.
pub fn traced(relay: RelayBuilder) -> RelayBuilder {
    relay.set("kafka.header_epoch", "outbox-epoch")
}

/// Writers at work. They outlast restarts of Postgres.
pub struct Load {
    stop: CancellationToken,
    committed: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writing rows of several keys to the topic; one transaction in ten is rolled back.
    pub async fn start(env: &Env, topic: &str) -> Self {
        Self::start_seeded(env, topic, rand::random()).await
    }

    /// As [`Self::start`], with choices that can be repeated.
    pub async fn start_seeded(env: &Env, topic: &str, seed: u64) -> Self {
        env.execute(TURNS).await;
        add_keys(env, topic, "key", KEYS).await;
        let (stop, committed) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let writer = |number| Writer {
            pool: env.app().clone(),
            topic: topic.to_owned(),
            choices: StdRng::seed_from_u64(seed.wrapping_add(number)),
            stop: stop.clone(),
            committed: Arc::clone(&committed),
        };
        let writers = (0..WRITERS).map(|number| tokio::spawn(writer(number).write())).collect();
        Self { stop, committed, writers }
    }

    /// Transactions that were committed so far.
    pub fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until this many more transactions have been committed.
    #[track_caller]
    pub fn more(&self, transactions: usize) -> impl Future<Output = ()> {
        let wanted = self.committed() + transactions;
        eventually(RECOVERY, "the writers get on", async move || self.committed() >= wanted)
    }

    /// Ends the writers after the transactions that they are in.
    pub async fn stop(self) {
        self.stop.cancel();
        for writer in self.writers {
            writer.await.expect("a writer does not panic");
        }
    }
}

struct Writer {
    pool: PgPool,
    topic: String,
    choices: StdRng,
    stop: CancellationToken,
    committed: Arc<AtomicUsize>,
}

/// A transaction to be.
struct Choice {
    keys: Vec<u32>,
    commits: bool,
}

impl Writer {
    async fn write(mut self) {
        let mut turns = interval(PACE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut worked = Instant::now();
        let mut next = self.choose();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = turns.tick() => {}
            }
            match self.transact(&next).await {
                Ok(()) => {
                    self.committed.fetch_add(usize::from(next.commits), Ordering::Relaxed);
                    worked = Instant::now();
                    next = self.choose();
                }
                // Postgres is away; the same transaction is tried at the next turn.
                Err(error) => {
                    assert!(worked.elapsed() < RECOVERY, "nothing can be written any more: {error}")
                }
            }
        }
    }

    fn choose(&mut self) -> Choice {
        let rows = self.choices.random_range(1..=ROWS_MAX);
        let mut keys: Vec<u32> = (0..rows).map(|_| self.choices.random_range(0..KEYS)).collect();
        // Keys are locked in one order, or writers would wait for each other in a circle.
        keys.sort_unstable();
        Choice { keys, commits: self.choices.random_bool(0.9) }
    }

    async fn transact(&self, choice: &Choice) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        for key in &choice.keys {
            take_a_turn(&mut transaction, &self.topic, &format!("key-{key}")).await?;
        }
        if choice.commits { transaction.commit().await } else { transaction.rollback().await }
    }
}

async fn take_a_turn(
    transaction: &mut Transaction<'_, Postgres>,
    topic: &str,
    key: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(TAKE_A_TURN).bind(topic).bind(key).execute(&mut **transaction).await.map(|_| ())
}

async fn add_keys(env: &Env, topic: &str, prefix: &str, keys: u32) {
    let add = "insert into public.turn select $1, $2 || '-' || n, 0 from generate_series(0, $3 - 1) n";
    let added = sqlx::query(add).bind(topic).bind(prefix).bind(keys as i32).execute(env.admin()).await;
    added.expect("the keys are new");
}

/// An open transaction that has written `rows` rows, of keys of its own.
pub async fn open_transaction(env: &Env, topic: &str, rows: u32) -> Transaction<'static, Postgres> {
    const OWN_KEYS: u32 = 5;
    env.execute(TURNS).await;
    add_keys(env, topic, "late", OWN_KEYS).await;
    let mut transaction = env.app().begin().await.expect("begin");
    for row in 0..rows {
        let key = format!("late-{}", row % OWN_KEYS);
        take_a_turn(&mut transaction, topic, &key).await.expect("write a row");
    }
    transaction
}

/// A history that held: nothing lost, nothing invented, order kept.
#[derive(Debug)]
pub struct Delivered {
    /// Rows that were committed.
    pub rows: usize,
    /// By epoch: rows that it sent and a later epoch sent again.
    pub repeated_after: BTreeMap<i64, usize>,
    /// Records that repeat one of the same epoch.
    pub repeated_within: usize,
    /// The epochs that sent something.
    pub epochs: Vec<i64>,
}

impl Delivered {
    /// Rows of this epoch that a later one sent again.
    pub fn repeated_after(&self, epoch: i64) -> usize {
        self.repeated_after.get(&epoch).copied().unwrap_or(0)
    }

    /// Each epoch left at most this many rows that had to be sent again, and none sent anything twice itself.
    #[track_caller]
    pub fn assert_repeated_at_most(&self, window_rows: usize) {
        assert_eq!(self.repeated_within, 0, "no epoch repeats itself: {self:?}");
        for (epoch, rows) in &self.repeated_after {
            assert!(
                *rows <= window_rows,
                "epoch {epoch} left more than its window of {window_rows}: {self:?}"
            );
        }
    }
}

/// Waits until all that was committed is published, then holds it against the topic: nothing lost, nothing that was
/// never committed, every key's rows in the order of their first appearance, and every receipt leads to its record.
#[track_caller]
pub fn expect_history(env: &Env, topic: &str) -> impl Future<Output = Delivered> {
    let caller = Location::caller();
    async move {
        eventually(RECOVERY, "all that was committed is published", async || {
            let answer = sqlx::query_scalar::<_, Option<bool>>(ALL_PUBLISHED).fetch_one(env.admin()).await;
            answer.is_ok_and(|answer| answer == Some(true))
        })
        .await;
        let delivered = compare(env, topic).await.unwrap_or_else(|fault| panic!("{caller}: {fault}"));
        eprintln!("{caller}: {delivered:?}");
        delivered
    }
}

async fn compare(env: &Env, topic: &str) -> Result<Delivered, String> {
    let rows: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("select event_id, payload from outbox.message where topic = $1")
            .bind(topic)
            .fetch_all(env.admin())
            .await
            .expect("read the rows");
    let versions: Vec<(String, i64)> =
        sqlx::query_as("select key, version from public.turn where topic = $1 order by key")
            .bind(topic)
            .fetch_all(env.admin())
            .await
            .expect("read the versions");
    let receipts: Vec<(Uuid, Option<i32>, Option<i64>)> = sqlx::query_as(
        "select event_id, record_partition, record_offset from outbox.status where topic = $1",
    )
    .bind(topic)
    .fetch_all(env.admin())
    .await
    .expect("read the receipts");
    let records = env.read_topic(topic).await;

    let committed: HashMap<Uuid, &[u8]> = rows.iter().map(|(id, payload)| (*id, &payload[..])).collect();
    let mut seen: HashMap<Uuid, Vec<i64>> = HashMap::new();
    let mut places: HashMap<(i32, i64), Uuid> = HashMap::new();
    let mut orders: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for record in &records {
        let id = record.event_id();
        places.insert((record.partition, record.offset), id);
        let Some(payload) = committed.get(&id) else {
            return Err(format!("a record of something that was never committed: {record:?}"));
        };
        if record.payload.as_deref() != Some(*payload) {
            return Err(format!("a record with another payload than its row: {record:?}"));
        }
        let epochs = seen.entry(id).or_default();
        if epochs.is_empty() {
            let payload = std::str::from_utf8(payload).expect("text");
            let (key, version) = payload.split_once(' ').expect("a key and a version");
            orders.entry(key).or_default().push(version.parse().expect("a version is a number"));
        }
        epochs.push(record.epoch().unwrap_or(0));
    }

    let lost: Vec<&(Uuid, Vec<u8>)> = rows.iter().filter(|(id, _)| !seen.contains_key(id)).collect();
    if let Some((_, example)) = lost.first() {
        let example = String::from_utf8_lossy(example);
        return Err(format!("{} of {} rows lost, {example} for one", lost.len(), rows.len()));
    }
    for (key, version) in &versions {
        let order = orders.remove(key.as_str()).unwrap_or_default();
        if !order.iter().copied().eq(1..=*version) {
            return Err(format!("{key} has versions up to {version}, which appeared as {order:?}"));
        }
    }
    for (id, partition, offset) in receipts {
        let Some(partition) = partition else { return Err(format!("row {id} has no receipt")) };
        if offset.is_some_and(|offset| places.get(&(partition, offset)) != Some(&id)) {
            return Err(format!("the receipt of row {id} leads to another record"));
        }
    }
    Ok(count(rows.len(), seen.into_values()))
}

fn count(rows: usize, sent: impl Iterator<Item = Vec<i64>>) -> Delivered {
    let mut delivered =
        Delivered { rows, repeated_after: BTreeMap::new(), repeated_within: 0, epochs: Vec::new() };
    for epochs in sent {
        let distinct: HashSet<i64> = epochs.iter().copied().collect();
        delivered.repeated_within += epochs.len() - distinct.len();
        delivered.epochs.extend(&distinct);
        let last = epochs.iter().copied().max().expect("it was sent");
        for epoch in distinct.into_iter().filter(|epoch| *epoch < last) {
            *delivered.repeated_after.entry(epoch).or_default() += 1;
        }
    }
    delivered.epochs.sort_unstable();
    delivered.epochs.dedup();
    delivered
}
