//! A relay: follows, takes over, leads a term, steps down. The loops of a term are below.
//!
//! It reads one clock, its own, and decides about the lease with the relay's own rules (`leader::claim`, `leader::Watch`).
//! A frozen relay does nothing; what it has sent goes on without it. A step is one turn of one of its loops.

pub mod alone;
pub mod batch;
pub mod lanes;
pub mod read;
pub mod send;
pub mod settle;

use std::time::{Duration, Instant};

use outbox_relay::leader::{Watch, claim};
use uuid::Uuid;

use self::alone::Retry;
use self::read::Reading;
use self::send::Sending;
use self::settle::Settling;
use crate::bugs::{Ms, Plan};
use crate::dice::Dice;
use crate::kafka::Kafka;
use crate::kafka::producer::Producer;
use crate::postgres::Postgres;
use crate::postgres::calls::{Answer, Ask};
use crate::trace::Trace;

/// How often a candidate looks at the lease.
const LOOK_EVERY: Ms = 100;
/// A term that ends early is not taken again faster than this.
const TERM_MIN: Ms = 300;

/// What a step works with.
pub struct Site<'a> {
    pub now: Ms,
    pub plan: &'a Plan,
    pub dice: &'a mut Dice,
    pub postgres: &'a mut Postgres,
    pub kafka: &'a mut Kafka,
    pub trace: &'a mut Trace,
    /// What must never happen and did.
    pub broken: &'a mut Vec<String>,
}

/// One statement at a time, as on a connection.
#[derive(Default)]
pub struct Session {
    call: Option<u64>,
    sent_at: Ms,
    not_before: Ms,
}

/// What a session has to say.
#[allow(clippy::large_enum_variant, reason = "it lives for a step")]
pub enum Heard {
    /// Nothing is asked: the next statement may be sent.
    Free,
    /// The answer is awaited, or a pause.
    Waits,
    /// An answer, and when its question was sent.
    Answer(Answer, Ms),
}

impl Session {
    /// Looks whether the answer is there. A lost one costs a pause.
    pub fn hear(&mut self, site: &mut Site) -> Heard {
        let Some(call) = self.call else {
            return if site.now < self.not_before { Heard::Waits } else { Heard::Free };
        };
        match site.postgres.answer(call) {
            None => Heard::Waits,
            Some(Answer::Lost) => {
                (self.call, self.not_before) = (None, site.now + 100);
                Heard::Answer(Answer::Lost, self.sent_at)
            }
            Some(answer) => {
                self.call = None;
                Heard::Answer(answer, self.sent_at)
            }
        }
    }

    pub fn ask(&mut self, relay: usize, ask: Ask, site: &mut Site) {
        self.sent_at = site.now;
        self.call = Some(site.postgres.ask(relay, ask, site.now));
    }
}

/// Why a term is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    TrustRanOut,
    LeaseLost,
    Forgotten,
    OutOfTurn,
    Unusable,
}

/// What all loops of a term know.
pub struct Lead {
    pub relay: usize,
    pub epoch: i64,
    pub token: Uuid,
    pub trust_until: Ms,
}

/// The lease's work.
struct Term {
    lead: Lead,
    begun: Ms,
    beat: Session,
    beat_at: Ms,
    inherit: Session,
    loops: Option<Loops>,
}

/// The loops of a term, and the channels between them.
pub struct Loops {
    pub read: Reading,
    pub send: Sending,
    pub settle: Settling,
    pub retry: Retry,
}

/// A process.
pub struct Relay {
    no: usize,
    name: String,
    holder: Uuid,
    lives: u64,
    /// Neither crashed nor stopped.
    pub down_until: Ms,
    /// Stopped by a signal, with everything it has.
    pub frozen_until: Ms,
    watch: Watch,
    look: Session,
    look_at: Ms,
    /// The takeover that was asked for: its token.
    claimed: Option<Uuid>,
    resign: Session,
    term: Option<Term>,
    /// Main producers that were given up, and second ones.
    pub replaced: usize,
    pub crashes: usize,
    base: Instant,
}

impl Relay {
    pub fn new(no: usize, base: Instant) -> Relay {
        Relay {
            no,
            name: format!("relay {no}"),
            holder: Uuid::from_u128(1 << 64 | no as u128),
            lives: 1,
            down_until: 0,
            frozen_until: 0,
            watch: Watch::default(),
            look: Session::default(),
            look_at: 0,
            claimed: None,
            resign: Session::default(),
            term: None,
            replaced: 0,
            crashes: 0,
            base,
        }
    }

