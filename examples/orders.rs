//! A small order service: every order and its event are written in one transaction, so Kafka gets exactly the events
//! whose orders exist.
//!
//! ```console
//! $ export DATABASE_URL=postgres://postgres@localhost/shop
//! $ outbox-relay migrate
//! $ cargo run --example orders
//! ```
//! It makes a table `orders` in that database if there is none. With a relay running on the same database, the events
//! appear on the topic `orders` (create it first; the relay never does).
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use outbox_relay::{Message, publish};
use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum OrderEvent<'a> {
    Placed { order: i64, customer: &'a str, cents: i64 },
    Paid { order: i64 },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database = env::var("DATABASE_URL").map_err(|_| anyhow::anyhow!("set DATABASE_URL"))?;
    let pool = PgPoolOptions::new().max_connections(4).connect(&database).await?;
    sqlx::raw_sql(
        "create table if not exists orders (
            id bigint generated always as identity primary key,
            customer text not null,
            cents bigint not null,
            paid boolean not null default false
        )",
    )
    .execute(&pool)
    .await?;

    let order = place_order(&pool, "ada", 4200).await?;
    println!("order {order} is placed");
    pay_order(&pool, order).await?;
    println!("order {order} is paid");

    // A transaction that fails takes its event with it.
    let unpaid = place_order(&pool, "", 100).await;
    println!("an order without a customer: {}", unpaid.expect_err("the service refuses it"));
    Ok(())
}

/// A new order: nobody else can write events of its key before this transaction ends.
async fn place_order(pool: &PgPool, customer: &str, cents: i64) -> anyhow::Result<i64> {
    let mut transaction = pool.begin().await?;
    let order = sqlx::query_scalar("insert into orders (customer, cents) values ($1, $2) returning id")
        .bind(customer)
        .bind(cents)
        .fetch_one(&mut *transaction)
        .await?;
    announce(&mut transaction, order, &OrderEvent::Placed { order, customer, cents }).await?;
    anyhow::ensure!(!customer.is_empty(), "refused after its event was written; both are rolled back");
    transaction.commit().await?;
    Ok(order)
}

/// A change: the update locks the order first, the event comes second. Whoever changes the same order waits for that
/// lock, so the order's events have the order of its changes.
async fn pay_order(pool: &PgPool, order: i64) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await?;
    let changed = sqlx::query("update orders set paid = true where id = $1 and not paid")
        .bind(order)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    if changed == 1 {
        announce(&mut transaction, order, &OrderEvent::Paid { order }).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn announce(connection: &mut PgConnection, order: i64, event: &OrderEvent<'_>) -> anyhow::Result<Uuid> {
    let message =
        Message::new("orders").key(order.to_string()).json(event)?.header("content-type", "application/json");
    Ok(publish(connection, &message).await?)
}
