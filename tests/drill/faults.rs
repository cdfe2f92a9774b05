//! The faults: how each is made and mended, which alerts it has to fire, and within which time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::FACTOR;
use crate::ground::Ground;
use crate::prometheus::Alert;
use crate::report::{Fired, Played, Quiet};
use crate::support::{DEADLINE, eventually};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);
/// Pages are over by then, once a fault is mended: the longest range that they look at is half an hour.
const CALM: Duration = Duration::from_secs(180);

pub struct Fault {
    pub name: &'static str,
    pub what: &'static str,
    /// Alerts, and the minutes that the rule takes: its ranges, ages and `for`.
    pub expected: &'static [(&'static str, f64)],
    /// Pages that come when the fault is mended, and say something true.
    pub follows: &'static [&'static str],
    /// Seconds for whatever is not scaled: the relay's own times, samples, scrapes, a busy machine.
    pub own: u64,
    /// Without an alert to wait for: so long is looked.
    pub lasts: Duration,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    LeaderKilled,
    NobodyLeft,
    BrokerDown,
    PostgresDown,
    SlowPace,
    RightTaken,
    HeartbeatLost,
    DeadLetters,
    PlannedPause,
    PlannedPauseOverdue,
    RecordsRemoved,
    BlockedKey,
    OldTransaction,
    TopicMissing,
}

const fn fault(
    name: &'static str,
    kind: Kind,
    what: &'static str,
    expected: &'static [(&'static str, f64)],
    own: u64,
) -> Fault {
    Fault { name, what, expected, follows: &[], own, lasts: Duration::ZERO, kind }
}

/// In this order: what leaves traces for long comes late.
pub fn all() -> Vec<Fault> {
    vec![
        fault(
            "leader_killed",
            Kind::LeaderKilled,
            "The leading relay is killed; the standby takes over.",
            &[("OutboxTargetDown", 5.0)],
            10,
        ),
        fault("broker_down", Kind::BrokerDown, "The broker is killed.", &[("OutboxCircuitOpen", 5.0)], 15),
        fault(
            "nobody_left",
            Kind::NobodyLeft,
            "Both relays are killed.",
            &[("OutboxNoLeader", 1.0), ("OutboxTargetDown", 5.0)],
            10,
        ),
        fault(
            "postgres_down",
            Kind::PostgresDown,
            "Postgres is stopped.",
            &[("OutboxNoLeader", 1.0), ("OutboxDependencyDown", 10.0)],
            15,
        ),
        // Lag takes a quarter longer than the clock: services write five times as much as goes out.
        fault(
            "slow_pace",
            Kind::SlowPace,
            "All topics together may send ten messages a second, services write seventy-five. What was late is delivered once that is over, \
             and burns the latency budget of its topics (OutboxLatencyBudgetBurn).",
            &[("OutboxLagHigh", 11.5), ("OutboxRateAtCap", 20.0)],
            15,
        )
        .followed_by(&["OutboxLatencyBudgetBurn"]),
        fault(
            "right_taken",
            Kind::RightTaken,
            "The relay's login may no longer write to a topic.",
            &[("OutboxAuthenticationFailing", 5.0)],
            20,
        ),
        fault(
            "heartbeat_lost",
            Kind::HeartbeatLost,
            "The heartbeat's topic is gone, and all else is well.",
            &[("OutboxHeartbeatStale", 7.0)],
            20,
        ),
        fault(
            "dead_letters",
            Kind::DeadLetters,
            "A service writes forty messages that are too large.",
            &[("OutboxDeadLettersNew", 0.0), ("OutboxDeliveryErrorBudgetBurn", 0.0)],
            15,
        ),
        Fault {
            lasts: Duration::from_secs(45),
            ..fault(
                "planned_pause",
                Kind::PlannedPause,
                "Planned work is announced and a topic is paused, for twenty minutes and more.",
                &[],
                0,
            )
        },
        fault(
            "planned_pause_overdue",
            Kind::PlannedPauseOverdue,
            "Its time is over, and the topic is still paused.",
            &[("OutboxMaintenanceOverdue", 15.0)],
            15,
        ),
        fault(
            "records_removed",
            Kind::RecordsRemoved,
            "A topic loses records that it had confirmed, and they are looked for.",
            &[("OutboxReconcileFoundLoss", 0.0)],
            15,
        ),
        fault(
            "blocked_key",
            Kind::BlockedKey,
            "A message fails and blocks its key for an hour.",
            &[("OutboxBlockedKeysOld", 60.0)],
            15,
        ),
        fault(
            "old_transaction",
            Kind::OldTransaction,
            "Somebody leaves a transaction open for an hour.",
            &[("OutboxOldTransaction", 60.0)],
            45,
        ),
        fault(
            "topic_missing",
            Kind::TopicMissing,
            "A service writes to a topic that does not exist.",
            &[("OutboxTopicSick", 10.0)],
            20,
        ),
    ]
}

