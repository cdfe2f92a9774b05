//! Getting a connection: from host to host, and what each way of being refused means.

use crate::ops::check::Deadline;
use crate::ops::check::report::Group;
use crate::store::examine::{self, Host, NoConnection};
use crate::store::{Server, Session};

/// Goes from host to host as the relay does; what is wrong with the last one is what is shown.
pub async fn connect(server: &Server, group: &mut Group, deadline: &Deadline) -> Option<(Host, Session)> {
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

/// There is one, and nobody has said so.
pub fn pooler(group: &mut Group, text: &str) {
    group.fail(
        "pooler",
        format!("there is a pooler in between that keeps no session: {text}"),
        "set postgres.pooler = true (OUTBOX_RELAY__POSTGRES__POOLER=true), and give no options in postgres.url",
    );
}
