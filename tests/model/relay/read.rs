//! Read: page after page of main and of the lanes, each in one snapshot, and the flush barrier behind it.
//!
//! The arithmetic is the relay's own (`position`). It moves on without waiting for anybody; a lane is read when the sender asks.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use outbox_relay::message::OutboxRow;
use outbox_relay::position::{Position, Seen};

use super::lanes::{Opening, Order};
use super::{End, Heard, Lead, Session, Site};
use crate::bugs::{Bug, Ms};
use crate::postgres::calls::{Answer, Ask, Inherited};
use crate::postgres::read::{Incarnation, PollFrom, Polled, ids};
use crate::postgres::{Snapshot, Xid};

/// Pauses of polling while nothing comes.
const POLL: (Ms, Ms) = (5, 50);

/// A page for the sender.
pub struct Page {
    pub rows: Vec<Rc<OutboxRow>>,
    pub next: Position,
    pub as_of: Xid,
    pub more: bool,
    /// Main has passed rows of lanes.
    pub skipped: bool,
    /// Of a lane: whose.
    pub lane: Option<Arc<str>>,
    /// It stands where main stands, and is closed.
    pub closes: bool,
    /// Of main: a lane that ends at its position; the page has no rows.
    pub closed: Option<Arc<str>>,
    /// Of main: lanes that begin before it.
    pub opened: Vec<Opening>,
}

/// Where a stream is read next.
#[derive(Clone)]
struct Place {
    position: Position,
    as_of: Xid,
}

/// The loop's state.
pub struct Reading {
    session: Session,
    main: Place,
    lanes: Vec<(Arc<str>, Place)>,
    opening: Vec<Arc<str>>,
    /// The topics of the large late set that main is paging.
    late_set: Vec<Arc<str>>,
    /// Where main stood before the page that is asked for.
    here: Option<Place>,
    short: bool,
    /// What was asked for: a page of this lane, or of main.
    asked: Option<Arc<str>>,
    /// A page that waits for the disk.
    unflushed: Option<(Page, u64)>,
    /// Room for one page of main.
    pub out: Option<Page>,
    pub lane_pages: VecDeque<Page>,
    pub orders: VecDeque<Order>,
    next_poll: Ms,
    pause: Ms,
}

