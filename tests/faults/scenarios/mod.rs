//! Every scenario: what is broken, for how long, and how it is healed. They return when everything is whole again.
//!
//! A scenario must not look at what came of it; that is the checker's. Each is played once by `make faults` and in random order by
//! `make soak`.

mod combined;
mod data;
mod host;
mod kafka;
mod postgres;
mod relay;

use std::pin::Pin;
use std::time::Duration;

use crate::checker::Expectation;
use crate::scene::Scene;

/// Breaks and heals.
type Act = for<'a, 'c> fn(&'a mut Scene<'c>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Which Postgres a scenario has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// That of all scenarios.
    Shared,
    /// One of its own and a standby that follows it.
    Followed {
        /// Commits wait for the standby.
        waits: bool,
    },
    /// A second one, on a small disk, whose clock can be wrong.
    Peculiar,
}

/// A scenario.
#[derive(Clone)]
pub struct Scenario {
    pub name: &'static str,
    /// For the table in README.
    pub what: &'static str,
    pub act: Act,
    /// Relays at the start.
    pub relays: usize,
    /// A bug that is seeded into all of them, by its name.
    pub bug: Option<String>,
    /// Environment of the first one alone.
    pub first_relay: &'static [(&'static str, &'static str)],
    /// Settings of all of them.
    pub relay_settings: &'static [(&'static str, &'static str)],
    pub server: Server,
    /// Relays connect through PgBouncer in transaction mode.
    pub pooler: bool,
    /// Topic `side` has its only replica on broker 3.
    pub lonely_side: bool,
    /// Topics have replicas on a fourth broker, which has a small disk.
    pub small_broker: bool,
    /// The wall clock of the relays can be wrong.
    pub relays_have_a_clock: bool,
    /// By how many seconds a clock jumps.
    pub shifts: i64,
    /// It is nobody's fault: no attempt may be spent on a row, none may die.
    pub charges_nobody: bool,
    /// Dead letters are sent again: these have left their key's order.
    pub requeues: bool,
    /// How long it goes on, if it can take any time.
    pub length: Duration,
    /// Memory and open files of its relays are compared.
    pub watches: bool,
    /// Played when it is named, and in a soak.
    pub by_hand: bool,
    /// Another one may be played beside it.
    pub apart: bool,
    /// Relays log in to Kafka as the user to whom topics can be forbidden.
    pub restricted: bool,
    pub expectation: Expectation,
    /// Rows that it may unsettle: what was marked asynchronously in the last second before a crash of Postgres.
    pub undoes: u64,
    /// From the heal until the lag is below a second.
    pub recovers_within: Duration,
}

impl Scenario {
    const fn new(name: &'static str, what: &'static str, act: Act) -> Scenario {
        Scenario {
            name,
            what,
            act,
            relays: 2,
            bug: None,
            first_relay: &[],
            relay_settings: &[],
            server: Server::Shared,
            pooler: false,
            lonely_side: false,
            small_broker: false,
            relays_have_a_clock: false,
            shifts: 0,
            charges_nobody: false,
            requeues: false,
            length: Duration::ZERO,
            watches: false,
            by_hand: false,
            apart: false,
            restricted: false,
            expectation: Expectation::Nothing,
            undoes: 0,
            recovers_within: Duration::from_secs(10),
        }
    }
}

/// They break nothing that others use, only relays, connections, topics and rows of their own: two of them are played side by side.
/// Not a forbidden topic and a flood of dead letters: these take all of two cores, and whoever is beside them is late.
const APART: [&str; 30] = [
    "calm",
    "relay_killed",
    "relay_frozen",
    "relay_frozen_settling",
    "relay_stopped",
    "crash_after_read",
    "crash_after_send",
    "crash_after_confirm",
    "crash_in_settlement",
    "crash_after_settlement",
    "crash_in_late_paging",
    "crash_before_requeue",
    "crash_after_requeue",
    "backends_terminated",
    "postgres_cut",
    "postgres_half_open",
    "postgres_slow",
    "postgres_mute",
    "old_snapshot",
    "open_writer",
    "prepared_transaction",
    "promoted",
    "promoted_behind",
    "pooler_promoted",
    "replica_offered",
    "limit_lowered",
    "records_removed",
    "topic_recreated",
    "clock_forward",
    "clock_back",
];

/// All of them.
pub fn all() -> Vec<Scenario> {
    let all = [relay::all(), kafka::all(), postgres::all(), data::all(), host::all(), combined::all()];
    let mut all: Vec<Scenario> = all.into_iter().flatten().collect();
    for name in APART {
        let scenario = all.iter_mut().find(|scenario| scenario.name == name);
        scenario.unwrap_or_else(|| panic!("there is no scenario {name}")).apart = true;
    }
    all
}

/// A fault holds for so long.
async fn hold(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}
