//! What is sent: rows of a size, with keys, to topics. The same rows for every contender.

use std::fmt::Write;

/// Rows of one insert.
const CHUNK: i64 = 50_000;
pub const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Which keys rows have.
#[derive(Clone, Copy, PartialEq)]
pub enum Keys {
    /// Ten thousand.
    Many,
    /// One for all.
    Hot,
    /// None at all.
    None,
}

/// A kind of rows.
#[derive(Clone)]
pub struct Workload {
    pub name: &'static str,
    pub bytes: usize,
    pub keys: Keys,
    pub partitions: i32,
    pub topics: usize,
    pub compression: Option<&'static str>,
    /// Of the rows of the bar; larger rows come in smaller numbers.
    pub share: f64,
}

/// The rows of the bar.
pub const BAR: Workload = Workload {
    name: "240 B, 10,000 keys, 12 partitions",
    bytes: 240,
    keys: Keys::Many,
    partitions: 12,
    topics: 1,
    compression: None,
    share: 1.0,
};

/// Rows for the bound of memory.
pub const KILOBYTE: Workload = Workload { name: "1 kB", bytes: 1000, share: 0.5, ..BAR };

/// `MATRIX=all`: everything, which takes hours.
pub fn is_everything() -> bool {
    std::env::var("MATRIX").is_ok_and(|text| text == "all")
}

/// The bar, and with `MATRIX=all` everything that differs from it in one thing.
pub fn all() -> Vec<Workload> {
    if is_everything() {
        vec![
            BAR,
            Workload { name: "100 B", bytes: 100, ..BAR },
            KILOBYTE,
            Workload { name: "10 kB", bytes: 10_000, share: 0.05, ..BAR },
            Workload { name: "one hot key", keys: Keys::Hot, ..BAR },
            Workload { name: "no key", keys: Keys::None, ..BAR },
            Workload { name: "1 partition", partitions: 1, ..BAR },
            Workload { name: "96 partitions", partitions: 96, ..BAR },
            Workload { name: "50 topics", topics: 50, partitions: 4, ..BAR },
            Workload { name: "lz4", compression: Some("lz4"), ..BAR },
            Workload { name: "zstd", compression: Some("zstd"), ..BAR },
        ]
    } else {
        vec![BAR]
    }
}

impl Workload {
    /// Whole chunks would hide small sizes: exactly so many rows.
    pub fn rows(&self, of_the_bar: u64) -> u64 {
        ((of_the_bar as f64 * self.share) as u64).max(1)
    }

    /// Its topics, of a contender.
    pub fn topics(&self, contender: &str) -> Vec<String> {
        let word: String = self.name.chars().filter(char::is_ascii_alphanumeric).collect();
        (0..self.topics).map(|n| format!("{contender}-{word}-{n}")).collect()
    }

    /// The payload of a row. Digits that look random where they are to be compressed, as in ids and sums.
    pub fn payload(&self, n: u64, into: &mut String) {
        into.clear();
        write!(into, "{{\"order\": {n}, \"items\": \"").expect("writing to a string does not fail");
        let mut state = n;
        while into.len() < self.bytes - 2 {
            if self.compression.is_some() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                write!(into, "{:08x}", state >> 32).expect("writing to a string does not fail");
            } else {
                into.push('x');
            }
        }
        into.truncate(self.bytes - 2);
        into.push_str("\"}");
    }

    /// The key of a row.
    pub fn key(&self, n: u64, into: &mut String) {
        into.clear();
        match self.keys {
            Keys::Many => write!(into, "customer-{}", n % 10_000),
            Keys::Hot => write!(into, "customer-1"),
            Keys::None => Ok(()),
        }
        .expect("writing to a string does not fail");
    }

    /// Expressions over a number `n` that make topic, key and payload in SQL; `$1` is an array of topics.
    pub fn expressions(&self) -> [String; 3] {
        let key = match self.keys {
            Keys::Many => "'customer-' || n % 10000",
            Keys::Hot => "'customer-1'",
            Keys::None => "null",
        };
        let inner = self.bytes - 2;
        let payload = if self.compression.is_some() {
            let digests = self.bytes / 32 + 1;
            format!(
                "left('{{\"order\": ' || n || ', \"items\": \"' || (select string_agg(md5(n::text || i), '') from generate_series(1, {digests}) i), {inner}) || '\"}}'"
            )
        } else {
            format!("rpad('{{\"order\": ' || n || ', \"items\": \"', {inner}, 'x') || '\"}}'")
        };
        [
            format!("$1::text[][1 + n % {}]", self.topics).replace("$1::text[]", "($1::text[])"),
            key.to_owned(),
            payload,
        ]
    }

    /// Writes rows with an insert that has `$1` the topics, `$2` the first number and `$3` the last.
    pub async fn fill(&self, pool: &sqlx::PgPool, insert: &str, topics: &[String], rows: u64) {
        let (mut from, rows) = (1, rows as i64);
        while from <= rows {
            let until = rows.min(from + CHUNK - 1);
            let query = sqlx::query(insert).bind(topics).bind(from).bind(until);
            query.execute(pool).await.expect("insert");
            from = until + 1;
        }
        sqlx::query("checkpoint").execute(pool).await.expect("checkpoint");
    }

    /// Into the relay's outbox.
    pub fn outbox_insert(&self) -> String {
        let [topic, key, payload] = self.expressions();
        format!(
            "insert into outbox.message (topic, key, payload, headers)
             select {topic}, convert_to({key}, 'UTF8'), convert_to({payload}, 'UTF8'), '{{\"traceparent\": \"{TRACEPARENT}\"}}'
               from generate_series($2::bigint, $3::bigint) n"
        )
    }
}