    /// It leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.term.is_some()
    }

    /// Numbers of its producers.
    pub fn producers(&self) -> Vec<u64> {
        let send = self.term.iter().filter_map(|term| term.loops.as_ref()).map(|loops| &loops.send);
        send.flat_map(|send| [send.main.number, send.second.number]).collect()
    }

    /// Its producers hold records of this topic.
    pub fn holds(&self, topic: &str) -> bool {
        let loops = self.term.as_ref().and_then(|term| term.loops.as_ref());
        loops.is_some_and(|loops| loops.send.main.holds_of(topic) || loops.send.second.holds_of(topic))
    }

    /// A connection to Kafka is cut.
    pub fn cut_from_kafka(&mut self, producer: u64) {
        if let Some(loops) = self.term.as_mut().and_then(|term| term.loops.as_mut()) {
            let Sending { main, second, .. } = &mut loops.send;
            [main, second].into_iter().filter(|p| p.number == producer).for_each(Producer::cut);
        }
    }

    /// Killed; somebody starts it again. What it has sent is on its way.
    pub fn kill(&mut self, until: Ms, dice: &mut Dice, postgres: &mut Postgres) {
        postgres.cut(self.no, dice);
        self.crashes += 1;
        self.lives += 1;
        *self = Relay {
            holder: Uuid::from_u128(u128::from(self.lives) << 64 | self.no as u128),
            lives: self.lives,
            down_until: until,
            replaced: self.replaced,
            crashes: self.crashes,
            ..Relay::new(self.no, self.base)
        };
    }

    /// Asked to stop, without time to drain: gives the lease back, and starts again later.
    pub fn stop(&mut self, until: Ms, site: &mut Site) {
        let Some(term) = self.term.take() else { return };
        self.crashes += 1;
        self.resign.ask(self.no, Ask::Resign { holder: self.holder, epoch: term.lead.epoch }, site);
        self.down_until = until;
    }

    /// One turn of one of its loops.
    pub fn step(&mut self, site: &mut Site) {
        if site.now < self.down_until || site.now < self.frozen_until {
            return;
        }
        if let Heard::Answer(..) = self.resign.hear(site) {
            return;
        }
        let Some(term) = &mut self.term else { return self.follow(site) };
        let ended = if site.dice.percent(15) { term.beat(self.holder, site) } else { term.turn(site) };
        if let Some(loops) = &mut term.loops {
            self.replaced += std::mem::take(&mut loops.send.replaced);
        }
        if let Err(end) = ended {
            let epoch = term.lead.epoch;
            site.trace.say(site.now, &self.name, || format!("steps down from epoch {epoch}: {end:?}"));
            self.look_at = site.now.max(term.begun + TERM_MIN);
            self.watch = Watch::default();
            self.term = None;
        }
    }

    fn follow(&mut self, site: &mut Site) {
        let now = self.base + Duration::from_millis(site.now);
        match self.look.hear(site) {
            Heard::Waits => {}
            Heard::Free if site.now < self.look_at => {}
            Heard::Free => self.look.ask(self.no, Ask::Look, site),
            Heard::Answer(Answer::Seen(seen), _) => {
                self.look_at = site.now + LOOK_EVERY;
                let still = self.watch.read(&seen, now);
                let ttl = Duration::from_millis(site.plan.ttl);
                if claim(&seen, self.holder, still, ttl).is_some() {
                    let token = Uuid::from_u128(
                        u128::from(site.dice.between(1, u64::MAX >> 1)) << 64 | u128::from(site.now),
                    );
                    self.claimed = Some(token);
                    let (holder, epoch, beat) = (self.holder, seen.epoch, seen.beat);
                    let ask = Ask::TakeOver { holder, epoch, beat, token };
                    self.look.ask(self.no, ask, site);
                }
            }
            Heard::Answer(Answer::Taken(epoch), sent_at) => {
                let token = self.claimed.take().expect("it was asked for");
                let Some(epoch) = epoch else { return };
                self.term = Some(Term {
                    lead: Lead { relay: self.no, epoch, token, trust_until: trust(sent_at, site.plan) },
                    begun: site.now,
                    beat: Session::default(),
                    beat_at: site.now,
                    inherit: Session::default(),
                    loops: None,
                });
            }
            Heard::Answer(..) => {
                self.watch.failed();
                self.look_at = site.now + LOOK_EVERY;
            }
        }
    }
}

/// Until when a renewal that was sent then may be believed in.
fn trust(sent_at: Ms, plan: &Plan) -> Ms {
    sent_at + plan.ttl - plan.ttl / 10
}

impl Term {
    fn beat(&mut self, holder: Uuid, site: &mut Site) -> Result<(), End> {
        if site.now >= self.lead.trust_until {
            return Err(End::TrustRanOut);
        }
        match self.beat.hear(site) {
            Heard::Free if site.now >= self.beat_at => {
                self.beat_at = site.now + site.plan.ttl / 3;
                self.beat.ask(self.lead.relay, Ask::Beat { holder, epoch: self.lead.epoch }, site);
            }
            Heard::Answer(Answer::Ours(true), sent_at) => {
                self.lead.trust_until = self.lead.trust_until.max(trust(sent_at, site.plan));
            }
            Heard::Answer(Answer::Ours(false), _) => return Err(End::LeaseLost),
            Heard::Answer(..) => self.beat_at = site.now + site.plan.ttl / 20,
            Heard::Free | Heard::Waits => {}
        }
        Ok(())
    }

    fn turn(&mut self, site: &mut Site) -> Result<(), End> {
        let Some(loops) = &mut self.loops else {
            match self.inherit.hear(site) {
                Heard::Free => self.inherit.ask(self.lead.relay, Ask::Inherit, site),
                Heard::Answer(Answer::Inherited(found), _) => {
                    self.loops = Some(Loops {
                        read: Reading::new(&found),
                        send: Sending::new(&found, site),
                        settle: Settling::new(&found, site.now),
                        retry: Retry::default(),
                    });
                }
                _ => {}
            }
            return Ok(());
        };
        match site.dice.below(10) {
            0 | 1 => loops.read.step(&self.lead, site),
            2..5 => send::step(&self.lead, loops, site),
            5 => settle::step(&self.lead, loops, site),
            6 => alone::step(&self.lead, loops, site),
            7 | 8 => {
                loops.send.main.step(site.kafka, site.dice);
                Ok(())
            }
            _ => {
                loops.send.second.step(site.kafka, site.dice);
                Ok(())
            }
        }
    }
}
