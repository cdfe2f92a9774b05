//! PgBouncer in transaction mode before Postgres: what is behind it can change while connections with relays stay.

use std::sync::Arc;

use outbox_relay::servers::{PoolerOptions, PrivatePooler};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, raw_sql};

use crate::scene::Scene;
use crate::support::blocking;

/// A pooler of a scenario's own.
pub struct Pooler(Arc<PrivatePooler>);

impl Scene<'_> {
    /// From now on new relays connect through a pooler.
    pub async fn pool_connections(&mut self) {
        let options = PoolerOptions::new(self.postgres.server.port(), &["postgres", "relay_login"]);
        self.pooler = Some(Pooler(Arc::new(blocking(|| PrivatePooler::start(options)).await)));
    }
}

impl Pooler {
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// The database is on another server from now on, as an operator says it after a promotion.
    pub async fn turn_to(&self, port: u16, database: &str) {
        let (pooler, named) = (Arc::clone(&self.0), database.to_owned());
        blocking(move || pooler.turn_to(port, &[&named])).await;
        let console: PgConnectOptions = self.0.url_as("postgres", "pgbouncer").parse().expect("a URL");
        let mut console = console.extra_float_digits(None).connect().await.expect("its console answers");
        for order in ["reload", "reconnect"] {
            console.execute(raw_sql(order)).await.unwrap_or_else(|error| panic!("{order}: {error}"));
        }
        console.close().await.ok();
    }
}
