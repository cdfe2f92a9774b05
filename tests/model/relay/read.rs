//! Read: page after page, each in one snapshot, and the flush barrier behind it.
//!
//! The arithmetic is the relay's own (`position`). It moves on without waiting for anybody.

use std::rc::Rc;

use outbox_relay::message::OutboxRow;
use outbox_relay::position::{Position, Seen};

use super::{End, Heard, Lead, Session, Site};
use crate::bugs::{Bug, Ms};
use crate::postgres::Xid;
use crate::postgres::calls::{Answer, Ask, Inherited};
use crate::postgres::read::{Incarnation, PollFrom, Polled};

/// Pauses of polling while nothing comes.
const POLL: (Ms, Ms) = (5, 50);

/// A page for the sender.
pub struct Page {
    pub rows: Vec<Rc<OutboxRow>>,
    pub next: Position,
}

/// The loop's state.
pub struct Reading {
    session: Session,
    position: Position,
    as_of: Xid,
    short: bool,
    /// A page that waits for the disk.
    unflushed: Option<(Page, Xid, bool, u64)>,
    /// Room for one page.
    pub out: Option<Page>,
    next_poll: Ms,
    pause: Ms,
}

impl Reading {
    pub fn new(found: &Inherited) -> Reading {
        Reading {
            session: Session::default(),
            position: found.newest.position.clone(),
            as_of: found.newest.as_of,
            short: false,
            unflushed: None,
            out: None,
            next_poll: 0,
            pause: POLL.0,
        }
    }

    /// One turn.
    pub fn step(&mut self, lead: &Lead, site: &mut Site) -> Result<(), End> {
        match self.session.hear(site) {
            Heard::Waits => {}
            Heard::Free => self.ask(lead, site),
            // A page whose barrier got no answer is read again.
            Heard::Answer(Answer::Lost, _) => {
                self.unflushed = None;
                if site.now >= lead.trust_until {
                    return Err(End::TrustRanOut);
                }
            }
            Heard::Answer(Answer::Polled(polled), _) => self.take(polled, lead, site)?,
            Heard::Answer(Answer::Durable(incarnation), _) => {
                ours(incarnation)?;
                let (page, as_of, more, _) = self.unflushed.take().expect("it waits for the barrier");
                self.hand_on(page, as_of, more, lead, site);
            }
            Heard::Answer(..) => unreachable!("it asks nothing else"),
        }
        Ok(())
    }

    fn ask(&mut self, lead: &Lead, site: &mut Site) {
        if self.out.is_some() || site.now < self.next_poll {
            return;
        }
        let from = PollFrom {
            position: self.position.clone(),
            as_of: self.as_of,
            short: self.short,
            token: lead.token,
        };
        self.session.ask(lead.relay, Ask::Poll(from), site);
    }

    fn take(&mut self, polled: Polled, lead: &Lead, site: &mut Site) -> Result<(), End> {
        ours(polled.incarnation)?;
        let (late, fresh) = (polled.late.len(), polled.fresh.len());
        let full = site.plan.page_rows;
        let (next, as_of, more) = if self.position.late.is_some() {
            (self.position.after_late_page(polled.last_id), self.as_of, true)
        } else {
            if polled.last_id < self.position.high {
                // The relay refuses to go on; nothing that the model does to the server may lead here.
                let high = self.position.high;
                site.broken.push(format!("the sequence stands at {}, below high {high}", polled.last_id));
                return Err(End::Unusable);
            }
            let next = self.position.after_poll(&Seen {
                snapshot: polled.snapshot,
                last_late: polled.late.last().map(|row| row.id),
                late_full: late >= full,
                last_fresh: polled.fresh.last().map(|row| row.id),
            });
            let as_of = if next.high > self.position.high { polled.next_xid } else { self.as_of };
            (next, as_of, late >= full || fresh >= full)
        };
        let rows = polled.late.into_iter().chain(polled.fresh).collect();
        let mut page = Page { rows, next };
        if site.plan.has(Bug::DropsLastRow) && page.rows.len() > 1 {
            page.rows.pop();
        }
        match polled.unflushed.filter(|_| !page.rows.is_empty() && !site.plan.has(Bug::NoFlushBarrier)) {
            Some(written) => {
                self.unflushed = Some((page, as_of, more, written));
                self.session.ask(lead.relay, Ask::Barrier { written, token: lead.token }, site);
            }
            None => self.hand_on(page, as_of, more, lead, site),
        }
        Ok(())
    }

    fn hand_on(&mut self, page: Page, as_of: Xid, more: bool, lead: &Lead, site: &mut Site) {
        self.position = page.next.clone();
        self.as_of = as_of;
        self.short = !more;
        self.pause = if page.rows.is_empty() { (self.pause * 2).min(POLL.1) } else { POLL.0 };
        self.next_poll = if more { site.now } else { site.now + self.pause };
        if !page.rows.is_empty() {
            site.trace.say(site.now, &format!("relay {}", lead.relay), || {
                let ids: Vec<i64> = page.rows.iter().map(|row| row.id).collect();
                let Position { snapshot, high, late } = &page.next;
                let late = late.as_ref().map(|late| (&late.snapshot, late.after));
                format!("has read {ids:?}, next {snapshot} high {high} late {late:?}")
            });
            self.out = Some(page);
        }
    }
}

/// The token tells whether the server and the lease are still those of the takeover.
fn ours(incarnation: Incarnation) -> Result<(), End> {
    match incarnation {
        Incarnation::Ours => Ok(()),
        Incarnation::Other => Err(End::LeaseLost),
        Incarnation::Gone => Err(End::Forgotten),
    }
}
