//! Random services: transactions of every shape that write outbox rows, on keys for which they take turns.
//!
//! A key's turn is a row lock on its account, as in real services. The account counts versions and each outbox row
//! carries its own, so versions ascend in the order of the commits that a consumer must see.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use super::verdict::Row;

const HOT: usize = 4;
const COLD: usize = 200;

/// How much is written.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub writers: usize,
    pub transactions_per_writer: usize,
}

/// Creates the accounts; once per database.
pub async fn open_accounts(admin_url: &str) {
    let sql = format!(
        "create table account (key text primary key, version bigint not null default 0);
         insert into account select 'hot-' || n from generate_series(1, {HOT}) n
         union all select 'cold-' || n from generate_series(1, {COLD}) n union all select 'huge';
         create table noise (n integer);
         grant select, update on account to app_login;
         grant insert on noise to app_login"
    );
    let mut admin = PgConnection::connect(admin_url).await.expect("the server answers");
    sqlx::raw_sql(&sql).execute(&mut admin).await.expect("the superuser may create tables");
}

/// Runs all writers to their end.
pub async fn write(app_url: &str, load: Load, seed: u64) {
    let mut writers = JoinSet::new();
    for number in 0..load.writers {
        let url = app_url.to_owned();
        let random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        writers.spawn(async move {
            let connection = PgConnection::connect(&url).await.expect("the server answers");
            let mut writer = Writer { connection, random };
            for turn in 0..load.transactions_per_writer {
                // Two writers write huge transactions, rarely: each holds its turn for a while.
                let huge = number < 2 && turn % 8 == 3;
                let written = if huge { writer.huge().await } else { writer.transaction().await };
                written.unwrap_or_else(|error| panic!("writer {number}, transaction {turn}: {error}"));
            }
            writer.connection.close().await.expect("a connection that worked can be closed");
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("no writer fails");
    }
}

/// What the table holds: the truth.
pub async fn committed(admin_url: &str) -> Vec<Row> {
    let mut admin = PgConnection::connect(admin_url).await.expect("the server answers");
    let rows: Vec<(i64, Option<Vec<u8>>, Vec<u8>)> =
        sqlx::query_as("select id, key, payload from outbox.message order by id")
            .fetch_all(&mut admin)
            .await
            .expect("the superuser may read");
    rows.into_iter()
        .map(|(id, key, payload)| Row::new(id, key.map(Vec::into_boxed_slice), &payload))
        .collect()
}

struct Writer {
    connection: PgConnection,
    random: StdRng,
}

impl Writer {
    async fn transaction(&mut self) -> Result<(), sqlx::Error> {
        self.say("begin").await?;
        if self.random.random_bool(0.3) {
            // An early number: whoever comes later may commit earlier.
            self.say("insert into noise values (1)").await?;
            self.pause(0.5, 30).await?;
        }
        // In one order for all, or writers would deadlock.
        let mut keys: Vec<Option<String>> =
            (0..self.random.random_range(1..=3)).map(|_| self.key()).collect();
        keys.sort();
        for key in keys {
            let savepoint = self.random.random_bool(0.3);
            if savepoint {
                self.say("savepoint here").await?;
            }
            let rows = self.random.random_range(1..=4);
            self.rows(key.as_deref(), rows).await?;
            // The ids are drawn, the commit is still far away.
            self.pause(0.3, 60).await?;
            if savepoint {
                let back = self.random.random_bool(0.5);
                self.say(if back { "rollback to savepoint here" } else { "release savepoint here" }).await?;
            }
        }
        self.pause(0.1, 150).await?;
        let rolled_back = self.random.random_bool(0.2);
        self.say(if rolled_back { "rollback" } else { "commit" }).await
    }

    /// More rows than any page takes, committed when others have long gone on.
    async fn huge(&mut self) -> Result<(), sqlx::Error> {
        self.say("begin").await?;
        let rows = self.random.random_range(200..=600);
        self.rows(Some("huge"), rows).await?;
        self.pause(1.0, 200).await?;
        self.say("commit").await
    }

    fn key(&mut self) -> Option<String> {
        match self.random.random_range(0..100) {
            0..30 => Some(format!("hot-{}", self.random.random_range(1..=HOT))),
            30..90 => Some(format!("cold-{}", self.random.random_range(1..=COLD))),
            _ => None,
        }
    }

    /// Waits for the key's turn, then writes rows with the next versions, in one of the ways in which services do.
    async fn rows(&mut self, key: Option<&str>, rows: i64) -> Result<(), sqlx::Error> {
        let turn = "select version from account where key = $1 for update";
        let connection = &mut self.connection;
        let version: i64 = match key {
            Some(key) => sqlx::query_scalar(turn).bind(key).fetch_one(&mut *connection).await?,
            None => 0,
        };
        let ways = [
            "insert into outbox.message (topic, key, payload)
             select 't', convert_to($1, 'UTF8'), convert_to(($2 + n)::text, 'UTF8') from generate_series(1, $3) n",
            "select outbox.publish('t', $1::text, ($2 + n)::text) from generate_series(1, $3) n order by n",
            "insert into outbox.message (topic, key, payload)
             values ('t', convert_to($1, 'UTF8'), convert_to(($2 + $3 - 1)::text, 'UTF8')),
                    ('t', convert_to($1, 'UTF8'), convert_to(($2 + $3)::text, 'UTF8'))",
        ];
        let way = self.random.random_range(0..if rows == 2 { 3 } else { 2 });
        sqlx::query(ways[way]).bind(key).bind(version).bind(rows).execute(&mut *connection).await?;
        let count = "update account set version = version + $2 where key = $1";
        sqlx::query(count).bind(key).bind(rows).execute(connection).await?;
        Ok(())
    }

    /// With this probability, lets up to so many milliseconds pass inside the transaction.
    async fn pause(&mut self, probability: f64, up_to_ms: u32) -> Result<(), sqlx::Error> {
        if !self.random.random_bool(probability) {
            return Ok(());
        }
        let seconds = f64::from(self.random.random_range(1..=up_to_ms)) / 1000.0;
        sqlx::query("select pg_sleep($1)").bind(seconds).execute(&mut self.connection).await.map(|_| ())
    }

    async fn say(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&mut self.connection).await.map(|_| ())
    }
}
