//! What of a server that works would hold a relay up, or is better otherwise.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::ops::check::report::Group;
use crate::relay::clean::slot_width;
use crate::store::examine::{self, Host, ServerFacts};
use crate::store::{Session, StoreError};

/// Lag and expiry are told by the server's clock; so much more or less nobody notices.
const CLOCK_SECONDS: f64 = 5.0;
/// A transaction that is open for longer holds more than it should, whatever the retention.
const OLD_TRANSACTION: Duration = Duration::from_secs(300);

/// Whether what is sent can be read on the way.
pub fn encryption(config: &Config, host: &Host, facts: &ServerFacts, group: &mut Group) {
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

/// How far the server's clock is from the one here.
pub async fn clock(session: &mut Session, group: &mut Group) -> Result<(), StoreError> {
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

/// Whether dead rows go.
pub fn vacuum(facts: &ServerFacts, group: &mut Group) {
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

/// Whether somebody keeps old rows from going.
pub fn transactions(config: &Config, facts: &ServerFacts, group: &mut Group) {
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
    use super::*;
    use crate::ops::check::postgres::CHECKS;
    use crate::ops::check::report::State;

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
