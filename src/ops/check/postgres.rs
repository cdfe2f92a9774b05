//! Postgres: whether it can be reached and used by this login, and whether anything there would hold the relay up.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::report::Group;
use super::{Deadline, said};
use crate::config::Config;
use crate::relay::clean::slot_width;
use crate::store::examine::{self, Host, Lacking, NoConnection, SchemaFacts, ServerFacts};
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
/// Lag and expiry are told by the server's clock; so much more or less nobody notices.
const CLOCK_SECONDS: f64 = 5.0;
/// A transaction that is open for longer holds more than it should, whatever the retention.
const OLD_TRANSACTION: Duration = Duration::from_secs(300);

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

/// Goes from host to host as the relay does; what is wrong with the last one is what is shown.
async fn connect(server: &Server, group: &mut Group, deadline: &Deadline) -> Option<(Host, Session)> {
    let hosts = examine::hosts(server);
    for (at, host) in hosts.iter().enumerate() {
        let is_last = at + 1 == hosts.len();
        // All of them have to fit into the time.
        let share = Deadline::within(deadline.left() / (hosts.len() - at) as u32);
        let refusal = match share.within_time(examine::connect(server, at)).await {
            Some(Ok(mut session)) => {
                let is_replica = !is_last
                    && matches!(share.within_time(examine::server(&mut session)).await, Some(Ok(facts)) if facts.replica);
                if is_replica {
                    session.close().await;
                    continue;
                }
                return Some((host.clone(), session));
            }
            Some(Err(refusal)) => Some(refusal),
            None => None,
        };
        if is_last {
            refused(host, refusal, group, deadline);
        }
    }
    None
}

fn refused(host: &Host, refusal: Option<NoConnection>, group: &mut Group, deadline: &Deadline) {
    let Host { name, user, .. } = host;
    let answers = |group: &mut Group| group.pass("reachable", format!("{name} answers"));
    match refusal {
        None => group.fail(
            "reachable",
            format!("{name} does not answer within {}", deadline.shown()),
            "look for a firewall or a route that swallows packets between here and there; check host and port in postgres.url",
        ),
        Some(NoConnection::UnknownHost(text)) => group.fail(
            "reachable",
            format!("the host of {name} is not known: {text}"),
            "correct the host in postgres.url, or its entry in DNS",
        ),
        Some(NoConnection::Refused(text)) => group.fail(
            "reachable",
            format!("nobody listens at {name}: {text}"),
            "start Postgres there, or correct host and port in postgres.url; listen_addresses decides where it listens",
        ),
        Some(NoConnection::Tls(text)) => {
            answers(group);
            group.fail(
                "tls",
                format!("no TLS connection to {name}: {text}"),
                "make sslmode and sslrootcert in postgres.url and ssl in postgresql.conf fit each other",
            );
        }
        Some(NoConnection::Login(text)) => {
            answers(group);
            group.fail(
                "login",
                format!("{name} refuses {user}: {text}"),
                format!(
                    "check user and password in postgres.url and pg_hba.conf; create role {user} login in role outbox_relay; if there is none"
                ),
            );
        }
        Some(NoConnection::Database(text)) => {
            answers(group);
            group.fail("login", text, "correct the database in postgres.url, or create it and run outbox-relay migrate");
        }
        Some(NoConnection::Pooler(text)) => {
            answers(group);
            group.pass("login", format!("{name} takes {user}"));
            pooler(group, &text);
        }
        Some(NoConnection::Other(text)) => group.fail(
            "reachable",
            format!("{name} takes no connection: {text}"),
            "see what the server's log says about it, and try again",
        ),
    }
}

