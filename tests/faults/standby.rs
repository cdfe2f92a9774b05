//! The standby of a scenario's own Postgres, and its promotion.
//!
//! It follows through a proxy, so that it can be kept behind.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use outbox_relay::servers::PrivatePostgres;

use crate::cluster::local;
use crate::proxy::{Mode, Proxy};
use crate::scene::{Scene, pool};
use crate::support::blocking;

/// A server that follows.
pub struct Standby {
    server: Arc<PrivatePostgres>,
    /// Between it and the primary.
    line: Proxy,
    /// Commits wait for it.
    waits: bool,
}

impl Scene<'_> {
    /// Starts a standby; commits of the primary wait for it, or do not.
    pub async fn follow(&mut self, waits: bool) {
        let line = Proxy::start(local(self.postgres.server.port())).await.expect("a free port");
        let (primary, port) = (Arc::clone(&self.postgres.server), line.address().port());
        let server = blocking(move || PrivatePostgres::start_standby(&primary, "standby", port)).await;
        if waits {
            self.execute("alter system set synchronous_standby_names = 'standby'").await;
            self.execute("select pg_reload_conf()").await;
        }
        self.until("select exists (select from pg_stat_replication where state = 'streaming')").await;
        self.standby = Some(Standby { server: Arc::new(server), line, waits });
    }

    /// What the dead primary had committed, by event: it is started once more, and nobody but us asks it.
    pub async fn lost_truth(&self) -> HashMap<Uuid, i64> {
        if self.standby.as_ref().is_none_or(|standby| standby.waits) || self.postgres.server.pid().is_some() {
            return HashMap::new();
        }
        self.postgres_starts().await;
        let old = pool(&self.postgres.server.url(&self.database));
        let rows: Vec<(Uuid, i64)> = sqlx::query_as("select event, id from public.truth")
            .fetch_all(&old)
            .await
            .expect("read the old truth");
        self.postgres_stops(false).await;
        rows.into_iter().collect()
    }

    pub fn standby_port(&self) -> u16 {
        self.standby.as_ref().expect("this scenario has a standby").server.port()
    }

    /// The primary dies at once and the standby takes its place, for relays, writers and the harness.
    pub async fn promote(&mut self) {
        let standby = self.standby.as_ref().expect("this scenario has a standby");
        if !standby.waits {
            // It hears of nothing any more, while commits go on.
            standby.line.set(Mode::StopReading).await;
            self.more(100).await;
        }
        self.postgres_stops(false).await;
        let standby = self.standby.as_ref().expect("it was there above");
        let admin = pool(&standby.server.url(&self.database));
        sqlx::query("select pg_promote(true, 60)").execute(&admin).await.expect("it is promoted");
        sqlx::raw_sql("alter system reset synchronous_standby_names; select pg_reload_conf()")
            .execute(&admin)
            .await
            .ok();
        let port = standby.server.port();
        match &self.pooler {
            Some(pooler) => pooler.turn_to(port, &self.database).await,
            None => self.lead_to(port).await,
        }
        let standby = self.standby.as_ref().expect("it was there above");
        self.writers.turn_to(pool(&standby.server.url_as("app_login", &self.database)));
        self.admin = admin;
    }
}
