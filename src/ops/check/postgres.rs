//! Postgres: whether it can be reached and used by this login, and whether anything there would hold the relay up.

mod connect;
mod facts;

use self::connect::{connect, pooler};
use self::facts::{clock, encryption, transactions, vacuum};
use super::report::Group;
use super::{Deadline, said};
use crate::config::Config;
use crate::store::examine::{self, Host, Lacking, SchemaFacts, ServerFacts};
use crate::store::migration::SchemaFitness;
use crate::store::{Server, Session, StoreError, rights};

pub const CHECKS: &[&str] = &[
    "reachable",
    "tls",
    "login",
    "pooler",
    "version",
    "primary",
    "schema",
    "rights",
    "schema version",
    "clock",
    "autovacuum",
    "old transactions",
];

/// `int8multirange` came with this one.
const OLDEST_SERVER: i32 = 140_000;
/// Looks at it. The session is there only if a relay could work with it.
pub async fn look(config: &Config, deadline: &Deadline) -> (Group, Option<Session>) {
    let mut group = Group::new("postgres", CHECKS);
    let hosts = config.postgres.host_urls();
    let server = match Server::new(hosts.iter().map(|host| host.expose())) {
        Ok(server) => server.behind_pooler(config.postgres.pooler),
        Err(error) => {
            group.fail("reachable", error.to_string(), "correct postgres.url");
            return (group.finish(), None);
        }
    };
    let mut session = None;
    if let Some((host, mut found)) = connect(&server, &mut group, deadline).await {
        let usable = judge(config, &host, &mut found, &mut group, deadline).await;
        session = usable.then_some(found);
    }
    (group.finish(), session)
}

/// Whether a relay can work there.
async fn judge(
    config: &Config,
    host: &Host,
    session: &mut Session,
    group: &mut Group,
    deadline: &Deadline,
) -> bool {
    group.pass("reachable", host.name.clone());
    let Some(facts) = deadline.within_time(examine::server(session)).await else {
        group.pass("login", format!("{} takes {}", host.name, host.user));
        group.because(format!("no answer within {}", deadline.shown()));
        group.fail(
            "version",
            format!("{} does not answer a query within {}", host.name, deadline.shown()),
            SILENT,
        );
        return false;
    };
    let facts = match facts {
        Ok(facts) => facts,
        // A prepared statement that another server connection does not know.
        Err(StoreError::Unusable(text)) if text.contains("pooler") => {
            group.pass("login", format!("{} takes {}", host.name, host.user));
            pooler(group, &text);
            return false;
        }
        Err(error) => {
            group.fail("login", said(&error), "see what the server's log says about it");
            return false;
        }
    };
    let ServerFacts { user, database, version_name, .. } = &facts;
    group.pass("login", format!("{user} in database {database}"));
    encryption(config, host, &facts, group);
    if !config.postgres.pooler && !facts.settings_kept {
        pooler(group, "the settings that a connection asks for at its start have not arrived");
        return false;
    }
    group.pass(
        "pooler",
        if config.postgres.pooler { "in transaction mode, as configured" } else { "none in between" },
    );
    if facts.version < OLDEST_SERVER {
        group.fail(
            "version",
            format!("Postgres {version_name}"),
            "upgrade the server: the schema needs Postgres 14 or newer",
        );
        return false;
    }
    group.pass("version", format!("Postgres {version_name}"));
    if facts.replica {
        group.fail(
            "primary",
            format!("{} is a replica", host.name),
            "name the primary in postgres.url; it may name several hosts, and the writable one wins",
        );
        return false;
    }
    if facts.read_only {
        group.fail(
            "primary",
            format!("{} is read-only for {user}", host.name),
            format!("alter role {user} reset default_transaction_read_only; and look at alter system and alter database, too"),
        );
        return false;
    }
    group.pass("primary", "writable");
    vacuum(&facts, group);
    transactions(config, &facts, group);
    match deadline.within_time(the_rest(session, &facts, group)).await {
        Some(Ok(())) => !group.failed(),
        Some(Err(error)) => {
            group.fail("schema", said(&error), "see what the server's log says about it");
            false
        }
        None => {
            group.fail("schema", format!("no answer within {}", deadline.shown()), SILENT);
            false
        }
    }
}

const SILENT: &str =
    "look for what holds it up: select * from pg_stat_activity; or give it more time with --timeout";

/// Schema, rights, clock.
async fn the_rest(session: &mut Session, facts: &ServerFacts, group: &mut Group) -> Result<(), StoreError> {
    clock(session, group).await?;
    let schema = examine::schema(session).await?;
    if schema.foreign_schema {
        group.fail(
            "schema",
            "schema outbox exists and was not made by outbox-relay",
            "rename it: the name is fixed",
        );
        return Ok(());
    }
    if !schema.bookkeeping {
        group.fail(
            "schema",
            format!("database {} has no schema outbox", facts.database),
            "outbox-relay migrate, with a login that may create it; or correct the database in postgres.url",
        );
        return Ok(());
    }
    group.pass("schema", "outbox is there");
    rights_of(session, facts, &schema, group).await?;
    if group.failed() {
        return Ok(());
    }
    match examine::fitness(session).await? {
        SchemaFitness::Fits => group.pass("schema version", "fits this binary"),
        SchemaFitness::TooOld { has, needs } => group.fail(
            "schema version",
            format!("the schema is at migration {has}, this binary needs {needs}"),
            "outbox-relay migrate, with the login that owns the schema",
        ),
        SchemaFitness::TooNew { oldest_binary } => group.fail(
            "schema version",
            format!(
                "the schema needs outbox-relay {oldest_binary} or newer, this is {}",
                env!("CARGO_PKG_VERSION")
            ),
            format!("install outbox-relay {oldest_binary} or newer"),
        ),
        SchemaFitness::Missing => group.fail(
            "schema version",
            "the schema is there and no migration is noted",
            "outbox-relay migrate --status tells more; the table outbox.migration was changed by hand",
        ),
    }
    Ok(())
}

async fn rights_of(
    session: &mut Session,
    facts: &ServerFacts,
    schema: &SchemaFacts,
    group: &mut Group,
) -> Result<(), StoreError> {
    let Lacking { rights, functions } = examine::lacking(session).await?;
    let user = &facts.user;
    if rights.is_empty() && functions.is_empty() {
        group.pass("rights", format!("{user} has those of outbox_relay"));
        return Ok(());
    }
    let missing = rights.len() + functions.len();
    let quoted = format!("\"{}\"", user.replace('"', "\"\""));
    if !schema.role {
        group.fail(
            "rights",
            format!("the role outbox_relay is missing, and {user} lacks {missing} rights of it"),
            format!("create role outbox_relay nologin; then outbox-relay migrate, then grant outbox_relay to {quoted};"),
        );
    } else if !schema.member {
        group.fail(
            "rights",
            format!("{user} is no member of outbox_relay and lacks {missing} of its rights"),
            format!("grant outbox_relay to {quoted};"),
        );
    } else {
        let mut grants = rights::grants(&rights);
        grants.extend(
            functions.iter().map(|function| format!("grant execute on function {function} to outbox_relay;")),
        );
        let lacks: Vec<String> = rights
            .iter()
            .map(|right| {
                let column = right.column.as_ref().map_or(String::new(), |column| format!(" ({column})"));
                format!("{}{column} on {}", right.privilege, right.object)
            })
            .chain(functions.iter().map(|function| format!("execute on {function}")))
            .collect();
        group.fail("rights", format!("outbox_relay lacks {}", lacks.join(", ")), grants.join("\n"));
    }
    Ok(())
}
