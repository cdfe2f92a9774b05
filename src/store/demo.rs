//! What the demo keeps in Postgres: a database of its own, and the tables of a little order service in it.
//!
//! It must not touch a database that it did not make. Its SQL is in `demo/`, because it belongs to the demo's tables and
//! not to schema `outbox`; what the order service does with the outbox it does through [`publish`], as any service does.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Postgres, Row, Transaction};
use uuid::Uuid;

use super::StoreError;
use super::migrate::{self, MigrateError};
use super::publish::{Message, PublishError, publish};

/// How long the server may take for one step of making or dropping the database.
const STEP_DEADLINE: Duration = Duration::from_secs(30);

/// How often the database is tried to be dropped; the server itself waits five seconds for others to leave.
const DROP_TRIES: usize = 8;

/// A database that the demo has made. Dropping the value leaves the database; [`DemoDatabase::remove`] takes it away.
#[derive(Debug)]
pub struct DemoDatabase {
    /// The server, by the URL that we were given.
    server_url: String,
    name: String,
    server_version: String,
    /// Roles belong to the whole server: those that were there before us stay.
    roles_before: Vec<String>,
}

/// One order that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id, which is the event id of its message as well.
    pub id: Uuid,
    /// Whose it is: the key of its message.
    pub customer: String,
    /// Its place among the orders of this customer.
    pub version: i64,
}

impl DemoDatabase {
    /// Makes an empty database on the writable one of the hosts (one URL each). The suffix must be new to the server.
    pub async fn create(
        urls: impl IntoIterator<Item = &str>,
        suffix: &str,
    ) -> Result<DemoDatabase, StoreError> {
        let mut last = StoreError::Unusable("the URL names no host".to_owned());
        for url in urls {
            match create(url, suffix).await {
                Err(error) => last = error,
                created => return created,
            }
        }
        Err(last)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's version, such as 15.13.
    pub fn server_version(&self) -> &str {
        self.server_version.split(' ').next().unwrap_or_default()
    }

    /// The URL of this database for whoever the given URL logs in.
    pub fn url(&self) -> String {
        with_database(&self.server_url, &self.name)
    }

    /// Runs the migrations and makes the order service's tables, with this many customers.
    pub async fn fill(&self, customers: i32) -> Result<(), MigrateError> {
        let mut connection = migrate::connect(&[self.url().as_str()]).await?;
        migrate::migrate(&mut connection).await?;
        let failed = migrate::failed("make the order service's tables");
        let filled = async {
            sqlx::raw_sql(include_str!("demo/tables.sql")).execute(&mut connection).await?;
            let customers = sqlx::query(include_str!("demo/customers.sql")).bind(customers);
            customers.execute(&mut connection).await?;
            connection.close().await
        };
        filled.await.map_err(failed)
    }

    /// Makes the logins `demo_shop` and `demo_relay`. Only for a server of our own: logins belong to the whole server.
    pub async fn make_logins(&self) -> Result<(), StoreError> {
        let mut connection = connect(&self.url()).await?;
        within("make logins", sqlx::raw_sql(include_str!("demo/logins.sql")).execute(&mut connection))
            .await?;
        close(connection).await;
        Ok(())
    }

    /// Every order that was committed.
    pub async fn orders(&self) -> Result<Vec<Order>, StoreError> {
        let mut connection = connect(&self.url()).await?;
        let rows = sqlx::query(include_str!("demo/orders.sql")).fetch_all(&mut connection);
        let rows = within("read orders", rows).await?;
        close(connection).await;
        let order = |row: &sqlx::postgres::PgRow| {
            Ok(Order {
                id: row.try_get("id")?,
                customer: row.try_get("customer")?,
                version: row.try_get("version")?,
            })
        };
        let orders: Result<_, sqlx::Error> = rows.iter().map(order).collect();
        orders.map_err(|error| StoreError::from_sqlx("read orders", error))
    }

    /// Drops the database, whoever is still connected to it, and the roles that came with it and that nothing else uses.
    pub async fn remove(self) -> Result<(), StoreError> {
        let mut dropped = Ok(());
        // A name cannot be a parameter; this one was made by us out of letters and digits.
        let gently = format!("drop database if exists \"{}\"", self.name);
        let forced = format!("{gently} with (force)");
        // Gently it ends an autovacuum, which no plain login may send away by force; by force it ends everybody else.
        // Each try has a connection of its own: one that ran out of time is still busy with the statement.
        for statement in [&gently, &forced].into_iter().cycle().take(DROP_TRIES) {
            dropped = drop_database(&self.server_url, statement).await;
            if dropped.is_ok() {
                break;
            }
        }
        let mut connection = connect(&self.server_url).await?;
        if let Err(error) = dropped {
            let others = sqlx::query_scalar(include_str!("demo/others.sql")).bind(&self.name);
            let others: Option<String> =
                within("see who is connected", others.fetch_one(&mut connection)).await?;
            let others = others.unwrap_or_else(|| "nobody any more".to_owned());
            return Err(StoreError::Unusable(format!("{error} (connected: {others})")));
        }
        for role in ["outbox_owner", "outbox_producer", "outbox_relay", "outbox_reader", "outbox_admin"] {
            if !self.roles_before.iter().any(|before| before == role) {
                // Refused when another database has begun to use it, or when it was never made. Both are fine.
                let statement = format!("drop role {role}");
                within("drop a role", sqlx::raw_sql(&statement).execute(&mut connection)).await.ok();
            }
        }
        close(connection).await;
        Ok(())
    }
}

async fn drop_database(url: &str, statement: &str) -> Result<(), StoreError> {
    let mut connection = connect(url).await?;
    within("drop the demo's database", sqlx::raw_sql(statement).execute(&mut connection)).await?;
    close(connection).await;
    Ok(())
}

async fn create(url: &str, suffix: &str) -> Result<DemoDatabase, StoreError> {
    const WHAT: &str = "create a database";
    let mut connection = connect(url).await?;
    let state = sqlx::query(include_str!("demo/server_state.sql")).fetch_one(&mut connection);
    let state = within("read server state", state).await?;
    let read = |error| StoreError::from_sqlx("read server state", error);
    if state.try_get("replica").map_err(read)? {
        return Err(StoreError::Unusable("this server is a replica; the demo has to write".to_owned()));
    }
    let name = format!("outbox_demo_{suffix}");
    // A name cannot be a parameter; this one is made of letters and digits.
    let created = format!("create database \"{name}\"");
    within(WHAT, sqlx::raw_sql(&created).execute(&mut connection)).await.map_err(|error| match error {
        StoreError::Unusable(text) if text.contains("create database") => StoreError::Unusable(
            "this login may not create databases; name one that may, or none for a private Postgres"
                .to_owned(),
        ),
        other => other,
    })?;
    close(connection).await;
    Ok(DemoDatabase {
        server_url: url.to_owned(),
        name,
        server_version: state.try_get("version").map_err(read)?,
        roles_before: state.try_get("roles").map_err(read)?,
    })
}

/// A connection of the order service.
#[derive(Debug)]
pub struct ShopConnection(PgConnection);

/// A transaction of the order service in which the customer's row is locked. Dropping it rolls it back.
#[derive(Debug)]
pub struct Turn<'c> {
    transaction: Transaction<'c, Postgres>,
    /// The place that this order will have among the orders of its customer.
    pub version: i64,
}