fn pooler(group: &mut Group, text: &str) {
    group.fail(
        "pooler",
        format!("there is a pooler in between that keeps no session: {text}"),
        "set postgres.pooler = true (OUTBOX_RELAY__POSTGRES__POOLER=true), and give no options in postgres.url",
    );
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

fn encryption(config: &Config, host: &Host, facts: &ServerFacts, group: &mut Group) {
    match (facts.encrypted, config.postgres.pooler) {
        // What the server sees is the pooler's own connection.
        (_, true) if !host.is_here => {
            group.unknown("tls", "a pooler is in between, the server cannot tell", None)
        }
        (true, _) => group.pass("tls", "the connection is encrypted"),
        (false, _) if host.is_here => group.pass("tls", "not used, and nothing leaves this machine"),
        (false, _) => group.warn(
            "tls",
            format!("what goes to {} can be read on the way, the password too", host.name),
            "add sslmode=verify-full and sslrootcert to postgres.url, and switch ssl on in the server",
        ),
    }
}

async fn clock(session: &mut Session, group: &mut Group) -> Result<(), StoreError> {
    let asked = Instant::now();
    let theirs = examine::clock(session).await?;
    let way = asked.elapsed().as_secs_f64();
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    judge_clock(theirs - (ours - way / 2.0), way, group);
    Ok(())
}

/// `difference` is how far the server is ahead; half of the way to it and back nobody can know.
fn judge_clock(difference: f64, way: f64, group: &mut Group) {
    let apart = (difference.abs() - way / 2.0).max(0.0);
    if apart <= CLOCK_SECONDS {
        group.pass("clock", format!("{apart:.1} s apart"));
        return;
    }
    let which = if difference > 0.0 { "ahead of" } else { "behind" };
    group.warn(
        "clock",
        format!("the server's is {apart:.1} s {which} the one here"),
        "let both machines follow a time server: lag, deliver_after and expires_at go by the server's clock, logs by the one here",
    );
}

fn vacuum(facts: &ServerFacts, group: &mut Group) {
    match facts.not_vacuumed.as_slice() {
        _ if !facts.autovacuum => group.warn(
            "autovacuum",
            "autovacuum or track_counts is off: tables with deferred rows and dead letters only grow",
            "alter system set autovacuum = on; alter system set track_counts = on; select pg_reload_conf();",
        ),
        [] => group.pass("autovacuum", "on"),
        tables => group.warn(
            "autovacuum",
            format!("off for {}", tables.join(", ")),
            tables
                .iter()
                .map(|table| format!("alter table {table} reset (autovacuum_enabled);"))
                .collect::<Vec<_>>()
                .join("\n"),
        ),
    }
}

fn transactions(config: &Config, facts: &ServerFacts, group: &mut Group) {
    let limit = OLD_TRANSACTION.min(slot_width(config.retention.published));
    let shown = humantime::format_duration(limit);
    let is_old = |seconds: f64| seconds > limit.as_secs_f64();
    if let Some(prepared) = facts.prepared.as_ref().filter(|prepared| is_old(prepared.seconds)) {
        group.warn(
            "old transactions",
            format!("{} was prepared {:.0} s ago and has not ended: {HOLDS}", prepared.gid, prepared.seconds),
            format!("rollback prepared '{0}'; or commit prepared '{0}';", prepared.gid.replace('\'', "''")),
        );
        return;
    }
    let oldest = facts.oldest.as_ref().and_then(|oldest| Some((oldest, oldest.seconds?)));
    match oldest {
        Some((oldest, seconds)) if is_old(seconds) => {
            let unknown = "unknown".to_owned();
            group.warn(
                "old transactions",
                format!(
                    "session {} of {} ({}, {}) has had one open for {seconds:.0} s: {HOLDS}",
                    oldest.pid,
                    oldest.who.as_ref().unwrap_or(&unknown),
                    oldest.application.as_ref().filter(|name| !name.is_empty()).unwrap_or(&unknown),
                    oldest.state.as_ref().unwrap_or(&unknown)
                ),
                format!("end it where it belongs to, or select pg_terminate_backend({}); idle_in_transaction_session_timeout prevents it", oldest.pid),
            );
        }
        _ if !facts.sees_all => group.unknown(
            "old transactions",
            format!("{} may not see what others do", facts.user),
            Some(format!(
                "grant pg_read_all_stats to \"{}\"; if you want this to be looked at",
                facts.user.replace('"', "\"\"")
            )),
        ),
        _ => group.pass("old transactions", format!("none is open for more than {shown}")),
    }
}

const HOLDS: &str = "nothing that is old can be cleaned away meanwhile";

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;

    #[track_caller]
    fn check_clock(difference: f64, way: f64, state: State, words: &str) {
        let mut group = Group::new("postgres", CHECKS);
        judge_clock(difference, way, &mut group);
        assert_eq!(group.checks[0].state, state, "{group:?}");
        assert!(group.checks[0].found.contains(words), "{group:?}");
    }

    #[test]
    fn clocks_that_are_apart_are_told_from_a_slow_network() {
        check_clock(0.2, 0.01, State::Pass, "0.2 s apart");
        check_clock(-4.9, 0.01, State::Pass, "4.9 s apart");
        check_clock(60.0, 0.01, State::Warn, "60.0 s ahead of");
        check_clock(-60.0, 0.01, State::Warn, "60.0 s behind");
        check_clock(8.0, 10.0, State::Pass, "3.0 s apart");
    }
}
