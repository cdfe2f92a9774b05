//! The course of a scenario: write, break, heal, drain, read everything back, have it judged.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::checker::{Fault, Verdict, judge};
use crate::cluster::Cluster;
use crate::evidence;
use crate::scenarios::Scenario;
use crate::scene::{STALL, Scene};
use crate::support::Relay;
use crate::watch::Growth;
use crate::writers::{IDLE, PAUSE, QUICK, Tried, Writers};

/// After the heal everything arrives within this time, or it is taken for lost.
const DRAIN: Duration = Duration::from_secs(60);
/// … and something of it moves within this one.
const STANDSTILL: Duration = Duration::from_secs(15);

/// What came of a scenario.
pub struct Played {
    pub verdict: Verdict,
    pub faults: usize,
    /// From the heal until the oldest row that waits is younger than a second.
    pub recovery: Option<Duration>,
    /// The longest time between two leaders.
    pub takeover: Option<Duration>,
    /// Rows that were blamed for what is nobody's fault.
    pub charged: i64,
    pub growth: Growth,
    /// What each relay logged.
    pub logs: Vec<Vec<String>>,
}

/// A scenario that has begun: its writers write, nothing is broken yet.
pub struct Begun<'c> {
    scenario: &'c Scenario,
    scene: Scene<'c>,
    rows: usize,
}

/// A scenario that is over: nothing of it moves any more, and nobody has looked at it yet. The next one may begin meanwhile.
pub struct Over<'c> {
    scenario: &'c Scenario,
    scene: Scene<'c>,
    tried: HashMap<Uuid, Tried>,
    recovery: Option<Duration>,
}

/// Opens a scene that is going to have at least so many rows, and has a quarter of them written.
pub async fn begin<'c>(cluster: &'c Cluster, scenario: &'c Scenario, seed: u64, rows: usize) -> Begun<'c> {
    let scene = Scene::open(cluster, scenario, seed).await;
    scene.more(rows / 4).await;
    // Until the scenario before this one has been judged.
    scene.writers.every(IDLE);
    Begun { scenario, scene, rows }
}

impl<'c> Begun<'c> {
    /// Breaks and heals, and waits until everything has arrived that will.
    pub async fn go_on(self) -> Over<'c> {
        let Begun { scenario, mut scene, rows } = self;
        // A fault meets a relay at work.
        scene.writers.every(PAUSE);
        scene.more(300).await;
        // A relay that is to crash by itself may do so at any time.
        let from = if scenario.first_relay.is_empty() { scene.now() } else { 0 };
        (scenario.act)(&mut scene).await;
        let to = scene.now();
        // Some note their faults themselves.
        if scenario.name != "calm" && scene.faults.is_empty() {
            scene.faults.push(Fault::new(scenario.name, from, to).undoing(scenario.undoes));
        }

        let (healed, committed) = (Instant::now(), scene.writers.committed());
        let mut recovery = None;
        while (recovery.is_none() || scene.writers.committed() < rows) && healed.elapsed() < DRAIN {
            if recovery.is_none() && scene.lag().await.is_some_and(|lag| lag < 1.0) {
                recovery = Some(healed.elapsed());
                scene.writers.every(QUICK);
            }
            // A relay that does not catch up with its writers has been seen by now.
            if scene.writers.committed() > committed + 12 * rows {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let writers = std::mem::replace(&mut scene.writers, Writers::none());
        let tried = writers.stop().await;
        settle(&scene, healed).await;
        Over { scenario, scene, tried, recovery }
    }
}

impl Over<'_> {
    /// Reads everything back, has it judged, and ends the relays.
    pub async fn judged(self) -> Played {
        let Over { scenario, scene, tried, recovery } = self;
        let history = evidence::gather(&scene, tried, &scenario.expectation).await;
        let takeover = evidence::longest_takeover(&scene).await;
        let growth = scene.watch.end(scenario.watches);
        let charged = if scenario.charges_nobody { evidence::charged(&scene).await } else { 0 };
        let log = |relay: &Relay| relay.log().into_iter().map(|line| line.text).collect();
        let played = Played {
            verdict: judge(&history),
            faults: scene.faults.len(),
            recovery,
            takeover,
            charged,
            growth,
            logs: scene.relays.iter().map(log).collect(),
        };
        for relay in &scene.relays {
            if relay.exited().is_none() {
                relay.cont();
                relay.ask_to_stop();
            }
        }
        // Their replicas would keep the brokers busy to the end of the run. Where a broker is down they stay, which harms nobody.
        scene.cluster.kafka.forget_topics(&scene.topics().each_ref().map(|(topic, _)| topic.as_str())).await;
        played
    }
}

/// Waits until the ledger accounts for every row, or none is going to be looked at any more. Whatever does not come within the time
/// is the checker's to find.
async fn settle(scene: &Scene<'_>, healed: Instant) {
    const ALL: &str = "
        select coalesce((select range_agg(r) from outbox.ledger l
                           cross join lateral unnest(l.published + l.dropped + l.expired + l.dead) r), '{}')
               @> coalesce((select range_agg(int8range(id, id, '[]')) from public.truth), '{}')
           and not exists (select from outbox.deferred)";
    const PROGRESS: &str = "
        select coalesce(sum(upper(r) - lower(r)), 0)::bigint
          from outbox.ledger l cross join lateral unnest(l.published + l.dropped + l.expired + l.dead) r";
    let (mut accounted, mut moved, began) = (0, Instant::now(), Instant::now());
    while began.elapsed() < DRAIN && moved.elapsed() < STANDSTILL {
        let all = sqlx::query_scalar::<_, Option<bool>>(ALL).fetch_one(&scene.admin).await;
        if all.ok().flatten() == Some(true) || evidence::is_through(scene).await {
            break;
        }
        let now = sqlx::query_scalar::<_, i64>(PROGRESS).fetch_one(&scene.admin).await.unwrap_or(accounted);
        if now != accounted {
            (accounted, moved) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // At-most-once rows count as dropped until their confirm is settled, or their time is over: that of those that the fault has met
    // began before the heal, and those after it are confirmed at once.
    let second = Duration::from_secs(1);
    let deadline = (healed + STALL + second).max(Instant::now() + second);
    while Instant::now() < deadline && evidence::unconfirmed(scene).await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