impl ShopConnection {
    /// Logs the order service in.
    pub async fn open(url: &str) -> Result<ShopConnection, StoreError> {
        Ok(ShopConnection(connect(url).await?))
    }

    /// Begins a transaction and locks the customer.
    pub async fn take_turn(&mut self, customer: &str) -> Result<Turn<'_>, StoreError> {
        let mut transaction = within("begin", self.0.begin()).await?;
        let turn = sqlx::query_scalar(include_str!("demo/take_turn.sql")).bind(customer);
        let version = within("lock a customer", turn.fetch_one(&mut *transaction)).await?;
        Ok(Turn { transaction, version })
    }

    /// Says goodbye to the server.
    pub async fn close(self) {
        close(self.0).await;
    }
}

impl Turn<'_> {
    /// Writes the order: the business row.
    pub async fn insert_order(&mut self, id: Uuid, customer: &str, cents: i64) -> Result<(), StoreError> {
        let order = sqlx::query(include_str!("demo/insert_order.sql"));
        let order = order.bind(id).bind(customer).bind(self.version).bind(cents);
        within("write an order", order.execute(&mut *self.transaction)).await?;
        Ok(())
    }

    /// Writes the message: the outbox row, in the same transaction.
    pub async fn publish(&mut self, message: &Message) -> Result<Uuid, PublishError> {
        publish(&mut self.transaction, message).await
    }

    /// Makes both rows true.
    pub async fn commit(self) -> Result<(), StoreError> {
        within("commit an order", self.transaction.commit()).await
    }

    /// Takes both back.
    pub async fn roll_back(self) -> Result<(), StoreError> {
        within("roll back an order", self.transaction.rollback()).await
    }
}

async fn connect(url: &str) -> Result<PgConnection, StoreError> {
    let options = url.parse().map_err(|error| StoreError::from_sqlx("connect", error));
    let options = PgConnectOptions::disable_statement_logging(options?).application_name("outbox-relay/demo");
    within("connect", PgConnection::connect_with(&options)).await
}

async fn within<T>(
    what: &'static str,
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STEP_DEADLINE, step).await {
        Ok(done) => done.map_err(|error| StoreError::from_sqlx(what, error)),
        Err(_) => Err(StoreError::Silent { what, seconds: STEP_DEADLINE.as_secs() }),
    }
}

async fn close(connection: PgConnection) {
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
}

/// The URL with another database in it.
fn with_database(url: &str, database: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hosts = rest.split('/').next().unwrap_or_default();
    // The parameter would win over the path.
    let kept: Vec<&str> =
        query.split('&').filter(|part| !part.is_empty() && !part.starts_with("dbname=")).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    format!("{scheme}://{hosts}/{database}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &str) {
        let changed = with_database(url, "mine");
        assert_eq!(changed, expected);
        let options: PgConnectOptions = changed.parse().expect("sqlx reads it");
        assert_eq!(options.get_database(), Some("mine"), "{changed}");
    }

    #[test]
    fn only_the_database_of_a_url_is_changed() {
        check("postgres://u:p%2Fw@h:5433/shop", "postgres://u:p%2Fw@h:5433/mine");
        check("postgresql://h", "postgresql://h/mine");
        check("postgres:///shop?host=/run/postgresql&user=u", "postgres:///mine?host=/run/postgresql&user=u");
        check(
            "postgres://u@[::1]/shop?dbname=other&sslmode=require",
            "postgres://u@[::1]/mine?sslmode=require",
        );
    }
}
