//! A database, a topic of healthy rows and a relay: what measurements of healthy rows beside something else stand on.

use std::time::{Duration, Instant};

use sqlx::{PgExecutor, PgPool};

use crate::drain::Ground;
use crate::relay_process::Relay;
use crate::{latency, prepare, topics};

/// Every so many rows one that is larger, of so many keys.
#[derive(Clone, Copy)]
pub struct Large {
    pub every: i64,
    pub keys: i64,
    pub bytes: usize,
}

pub const NONE: Large = Large { every: i64::MAX, keys: 1, bytes: 0 };

/// One database, one topic of healthy rows, one relay.
pub struct Bed {
    pub pool: PgPool,
    pub name: String,
    pub url: String,
    pub brokers: String,
    pub relay: Option<Relay>,
}

impl Bed {
    /// Makes them, and lets a first few rows through.
    pub async fn make(ground: &Ground, name: String, settings: &[(&str, &str)]) -> Bed {
        prepare(&ground.postgres, &name).await;
        topics::create(&ground.kafka.brokers(), std::slice::from_ref(&name), 12);
        let url = ground.postgres.url(&name);
        let pool = PgPool::connect(&url).await.expect("connect");
        let mut bed = Bed { pool, name, url, brokers: ground.kafka.brokers(), relay: None };
        bed.start(settings);
        bed.flow(20_000, NONE).await;
        bed
    }

    pub fn start(&mut self, settings: &[(&str, &str)]) {
        self.relay = Some(Relay::start_with(&self.url, self.brokers.clone(), settings));
    }

    /// Rows of a topic, of ten thousand keys, all visible at once; some of them large, and those of keys of their own.
    pub async fn write(&self, topic: &str, rows: i64, large: Large) {
        self.write_in(&self.pool, topic, rows, large).await;
    }

    /// … or when the transaction ends.
    pub async fn write_in(&self, place: impl PgExecutor<'_>, topic: &str, rows: i64, large: Large) {
        let Large { every, keys, bytes } = large;
        let sql = "
            insert into outbox.message (topic, key, payload)
            select $1, convert_to(case when n % $4 = 0 then 'large-' || n / $4 % $5 else 'customer-' || n % 10000 end, 'UTF8'),
                   case when n % $4 = 0 then $3 else convert_to(rpad(n::text, 240, 'x'), 'UTF8') end
              from generate_series(1, $2) n";
        // No compression makes it small.
        let mut noise = vec![0_u8; bytes];
        rand::Rng::fill(&mut rand::rng(), &mut noise[..]);
        let query = sqlx::query(sql).bind(topic).bind(rows).bind(noise).bind(every).bind(keys);
        query.execute(place).await.expect("insert");
    }

    /// Another relay takes over.
    pub async fn start_again(&mut self, settings: &[(&str, &str)]) {
        self.relay = None;
        self.start(settings);
        self.flow(1000, NONE).await;
    }

    /// 200 rows a second for 20 seconds, in a topic of their own.
    pub async fn latency(&self) -> latency::Latency {
        let topic = format!("latency_{}", self.name);
        topics::create(&self.brokers, std::slice::from_ref(&topic), 12);
        latency::measure(&self.pool, self.brokers.clone(), &topic, latency::OUTBOX, 200, 20).await
    }

    pub async fn one(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("a number")
    }

    pub async fn until(&self, what: &str, sql: &str) {
        let deadline = Instant::now() + Duration::from_secs(600);
        while self.one(&format!("select ({sql})::int::bigint")).await == 0 {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How far the healthy topic is settled: to main's position, or to its lane's while it has one. Beside another topic a backlog is
    /// a flood, is read in a lane, and main passes its rows long before they are sent.
    pub async fn high(&self) -> i64 {
        let main = "select coalesce(late_after, high) from outbox.ledger where lane is null order by epoch desc, seq desc limit 1";
        let lane =
            format!("select coalesce(late_after, high) from outbox.open_lane where topic = '{}'", self.name);
        self.one(&format!("select least(({main}), ({lane}))")).await
    }

    /// Waits until every row of the healthy topic is settled, and main has passed all others.
    pub async fn passed_all(&self) {
        let last = self.one("select max(id) from outbox.message").await;
        let deadline = Instant::now() + Duration::from_secs(3600);
        while self.high().await < last {
            assert!(Instant::now() < deadline, "main gets to the end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes rows to the healthy topic and waits until they are settled. Rows a second.
    pub async fn flow(&self, rows: i64, large: Large) -> f64 {
        self.write(&self.name, rows, large).await;
        let began = Instant::now();
        self.passed_all().await;
        rows as f64 / began.elapsed().as_secs_f64()
    }

    /// The heads of some keys are too large, and rows wait behind each.
    pub async fn block(&self, topic: &str, keys: i64, rows: i64) {
        let sql = "
            insert into outbox.message (topic, key, payload)
            select $1, convert_to('k' || n % $2, 'UTF8'),
                   convert_to(rpad(n::text, case when n < $2 then 5000 else 240 end, 'x'), 'UTF8')
              from generate_series(0, $2 * $3 - 1) n order by n";
        sqlx::query(sql).bind(topic).bind(keys).bind(rows).execute(&self.pool).await.expect("insert");
        self.until("they are deferred", &format!("select count(*) = {} from outbox.deferred", keys * rows))
            .await;
    }

    pub fn peak(&self) -> f64 {
        self.relay.as_ref().expect("it runs").peak_megabytes()
    }
}
