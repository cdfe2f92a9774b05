//! One schedule: who does the next step, which faults come, and when everything heals.
//!
//! A seed decides all of it. After the faults every frozen process wakes, every server answers, and the relays get time to drain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::bugs::{Bug, Ms, Plan};
use crate::check;
use crate::dice::Dice;
use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::relay::{Relay, Site};
use crate::trace::Trace;
use crate::truth::{End, Truth};
use crate::writers::Writers;

/// Steps that draining may take: some minutes of the virtual clock.
const DRAIN: usize = 200_000;

/// Everything there is.
pub struct Schedule {
    pub now: Ms,
    pub plan: Plan,
    dice: Dice,
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub truth: Truth,
    writers: Writers,
    pub relays: Vec<Relay>,
    trace: Trace,
    pub broken: Vec<String>,
    /// Topics that vanished.
    pub removals: usize,
}

/// What a schedule came to.
pub struct Report {
    /// Broken promises, in words.
    pub problems: Vec<String>,
    /// Events, records, duplicates, dead letters, crashes of the server, takeovers.
    pub counts: [usize; 6],
    /// Differs for different schedules.
    pub hash: u64,
}

/// Runs the schedule of a seed.
pub fn run(seed: u64, bug: Option<Bug>, traced: bool) -> Report {
    let mut dice = Dice::new(seed);
    let plan = Plan::draw(bug, &mut dice);
    let mut trace = Trace { on: traced };
    trace.say(0, "plan", || format!("{plan:?}"));
    let base = Instant::now();
    let mut schedule = Schedule {
        now: 0,
        dice,
        postgres: Postgres::new(&plan),
        kafka: Kafka::new(&plan),
        truth: Truth::default(),
        writers: Writers::new(&plan),
        relays: (0..plan.relays).map(|no| Relay::new(no, base)).collect(),
        plan,
        trace,
        broken: Vec::new(),
        removals: 0,
    };
    for _ in 0..schedule.plan.steps {
        let worst = schedule.is_worst();
        if worst || (schedule.dice.below(1000) as u64) < schedule.plan.faults {
            schedule.fault(worst);
        }
        schedule.step();
        if !schedule.broken.is_empty() || !schedule.postgres.broken.is_empty() {
            break;
        }
    }
    schedule.heal();
    let drained = (0..DRAIN).any(|at| {
        schedule.step();
        at % 64 == 0 && schedule.is_drained()
    });
    check::check(&mut schedule, drained)
}

impl Schedule {
    /// Some actor does its next step.
    fn step(&mut self) {
        let most = if self.dice.percent(85) { 1 } else { 12 };
        self.now += self.dice.between(0, most);
        let Schedule { now, plan, dice, postgres, kafka, truth, writers, relays, trace, broken, .. } = self;
        let now = *now;
        match dice.below(100) {
            0..14 => {
                writers.step(&mut Site { now, plan, dice, postgres, kafka, trace, broken }, truth);
            }
            14..32 => kafka.step(now, dice, truth, trace, |topic| relays.iter().any(|r| r.holds(topic))),
            32..52 => postgres.step(now, dice, trace),
            52 => postgres.flush_some(dice),
            _ => {
                let who = dice.below(relays.len());
                let leader = relays.iter().position(Relay::leads).filter(|_| dice.percent(70));
                relays[leader.unwrap_or(who)].step(&mut Site {
                    now,
                    plan,
                    dice,
                    postgres,
                    kafka,
                    trace,
                    broken,
                });
            }
        }
    }

    /// The worst moments for a crash are while something visible is not on disk, above all between a poll and its flush barrier.
    fn is_worst(&mut self) -> bool {
        let in_thousand = match (self.postgres.barrier_waits(), self.postgres.is_flushed()) {
            (true, _) => 80,
            (_, false) => 2,
            _ => 0,
        };
        let up = self.now >= self.postgres.down_until;
        up && self.plan.worst_crashes && self.plan.faults > 0 && self.dice.below(1000) < in_thousand
    }

    /// Something breaks: the server, or anything.
    fn fault(&mut self, crash: bool) {
        let Schedule { now, plan, dice, postgres, kafka, truth, writers, relays, trace, broken, .. } = self;
        let now = *now;
        // Usually the leader, as far as there is one.
        let who = dice.below(relays.len());
        let who = relays.iter().position(Relay::leads).filter(|_| dice.percent(70)).unwrap_or(who);
        let relay = &mut relays[who];
        match if crash { 7 } else { dice.below(10) } {
            0 => {
                trace.say(now, "fault", || format!("relay {who} is killed"));
                relay.kill(now + dice.between(50, 1000), dice, postgres);
            }
            1 => {
                trace.say(now, "fault", || format!("relay {who} is told to stop at once"));
                let until = now + dice.between(50, 1000);
                relay.stop(until, &mut Site { now, plan, dice, postgres, kafka, trace, broken });
            }
            2 | 3 => {
                relay.frozen_until = now + dice.between(plan.ttl / 2, plan.ttl * 3);
                trace.say(now, "fault", || format!("relay {who} freezes until {}", relay.frozen_until));
            }
            4 => {
                trace.say(now, "fault", || format!("relay {who} loses its connections to postgres"));
                postgres.cut(who, dice);
            }
            5 | 6 => {
                let producers = relay.producers();
                if !producers.is_empty() {
                    let producer = dice.pick(&producers);
                    trace.say(now, "fault", || format!("producer {producer} loses its connection"));
                    kafka.cut(producer, dice);
                    relay.cut_from_kafka(producer);
                }
            }
            7 => {
                let lost = postgres.crash(dice);
                postgres.down_until = now + dice.between(0, 400);
                writers.crash(truth);
                lost.iter().for_each(|row| truth.end(row.event_id.as_u128(), End::Lost));
                trace.say(now, "fault", || {
                    let lost: Vec<i64> = lost.iter().map(|row| row.id).collect();
                    format!("postgres crashes, rows lost: {lost:?}")
                });
            }
            8 => {
                kafka.down_until = now + dice.between(50, 1500);
                trace.say(now, "fault", || format!("brokers are down until {}", kafka.down_until));
            }
            _ => {
                let topic = Arc::clone(&kafka.topics[dice.below(kafka.topics.len())]);
                if !kafka.is_gone(&topic) {
                    self.removals += 1;
                    trace.say(now, "fault", || format!("topic {topic} is deleted"));
                    kafka.remove(&topic, now + dice.between(100, 1500));
                }
            }
        }
    }

    fn heal(&mut self) {
        let now = self.now;
        self.trace.say(now, "fault", || "everything heals".to_owned());
        self.postgres.down_until = now;
        self.kafka.down_until = now;
        self.kafka.comes_back(now);
        for relay in &mut self.relays {
            (relay.down_until, relay.frozen_until) = (now, now);
        }
        self.writers.finish(now);
    }

    /// Every row that was committed is accounted for, and nothing is under way that matters.
    fn is_drained(&mut self) -> bool {
        let tables = &self.postgres.visible;
        let ids = tables.ledger.iter().flat_map(|row| row.published.iter().chain(&row.dead));
        let accounted: BTreeSet<i64> = ids.copied().collect();
        let all = || tables.messages.keys().all(|id| accounted.contains(id));
        self.writers.are_done() && tables.deferred.is_empty() && all()
    }
}