impl Reading {
    pub fn new(found: &Inherited) -> Reading {
        let lanes = found.lanes.iter().map(|row| {
            let place = Place { position: row.position.clone(), as_of: row.as_of };
            (Arc::clone(row.lane.as_ref().expect("a lane has a topic")), place)
        });
        Reading {
            session: Session::default(),
            main: Place { position: found.newest.position.clone(), as_of: found.newest.as_of },
            lanes: lanes.collect(),
            opening: Vec::new(),
            late_set: Vec::new(),
            here: None,
            short: false,
            asked: None,
            unflushed: None,
            out: None,
            lane_pages: VecDeque::new(),
            orders: VecDeque::new(),
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
                let (page, _) = self.unflushed.take().expect("it waits for the barrier");
                self.hand_on(page, lead, site);
            }
            Heard::Answer(..) => unreachable!("it asks nothing else"),
        }
        Ok(())
    }

    fn skip(&self) -> Vec<Arc<str>> {
        self.lanes.iter().map(|(topic, _)| topic).chain(&self.opening).map(Arc::clone).collect()
    }

    /// The lane has seen what main has not: main goes on from an older settlement.
    fn is_ahead(&self, topic: &Arc<str>) -> bool {
        let place = self.lanes.iter().find(|(name, _)| name == topic).map(|(_, place)| &place.position);
        let snapshot = |position: &Position| Snapshot::parse(&position.snapshot);
        place.is_some_and(|lane| snapshot(&self.main.position).is_older_than(&snapshot(lane)))
    }

    /// Main need not look through a large late set of which every topic has a lane or gets it now.
    fn pass_late_set(&mut self) {
        let skip = self.skip();
        if !self.late_set.is_empty() && self.late_set.iter().all(|topic| skip.contains(topic)) {
            self.late_set.clear();
            self.main.position = self.main.position.after_late_page(self.main.position.high);
        }
    }

    fn ask(&mut self, lead: &Lead, site: &mut Site) {
        // What was asked for and got no answer comes first.
        if self.asked.is_none() {
            match self.orders.pop_front() {
                Some(Order::Open(topic)) => {
                    if !self.skip().contains(&topic) {
                        self.opening.push(topic);
                        self.short = false;
                    }
                    return;
                }
                // It has to wait until main has come as far as the lane had under the lease before.
                Some(Order::Read(topic)) if self.is_ahead(&topic) && !site.plan.has(Bug::LaneGoesBack) => {
                    self.orders.push_front(Order::Read(topic));
                }
                Some(Order::Read(topic)) => self.asked = Some(topic),
                None => {}
            }
        }
        if self.asked.is_none() {
            if self.out.is_some() || site.now < self.next_poll {
                return;
            }
            // A page that got no answer is asked for again, and begins where it did.
            if self.here.is_none() {
                self.here = Some(self.main.clone());
                self.pass_late_set();
            }
        }
        let (place, short, skip, lane) = match &self.asked {
            Some(topic) => {
                let found = self.lanes.iter().find(|(name, _)| name == topic);
                let place = &found.expect("only open lanes are asked for").1;
                let lane = (Arc::clone(topic), self.main.position.clone());
                (place, false, Vec::new(), Some(lane))
            }
            None => (&self.main, self.short, self.skip(), None),
        };
        let from = PollFrom {
            position: place.position.clone(),
            as_of: place.as_of,
            short,
            token: lead.token,
            skip,
            lane,
        };
        self.session.ask(lead.relay, Ask::Poll(from), site);
    }

    fn take(&mut self, polled: Polled, lead: &Lead, site: &mut Site) -> Result<(), End> {
        ours(polled.incarnation)?;
        let lane = self.asked.clone();
        let place = match &lane {
            Some(topic) => &self.lanes.iter().find(|(name, _)| name == topic).expect("it was there").1,
            None => &self.main,
        };
        let (late, fresh, full) = (polled.late.len(), polled.fresh.len(), site.plan.page_rows);
        let looked_at = polled.fresh.last().map(|row| row.id).max(polled.last_skipped);
        let late_full = late >= full;
        let last_late = polled.late.last().map(|row| row.id);
        let (next, as_of, more) = if let Some((first, topics)) = polled.late_set {
            let begun = (place.position.at_late_set(polled.snapshot, first), place.as_of, true);
            if lane.is_none() {
                self.late_set = topics;
            }
            begun
        } else if place.position.late.is_some() {
            (place.position.after_late_page(polled.last_id), place.as_of, true)
        } else if lane.is_some() {
            let cut = fresh >= full || polled.skips >= ids(full);
            let last_fresh = if late_full || cut { looked_at } else { Some(self.main.position.high) };
            let seen = Seen { snapshot: polled.snapshot, last_late, late_full, last_fresh };
            (place.position.after_poll(&seen), place.as_of, late_full || cut)
        } else {
            let high = place.position.high;
            if polled.last_id < high {
                // The relay refuses to go on; nothing that the model does to the server may lead here.
                site.broken.push(format!("the sequence stands at {}, below high {high}", polled.last_id));
                return Err(End::Unusable);
            }
            let looked_at_all = polled.skips > 0 && polled.skips + fresh >= ids(full);
            let seen = Seen { snapshot: polled.snapshot, last_late, late_full, last_fresh: looked_at };
            let next = place.position.after_poll(&seen);
            let as_of = if next.high > high { polled.next_xid } else { place.as_of };
            (next, as_of, late_full || fresh >= full || looked_at_all)
        };
        let rows = polled.late.into_iter().chain(polled.fresh).collect();
        let (skipped, closes, opened) =
            (polled.last_skipped.is_some() || polled.skips > 0, false, Vec::new());
        let mut page = Page { rows, next, as_of, more, skipped, lane, closes, closed: None, opened };
        if site.plan.has(Bug::DropsLastRow) && page.rows.len() > 1 {
            page.rows.pop();
        }
        let is_news = !page.rows.is_empty() || page.next.late.is_some();
        match polled.unflushed.filter(|_| is_news && !site.plan.has(Bug::NoFlushBarrier)) {
            Some(written) => {
                self.unflushed = Some((page, written));
                self.session.ask(lead.relay, Ask::Barrier { written, token: lead.token }, site);
            }
            None => self.hand_on(page, lead, site),
        }
        Ok(())
    }

    fn hand_on(&mut self, mut page: Page, lead: &Lead, site: &mut Site) {
        self.asked = None;
        match page.lane.clone() {
            Some(topic) => self.move_lane(&topic, &mut page, site),
            None => self.move_main(&mut page, site),
        }
        site.trace.say(site.now, &format!("relay {}", lead.relay), || {
            let rows: Vec<i64> = page.rows.iter().map(|row| row.id).collect();
            let Position { snapshot, high, late } = &page.next;
            let late = late.as_ref().map(|late| (&late.snapshot, late.after));
            let lane = page.lane.as_ref().map_or(String::new(), |lane| format!(" in lane {lane}"));
            let closes = if page.closes { ", closes" } else { "" };
            let opened: Vec<&Arc<str>> = page.opened.iter().map(|opening| &opening.topic).collect();
            format!(
                "has read {rows:?}{lane}, next {snapshot} high {high} late {late:?} opens {opened:?}{closes}"
            )
        });
        if page.lane.is_some() {
            self.lane_pages.push_back(page);
        } else if !page.rows.is_empty() || !page.opened.is_empty() || page.skipped {
            self.out = Some(page);
        }
    }

    fn move_main(&mut self, page: &mut Page, site: &mut Site) {
        // A lane opens where main stood before this page, which leaves its topic out already.
        let stood = self.here.take().filter(|_| !site.plan.has(Bug::LaneMissesLateSet));
        let here = stood.unwrap_or_else(|| self.main.clone());
        for topic in self.opening.drain(..) {
            self.lanes.push((Arc::clone(&topic), here.clone()));
            page.opened.push(Opening { topic, position: here.position.clone(), as_of: here.as_of });
        }
        if page.next.late.is_none() {
            self.late_set.clear();
        }
        self.main = Place { position: page.next.clone(), as_of: page.as_of };
        self.short = !page.more;
        self.pause = if page.rows.is_empty() { (self.pause * 2).min(POLL.1) } else { POLL.0 };
        self.next_poll = if page.more { site.now } else { site.now + self.pause };
    }

    /// If a lane ends where main stands, main takes the topic back with its next page. That the lane is closed is main's news: it
    /// may be settled only with the position at which both met.
    fn move_lane(&mut self, topic: &Arc<str>, page: &mut Page, site: &Site) {
        let main = self.main.clone();
        let at = self.lanes.iter().position(|(name, _)| name == topic).expect("it was there");
        let place = &mut self.lanes[at].1;
        if page.next.high > place.position.high {
            place.as_of = main.as_of;
        }
        place.position = page.next.clone();
        page.as_of = place.as_of;
        let by_itself = site.plan.has(Bug::LaneClosesByItself);
        if page.more || place.position != main.position || (self.out.is_some() && !by_itself) {
            return;
        }
        page.closes = true;
        self.lanes.remove(at);
        if !by_itself {
            self.out = Some(Page {
                rows: Vec::new(),
                next: main.position,
                as_of: main.as_of,
                more: false,
                skipped: false,
                lane: None,
                closes: false,
                closed: Some(Arc::clone(topic)),
                opened: Vec::new(),
            });
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