impl Fault {
    const fn followed_by(self, follows: &'static [&'static str]) -> Fault {
        Fault { follows, ..self }
    }

    /// By when an alert has to fire whose rule takes so many minutes.
    fn bound(&self, minutes: f64) -> Duration {
        Duration::from_secs_f64(minutes * 60.0 / f64::from(FACTOR)) + Duration::from_secs(self.own)
    }

    async fn begin(&self, ground: &mut Ground) {
        match self.kind {
            Kind::LeaderKilled => ground.kill_relays(false).await,
            Kind::NobodyLeft => ground.kill_relays(true).await,
            Kind::BrokerDown => ground.env.kill_kafka().await,
            Kind::PostgresDown => ground.env.stop_postgres_fast().await,
            Kind::SlowPace => ground.env.execute("select outbox.set_rate(null, 10, '10 minutes')").await,
            Kind::RightTaken => ground.env.forbid_topic(&ground.mail).await,
            Kind::HeartbeatLost => ground.env.delete_topic(&ground.heartbeat).await,
            Kind::DeadLetters => ground.write(&ground.parcels, "k", 40, 5000).await,
            Kind::PlannedPause => {
                let orders = ground.orders.clone();
                ground.say(&["maintenance", "start", "--for", "10m", "--yes", "--why", "drill"]).await;
                ground.say(&["topics", "pause", &orders, "--yes", "--why", "drill"]).await;
            }
            Kind::PlannedPauseOverdue => {
                let orders = ground.orders.clone();
                // Without the one before, for whoever plays this one alone.
                ground.say(&["topics", "pause", &orders, "--yes", "--why", "drill"]).await;
                ground.say(&["maintenance", "start", "--for", "1s", "--yes", "--no-wait"]).await;
            }
            Kind::RecordsRemoved => {
                ground.lose_records().await;
                ground.say(&["reconcile", "--from", "2m"]).await;
            }
            Kind::BlockedKey => {
                ground.write(&ground.invoices, "k", 1, 5000).await;
                ground.write(&ground.invoices, "k", 3, 10).await;
            }
            Kind::OldTransaction => ground.forget_a_transaction().await,
            Kind::TopicMissing => ground.write(&ground.ghosts, "k", 3, 10).await,
        }
    }

    async fn end(&self, ground: &mut Ground) {
        match self.kind {
            Kind::LeaderKilled | Kind::NobodyLeft => ground.start_relays().await,
            Kind::BrokerDown => ground.env.start_kafka_again().await,
            Kind::PostgresDown => ground.env.start_postgres_again().await,
            Kind::SlowPace => ground.env.execute("select outbox.set_rate(null, null)").await,
            Kind::RightTaken => ground.env.allow_topic(&ground.mail).await,
            Kind::HeartbeatLost => drop(ground.env.create_topic("heartbeat", 1, &[]).await),
            Kind::DeadLetters => {
                ground.say(&["dlq", "discard", "--all", "--reason", "drill", "--yes"]).await;
            }
            // The next one goes on from here.
            Kind::PlannedPause => {}
            Kind::PlannedPauseOverdue => {
                let orders = ground.orders.clone();
                ground.say(&["topics", "resume", &orders, "--yes"]).await;
            }
            Kind::RecordsRemoved => {
                ground.say(&["reconcile", "--from", "1h", "--repair", "--yes"]).await;
                // Everything, since the heartbeat's topic has lost its records as well; until the copies are through.
                let repaired = async || ground.say(&["reconcile", "--from", "1h"]).await == 0;
                eventually(DEADLINE, "nothing is missing any more", repaired).await;
            }
            Kind::BlockedKey => {
                let invoices = ground.invoices.clone();
                ground.env.alter_topic(&invoices, &[]).await;
                ground.say(&["keys", "retry-now", &invoices, "--yes"]).await;
            }
            Kind::OldTransaction => drop(ground.forgotten.take()),
            // It would be created; what waited then counts as late, and this one comes last.
            Kind::TopicMissing => {}
        }
    }
}

