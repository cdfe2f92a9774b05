//! The lease: whether this outbox belongs here, who leads, and whether he is alive.

use super::Deadline;
use super::report::Group;
use super::said;
use crate::config::Config;
use crate::store::Session;
use crate::store::examine::{self, LeaseFacts};

pub const CHECKS: &[&str] = &["identity", "kafka cluster", "id sequence", "leader", "memory"];

const REBASE: &str =
    "outbox-relay migrate --rebase makes this outbox one of its own; --dry-run shows what that does";

/// What was read, or the line that says why not: what was found and what to do.
pub type Read = Result<LeaseFacts, (String, &'static str)>;

/// Reads it.
pub async fn read(session: &mut Session, deadline: &Deadline) -> Read {
    match deadline.within_time(examine::lease(session)).await {
        Some(Ok(Some(facts))) => Ok(facts),
        Some(Ok(None)) => Err((
            "outbox.lease or outbox.beat is empty".to_owned(),
            "restore these tables from a backup; outbox-relay migrate --rebase tells what is missing",
        )),
        Some(Err(error)) => Err((said(&error), "see what the server's log says about it")),
        None => Err((format!("no answer within {}", deadline.shown()), "give it more time with --timeout")),
    }
}

/// Judges it. `cluster`: the Kafka cluster that was reached, or why none was.
pub fn judge(config: &Config, read: Read, cluster: Result<&str, &str>) -> Group {
    let mut group = Group::new("lease", CHECKS);
    match read {
        Ok(facts) => judge_facts(config, &facts, cluster, &mut group),
        Err((found, remedy)) => group.fail("identity", found, remedy),
    }
    group.finish()
}

fn judge_facts(config: &Config, facts: &LeaseFacts, cluster: Result<&str, &str>, group: &mut Group) {
    if facts.other_server {
        group.fail("identity", "this outbox was copied from another Postgres server", REBASE);
    } else if facts.other_database {
        group.fail("identity", "this outbox was copied from another database of this server", REBASE);
    } else {
        group.pass("identity", if facts.led { "it was led here before" } else { "it was never led" });
    }
    match (cluster, &facts.kafka_cluster_id) {
        (Err(why), _) => group.unknown("kafka cluster", why, None),
        (Ok(here), Some(stored)) if here != stored => group.fail(
            "kafka cluster",
            format!("records of this outbox went to cluster {stored}, kafka.brokers leads to {here}"),
            format!("correct kafka.brokers; or {REBASE}"),
        ),
        (Ok(here), Some(_)) => group.pass("kafka cluster", format!("{here}, as before")),
        (Ok(here), None) => group.pass("kafka cluster", format!("{here}, the first one")),
    }
    match facts.sequence_cache {
        1 => group.pass("id sequence", "draws one id at a time"),
        cache => group.fail(
            "id sequence",
            format!("outbox.message_id_seq draws {cache} ids ahead, which breaks the order of keys"),
            "alter sequence outbox.message_id_seq cache 1;",
        ),
    }
    leader(config, facts, group);
    match (facts.held, facts.remembers) {
        (false, _) => group.pass("memory", "nobody leads who would need it"),
        (true, true) => group.pass("memory", "the server has kept the leader's token"),
        (true, false) => group.warn(
            "memory",
            "the server has crashed or was promoted since the lease was taken, and the leader has not noticed yet",
            "nothing where a relay runs: it takes the lease again within seconds; else start one",
        ),
    }
}

fn leader(config: &Config, facts: &LeaseFacts, group: &mut Group) {
    let LeaseFacts { beat_seconds, epoch, .. } = facts;
    let holder = facts.holder.as_deref().unwrap_or("somebody without a name");
    let standbys = match (config.postgres.pooler, facts.standbys) {
        (true, _) => "standbys cannot be told through a pooler".to_owned(),
        (false, 0) => "no standby is connected".to_owned(),
        (false, 1) => "1 standby".to_owned(),
        (false, many) => format!("{many} standbys"),
    };
    if !facts.held {
        group.warn(
            "leader",
            format!("nobody leads; {standbys}"),
            "outbox-relay run, on two machines if you can",
        );
    } else if *beat_seconds > config.lease.ttl.as_secs_f64() {
        group.fail(
            "leader",
            format!("{holder} has been silent for {beat_seconds:.0} s and nobody has taken over; {standbys}"),
            "start outbox-relay run, or see in the log of a running one why it cannot lead",
        );
    } else {
        let ago = beat_seconds.max(0.0);
        group.pass("leader", format!("{holder}, epoch {epoch}, {ago:.1} s ago; {standbys}"));
    }
}
