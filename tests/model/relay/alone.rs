//! Deferred rows that are due: fetched one batch at a time, sent alone, one in flight per key.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::message::{Fitness, judge};
use outbox_relay::partition;
use outbox_relay::store::settle::{Deferral, PARKED, Reason};
use outbox_relay::verdict::{Failure, History, Route, TopicTrouble, Verdict, decide};

use super::batch::{DueBatch, Fate};
use super::send::Sending;
use super::send::record;
use super::{End, Heard, Lead, Loops, Session, Site};
use crate::bugs::{Bug, Ms};
use crate::kafka::{PARTITIONS, Tag};
use crate::postgres::calls::{Answer, Ask};
use crate::postgres::read::DueRow;
use crate::postgres::settle::Waiting;

/// How often due rows are looked for while any row is deferred, and while none is known.
const LOOK_EVERY: Ms = 100;
const LOOK_ANYWAY: Ms = 10_000;
/// For clocks that tick in steps.
const MARGIN: Ms = 10;

/// The retry loop's state.
#[derive(Default)]
pub struct Retry {
    session: Session,
    pub out: Option<Vec<DueRow>>,
    /// A batch is on its way; then everything due before this time has been dealt with.
    on_its_way: Option<Ms>,
    since: Ms,
    settling_since: Ms,
    next_look: Ms,
}

impl Retry {
    /// The settlement of the batch has been written: so many rows have left.
    pub fn settled(&mut self, left: usize) {
        if let Some(dealt_with) = self.on_its_way.take() {
            self.since = dealt_with;
            if left > 0 {
                self.next_look = 0;
            }
        }
    }
}

/// One turn of the retry loop.
pub fn step(lead: &Lead, loops: &mut Loops, site: &mut Site) -> Result<(), End> {
    let retry = &mut loops.retry;
    match retry.session.hear(site) {
        Heard::Waits => {}
        Heard::Free => {
            if retry.on_its_way.is_some() || site.now < retry.next_look {
                return Ok(());
            }
            let idle = loops.send.deferred == 0 && site.now < retry.next_look + LOOK_ANYWAY;
            if idle {
                return Ok(());
            }
            retry.settling_since = loops.settle.since.unwrap_or(site.now);
            retry.next_look = site.now + LOOK_EVERY;
            retry.session.ask(lead.relay, Ask::Due { since: retry.since }, site);
        }
        Heard::Answer(Answer::Due(page), _) => {
            let unseen = site.now - retry.settling_since + MARGIN;
            let dealt_with = page.dealt_with.min(page.clock.saturating_sub(unseen)).max(retry.since);
            if page.rows.is_empty() {
                retry.since = dealt_with;
            } else {
                retry.on_its_way = Some(dealt_with);
                retry.out = Some(page.rows);
            }
        }
        Heard::Answer(..) => {
            if site.now >= lead.trust_until {
                return Err(End::TrustRanOut);
            }
        }
    }
    Ok(())
}

impl Sending {
    pub fn take_due(&mut self, rows: Vec<DueRow>, site: &mut Site) {
        self.next_no += 1;
        site.trace.say(site.now, "send", || {
            let ids: Vec<(i64, bool)> = rows.iter().map(|due| (due.waiting.row.id, due.waits)).collect();
            format!("takes due rows (waits) {ids:?}")
        });
        let due = DueBatch::new(self.next_no, rows, site.plan);
        for (row, fate) in due.rows.iter().zip(&due.fates) {
            // It is due, but an earlier row of its key is not through: from now on its key waits for it, too.
            if matches!(fate, Fate::PutOff(_)) && row.waiting.reason == Reason::Scheduled {
                self.keys.wait(&row.waiting.row.topic, row.waiting.row.key.as_deref(), 1);
            }
        }
        self.due = Some(due);
    }

