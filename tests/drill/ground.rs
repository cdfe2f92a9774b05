//! What is broken: Postgres, Kafka, two relays, services that write, and Prometheus beside them.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::prometheus::Prometheus;
use crate::support::{Env, Relay};

/// Each topic of the steady traffic gets a message so often.
const WRITE_EVERY: Duration = Duration::from_millis(40);

pub struct Ground {
    pub env: Arc<Env>,
    pub prometheus: Prometheus,
    pub orders: String,
    pub mail: String,
    /// Its messages may be too large for it; they are given up at once.
    pub parcels: String,
    /// The same, and they are tried again, hours later.
    pub invoices: String,
    /// Its records get lost.
    pub ledgers: String,
    /// Nobody has created it.
    pub ghosts: String,
    /// Of at-most-once messages.
    pulse: String,
    /// The relay's own.
    pub heartbeat: String,
    pub relays: [Option<Relay>; 2],
    addresses: [String; 2],
    /// A transaction that somebody has forgotten.
    pub forgotten: Option<PgConnection>,
    stop: CancellationToken,
}

impl Ground {
    pub async fn start() -> Ground {
        let env = Arc::new(Env::builder().own_postgres().own_kafka().start().await);
        let limited = [("max.message.bytes", "2000")];
        let mut ground = Ground {
            orders: env.create_topic("orders", 3, &[]).await,
            mail: env.create_topic("mail", 3, &[]).await,
            parcels: env.create_topic("parcels", 1, &limited).await,
            invoices: env.create_topic("invoices", 1, &limited).await,
            pulse: env.create_topic("pulse", 1, &[]).await,
            ledgers: env.create_topic("ledgers", 1, &[]).await,
            heartbeat: env.create_topic("heartbeat", 1, &[]).await,
            ghosts: env.topic("ghosts"),
            prometheus: Prometheus::start().await,
            relays: [None, None],
            addresses: [String::new(), String::new()],
            forgotten: None,
            stop: CancellationToken::new(),
            env,
        };
        // As `check` advises: without it the relay does not see what other logins leave open.
        ground.env.execute("grant pg_read_all_stats to relay_login").await;
        ground.start_relays().await;
        let topics = [ground.orders.clone(), ground.mail.clone(), ground.pulse.clone()];
        tokio::spawn(ground.stop.clone().run_until_cancelled_owned(write(Arc::clone(&ground.env), topics)));
        ground.say(&["reconcile", "--from", "1h"]).await;
        ground
    }

    /// Starts those that do not run.
    pub async fn start_relays(&mut self) {
        for (slot, address) in self.relays.iter_mut().zip(&mut self.addresses) {
            if slot.is_some() {
                continue;
            }
            let relay = self.env.restricted_relay().await;
            // The relay's own times, a fifth and less of the defaults; nothing is tried again while the drill lasts.
            let relay = relay.set("lease.ttl", "1s").set("kafka.stall_after", "2s").set("retry.base", "1h");
            let relay = relay.set("retry.max", "2h").set("retry.age", "3d").set("retry.attempts", 1000);
            let relay = relay.set("heartbeat.topic", &self.heartbeat).set("heartbeat.every", "500ms");
            let relay = relay
                .topic(&self.orders, "owner = 'checkout'\ntier = 'critical'")
                .topic(&self.mail, "owner = 'mail'")
                .topic(&self.parcels, "owner = 'shipping'\nattempts = 1")
                .topic(&self.invoices, "owner = 'billing'\ntier = 'low'")
                .topic(&self.ledgers, "owner = 'billing'")
                .topic(&self.ghosts, "owner = 'checkout'\ntier = 'critical'")
                .topic(&self.heartbeat, "owner = 'platform'\ntier = 'low'")
                .topic(&self.pulse, "owner = 'web'\ntier = 'low'\ndelivery = 'at_most_once'");
            let relay = relay.expect_errors().start().await;
            *address = relay.address();
            *slot = Some(relay);
        }
        let [first, second] = &self.addresses;
        self.prometheus.set_targets(&[("relay-a", first.clone()), ("relay-b", second.clone())]);
    }

    /// SIGKILL for the one that leads, or for both.
    pub async fn kill_relays(&mut self, both: bool) {
        for slot in &mut self.relays {
            let leads = match slot {
                Some(relay) => relay.metrics().await.value("outbox_leader", &[]) == 1.0,
                None => false,
            };
            if (both || leads)
                && let Some(relay) = slot.take()
            {
                relay.kill().await;
            }
        }
    }

    /// Messages of one key, each of so many bytes.
    pub async fn write(&self, topic: &str, key: &str, messages: i32, bytes: i32) {
        let sql = "insert into outbox.message (topic, key, payload) \
                   select $1, convert_to($2, 'UTF8'), convert_to(repeat('x', $4), 'UTF8') from generate_series(1, $3)";
        let written =
            sqlx::query(sql).bind(topic).bind(key).bind(messages).bind(bytes).execute(self.env.app());
        written.await.expect("written");
    }

    /// Deletes the topic with records that were confirmed, and creates it anew: as a broker does that has lost its disk.
    pub async fn lose_records(&self) {
        self.write(&self.ledgers, "k", 20, 10).await;
        self.env.expect_records(&self.ledgers, 20).await;
        let waits = format!(
            "select count(*) = 20 from outbox.status where topic = '{}' and state = 'published'",
            self.ledgers
        );
        self.env.eventually_true(&waits).await;
        self.env.delete_topic(&self.ledgers).await;
        self.env.create_topic("ledgers", 1, &[]).await;
    }

    /// Opens a transaction that has written something, and leaves it open.
    pub async fn forget_a_transaction(&mut self) {
        let mut connection = PgConnection::connect(&self.env.admin_url()).await.expect("connect");
        sqlx::raw_sql("begin; select pg_current_xact_id()").execute(&mut connection).await.expect("begun");
        self.forgotten = Some(connection);
    }

    /// An operator's command, as typed. Returns its exit code.
    pub async fn say(&self, arguments: &[&str]) -> i32 {
        let brokers = self.env.kafka().await.server.brokers();
        let said = tokio::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
            .args(arguments)
            .current_dir(std::env::temp_dir())
            .env("DATABASE_URL", self.env.url_as("admin_login"))
            .env("KAFKA_BROKERS", brokers)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("it starts");
        let code = said.status.code().unwrap_or(-1);
        // Done, asked without waiting, or something was found.
        if ![0, 3, 4].contains(&code) {
            panic!("{arguments:?}: {code}: {}", String::from_utf8_lossy(&said.stderr));
        }
        code
    }

    pub async fn end(mut self) {
        self.stop.cancel();
        self.kill_relays(true).await;
        self.prometheus.kill();
    }
}

/// Services that write all the time, whether anybody publishes it or not.
async fn write(env: Arc<Env>, topics: [String; 3]) {
    let mut due = tokio::time::interval(WRITE_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let sql = "insert into outbox.message (topic, key, payload) \
               select topic, convert_to('k' || $2 % 50, 'UTF8'), '{}' from unnest($1::text[]) as topic";
    for number in 0_i64.. {
        due.tick().await;
        // While Postgres is down nobody can write.
        let _ = sqlx::query(sql).bind(&topics[..]).bind(number).execute(env.app()).await;
    }
}
