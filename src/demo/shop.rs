//! The order service: what a service does that writes through an outbox, in [`place_order`].
//!
//! Some orders are rolled back after their outbox row was written, and some commit late: their outbox row has its id, and
//! rows with larger ids are committed, seen and published before it. Both are what a naive relay gets wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::tally::Tally;
use crate::store::demo::ShopConnection;
use crate::store::publish::Message;

/// How many connections write at the same time.
pub const CONNECTIONS: usize = 4;
/// How many customers there are; each is a key whose order must hold.
pub const CUSTOMERS: i32 = 40;

/// One order in so many is rolled back.
const ROLLED_BACK: f64 = 0.1;
/// One order in so many commits late, by so many milliseconds.
const LATE: f64 = 0.02;
const LATE_MS: std::ops::Range<u64> = 50..300;

/// The order service, at work. It stops by itself after the given number of orders, or when it is told to.
#[derive(Debug)]
pub struct Shop {
    writers: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
    begun: Arc<AtomicU64>,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Commit,
    CommitAfter(Duration),
    RollBack,
}

impl Shop {
    /// Opens the connections and begins to write messages for `topic`.
    pub async fn open(url: &str, topic: &str, orders: u64, tally: &Arc<Tally>) -> anyhow::Result<Shop> {
        let mut shop =
            Shop { writers: JoinSet::new(), stop: CancellationToken::new(), begun: Arc::default() };
        for _ in 0..CONNECTIONS {
            let connection = ShopConnection::open(url).await?;
            let (stop, begun) = (shop.stop.clone(), Arc::clone(&shop.begun));
            let (topic, tally) = (topic.to_owned(), Arc::clone(tally));
            shop.writers.spawn(async move {
                let mut connection = connection;
                while !stop.is_cancelled() && begun.fetch_add(1, Ordering::Relaxed) < orders {
                    place_order(&mut connection, &topic, &tally).await?;
                }
                connection.close().await;
                Ok(())
            });
        }
        Ok(shop)
    }

    /// How many orders were begun, whatever their end.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Asks to stop; transactions that are open end in their own way.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether all connections are done. Fails as soon as one has failed.
    pub fn is_done(&mut self) -> anyhow::Result<bool> {
        while let Some(ended) = self.writers.try_join_next() {
            ended??;
        }
        Ok(self.writers.is_empty())
    }
}

/// One order: the business row and its message in one transaction. The customer's row is locked first, so the orders of
/// a customer take turns and their messages have the order of the turns.
async fn place_order(connection: &mut ShopConnection, topic: &str, tally: &Tally) -> anyhow::Result<()> {
    let (id, customer) = (Uuid::new_v4(), format!("customer-{:03}", rand::rng().random_range(1..=CUSTOMERS)));
    let cents = rand::rng().random_range(100..50_000);

    let mut turn = connection.take_turn(&customer).await?;
    turn.insert_order(id, &customer, cents).await?;
    let placed = serde_json::json!({ "order": id.to_string(), "customer": customer, "version": turn.version, "cents": cents });
    let message = Message::new(topic).event_id(id).key(customer.as_str()).json(&placed)?;
    turn.publish(&message).await?;

    match draw_end() {
        End::RollBack => {
            turn.roll_back().await?;
            tally.rolled_back();
            return Ok(());
        }
        End::CommitAfter(pause) => {
            tally.late();
            tokio::time::sleep(pause).await;
        }
        End::Commit => {}
    }
    turn.commit().await?;
    tally.committed(id);
    Ok(())
}

fn draw_end() -> End {
    let mut random = rand::rng();
    match random.random::<f64>() {
        drawn if drawn < ROLLED_BACK => End::RollBack,
        drawn if drawn < ROLLED_BACK + LATE => {
            End::CommitAfter(Duration::from_millis(random.random_range(LATE_MS)))
        }
        _ => End::Commit,
    }
}