    /// Offers the next row of every chain that may go on.
    pub fn hand_over_due(&mut self, lead: &Lead, site: &mut Site) {
        while let Some(due) = &mut self.due {
            let Some(&chain) = due.ready.last() else { return };
            let Some(&index) = due.chains[chain].last() else {
                due.ready.pop();
                continue;
            };
            let row = Rc::clone(&due.rows[index].waiting.row);
            if self.topic(&row.topic).sick {
                self.due_failed(index, Failure::Topic(TopicTrouble::Missing), site);
                continue;
            }
            if let Fitness::Unfit(failure, _) = judge(&row, &record::facts(site.plan)) {
                self.due_failed(index, failure, site);
                continue;
            }
            let due = self.due.as_mut().expect("it was there above");
            let tag = Tag { alone: true, no: due.no, index };
            let partition = match &row.key {
                Some(key) => partition::of_key(key, PARTITIONS),
                None => site.dice.below(PARTITIONS as usize) as i32,
            };
            due.fates[index] = Fate::InFlight;
            due.in_flight += 1;
            due.ready.pop();
            record::still_leads(lead, site);
            self.second.hand_over(record::message(&row, tag, partition, lead), site.kafka);
        }
    }

    pub fn take_due_reports(&mut self, site: &mut Site) {
        self.second.tripped = false;
        while let Some((tag, result)) = self.second.reports.pop_front() {
            let Some(due) = self.due.as_mut().filter(|due| due.no == tag.no) else { continue };
            due.in_flight -= 1;
            match result {
                Err(failure) if !record::taken_for_success(failure, site.plan) => {
                    if let Failure::Topic(_) = failure {
                        let topic = Arc::clone(&due.rows[tag.index].waiting.row.topic);
                        self.sicken(&topic);
                    }
                    self.due_failed(tag.index, failure, site);
                }
                _ => {
                    due.fates[tag.index] = Fate::Published;
                    let chain = due.chain_of[tag.index];
                    due.chains[chain].pop();
                    due.ready.push(chain);
                }
            }
        }
    }

    /// A due row failed: it is put off again or dies, and what waits behind it stays where it is.
    fn due_failed(&mut self, index: usize, failure: Failure, site: &mut Site) {
        let Some(due) = &mut self.due else { return };
        let chain = due.chain_of[index];
        let behind = std::mem::take(&mut due.chains[chain]);
        for other in behind.into_iter().filter(|other| *other != index) {
            let Waiting { row, reason, due_at, attempts, tries, .. } = &due.rows[other].waiting;
            if due_at.is_none() || site.plan.has(Bug::LeavesDueRowBehind) {
                continue;
            }
            // Its time is over, and nobody looks that far back again: it waits for the one that failed.
            let known = Deferral::behind(row.id);
            due.fates[other] = Fate::PutOff(Deferral { attempts: *attempts, tries: *tries, ..known });
            if *reason == Reason::Scheduled {
                self.keys.wait(&row.topic, row.key.as_deref(), 1);
            }
        }
        due.ready.retain(|ready| *ready != chain);
        let waiting = &due.rows[index].waiting;
        let age = waiting.first_rejected.map_or(0, |at| site.now.saturating_sub(at));
        let history = History { attempts: waiting.attempts.max(0) as u32, age: Duration::from_millis(age) };
        let verdict = decide(failure, Route::Alone, history, record::limits(site.plan));
        let spent = matches!(verdict, Verdict::PutOff { spent: true } | Verdict::Dead(_));
        let attempts = waiting.attempts + i32::from(spent);
        let tries = waiting.tries + i32::from(spent);
        let (id, row) = (waiting.row.id, Rc::clone(&waiting.row));
        let was_scheduled = waiting.reason == Reason::Scheduled;
        due.fates[index] = match verdict {
            Verdict::Dead(reason) => Fate::Dead(record::death(id, reason, attempts)),
            verdict => {
                let delay = match verdict {
                    Verdict::Park(_) => PARKED,
                    _ => record::BACKOFF.delay(tries.max(1) as u32, site.dice.fraction()).as_millis() as i64,
                };
                Fate::PutOff(Deferral {
                    reason: Reason::Retry,
                    delay_ms: Some(delay),
                    attempts,
                    tries,
                    ..Deferral::behind(id)
                })
            }
        };
        // A scheduled row blocked nobody so far.
        if was_scheduled && matches!(due.fates[index], Fate::PutOff(_)) {
            self.keys.wait(&row.topic, row.key.as_deref(), 1);
        }
    }
}