/// Whatever is told while nothing is wrong.
pub async fn keep_quiet(ground: &Ground, time: Duration) -> Quiet {
    // Until everything has been scraped, nothing can be said.
    let warm = Instant::now() + Duration::from_secs(30);
    while Instant::now() < warm {
        tokio::time::sleep(LOOK).await;
    }
    let (began, mut fired) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < time {
        fired.extend(ground.prometheus.firing().await);
        tokio::time::sleep(LOOK).await;
    }
    Quiet { time, fired }
}

/// Makes the fault, waits for its alerts, mends it, and waits until nobody is paged any more.
pub async fn play(ground: &mut Ground, fault: &Fault) -> Played {
    let before = ground.prometheus.firing().await;
    let began = Instant::now();
    fault.begin(ground).await;
    let mut at = BTreeMap::<&str, Duration>::new();
    let mut told = BTreeSet::<Alert>::new();
    let longest =
        fault.expected.iter().map(|(_, minutes)| fault.bound(*minutes)).max().unwrap_or(fault.lasts);
    loop {
        let (firing, heard) = (ground.prometheus.firing().await, ground.prometheus.told().await);
        for (name, _) in fault.expected {
            if firing.iter().any(|alert| alert.name == *name && !before.contains(alert)) {
                at.entry(name).or_insert_with(|| began.elapsed());
            }
        }
        told.extend(heard);
        told.extend(firing.into_iter().filter(|alert| !alert.is_page()));
        let all = !fault.expected.is_empty() && at.len() == fault.expected.len();
        if all || began.elapsed() >= longest {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    fault.end(ground).await;
    let mended = Instant::now();
    let calm = loop {
        let heard = ground.prometheus.told().await;
        let pages = heard.iter().any(Alert::is_page);
        told.extend(heard);
        // The last one stays.
        if !pages || matches!(fault.kind, Kind::TopicMissing) {
            break Some(mended.elapsed());
        }
        if mended.elapsed() >= CALM {
            break None;
        }
        tokio::time::sleep(LOOK).await;
    };
    let fired = fault.expected.iter().map(|(name, minutes)| Fired {
        alert: name,
        bound: fault.bound(*minutes),
        after: at.get(name).copied(),
    });
    let is_expected = |alert: &Alert| {
        fault.expected.iter().any(|(name, _)| *name == alert.name)
            || fault.follows.contains(&alert.name.as_str())
    };
    let others = |page: bool| -> BTreeSet<String> {
        let others = told.iter().filter(|alert| alert.is_page() == page && !is_expected(alert));
        others.filter(|alert| !before.contains(alert)).map(ToString::to_string).collect()
    };
    Played {
        name: fault.name,
        what: fault.what,
        silent: fault.expected.is_empty(),
        fired: fired.collect(),
        other_pages: others(true),
        other_tickets: others(false),
        calm,
    }
}
