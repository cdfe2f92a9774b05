//! Writing: one settlement is one call, all of it or nothing.
//!
//! Owns the shape of a settlement on its way to `outbox.settle`. A settlement is repeated only as it was, with its
//! seq; anything new takes the next one. That is why it is built once ([`Settlement`]) and sent as often as needed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::{Session, StoreError};
use crate::position::Position;
use crate::receipt::{self, Receipt};

/// Why a row is put off, as `outbox.deferred.reason` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Refused, or not deliverable now.
    Retry,
    /// An earlier row of its key is put off.
    Behind,
    /// Its `deliver_after` lies ahead.
    Scheduled,
}

impl Reason {
    /// The word in the database and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Retry => "retry",
            Reason::Behind => "behind",
            Reason::Scheduled => "scheduled",
        }
    }
}

/// A row that is put off, or put off again.
#[derive(Debug, Clone)]
pub struct Deferral {
    /// The row.
    pub id: i64,
    /// Why.
    pub reason: Reason,
    /// When it is due, from now on; `None` for a row behind another.
    pub delay_ms: Option<i64>,
    /// Tries that were its own fault, this one included.
    pub attempts: i32,
    /// All tries, this one included.
    pub tries: i32,
    /// Class of the failure.
    pub class: Option<&'static str>,
    /// What a person reads.
    pub error: Option<String>,
    /// Later rows of its key may pass it.
    pub passable: bool,
}

impl Deferral {
    /// A row that waits behind an earlier one of its key.
    pub fn behind(id: i64) -> Deferral {
        Deferral {
            id,
            reason: Reason::Behind,
            delay_ms: None,
            attempts: 0,
            tries: 0,
            class: None,
            error: None,
            passable: false,
        }
    }
}

/// The delay of a row that waits until its topic is woken.
pub const PARKED: i64 = -1;

/// A row that becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The row.
    pub id: i64,
    /// Why, as `outbox.dead_letter.reason_class` spells it.
    pub class: &'static str,
    /// Equal for equal causes.
    pub fingerprint: String,
    /// What a person reads: no payload, no secret.
    pub error: String,
    /// Attempts that were its own fault.
    pub attempts: i32,
    /// The topic that gets a copy.
    pub copy: Option<Arc<str>>,
}

/// An attempt that was not a confirm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The row.
    pub id: i64,
    /// Class of the failure.
    pub class: &'static str,
    /// What a person reads.
    pub error: String,
}

/// How far a lane has come; one row of `outbox.ledger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStep {
    /// Its topic.
    pub topic: Arc<str>,
    /// Why it has a lane.
    pub cause: &'static str,
    /// The lane's position.
    pub position: Position,
    /// Every row with `id <= high` has a txid below this one; `None`: below the settlement's own.
    pub as_of: Option<String>,
    /// The main stream has the topic back.
    pub closed: bool,
    /// Rows of the topic that main has skipped and the lane has not read, as far as is known.
    pub waiting: i64,
}

/// How far a settlement brings a request. How many letters it was the settlement counts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPage {
    /// The request.
    pub request: i64,
    /// The last letter or row of the page.
    pub last_id: i64,
    /// How long consumers remember, in seconds: older letters are marked when they enter.
    pub window_s: i64,
}

/// Published rows that enter `outbox.deferred` as copies. Whose page they are is in [`Rare::request`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReplayPage {
    /// The rows.
    pub ids: Vec<i64>,
    /// The topic that they go to, if it is not their own.
    pub to: Option<Arc<str>>,
}

/// A copy that Kafka has confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The request that asked for it.
    pub request: i64,
    /// Where it went.
    pub topic: Arc<str>,
    /// The row that it is a copy of.
    pub id: i64,
    /// Where it is.
    pub receipt: Receipt,
}

/// What a settlement records, in any order.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Confirmed rows and where their records are.
    pub published: Vec<(i64, Receipt)>,
    /// Rows whose `expires_at` had passed.
    pub expired: Vec<i64>,
    /// Rows given up under at-most-once delivery.
    pub dropped: Vec<i64>,
    /// Rows put off.
    pub deferred: Vec<Deferral>,
    /// Of the published, expired and dropped rows, those that came from `outbox.deferred` and leave it.
    pub departed: Vec<i64>,
    /// What ordinary traffic does not have.
    pub rare: Rare,
}

/// What a settlement records only when something out of the ordinary has happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rare {
    /// Positions of lanes. Of one lane the last one counts.
    pub lanes: Vec<LaneStep>,
    /// Rows that become dead letters; they leave `outbox.deferred` by that.
    pub dead: Vec<Death>,
    /// Attempts that failed.
    pub attempts: Vec<Attempt>,
    /// Dead letters that enter `outbox.deferred` again.
    pub requeued: Vec<i64>,
    /// Of those, the ones that later rows of their key may pass.
    pub passable: Vec<i64>,
    /// Dead letters that are given up.
    pub discarded: Vec<i64>,
    /// Whose page the requeued or discarded ones are. One page is on its way at a time.
    pub request: Option<RequestPage>,
    /// Dead letters whose copy was confirmed.
    pub copied: Vec<i64>,
    /// Parked rows that are due now: topic, how many.
    pub woken: Vec<(Arc<str>, i64)>,
    /// Published rows that go out again.
    pub replay: Option<ReplayPage>,
    /// Copies of published rows that have gone out.
    pub replayed: Vec<Replayed>,
}

impl Rare {
    /// Adds what `other` holds.
    pub fn extend(&mut self, other: Rare) {
        for step in other.lanes {
            // Within one settlement only where a lane ends up matters.
            self.lanes.retain(|known| known.topic != step.topic);
            self.lanes.push(step);
        }
        self.dead.extend(other.dead);
        self.attempts.extend(other.attempts);
        self.requeued.extend(other.requeued);
        self.passable.extend(other.passable);
        self.request = other.request.or(self.request);
        self.discarded.extend(other.discarded);
        self.copied.extend(other.copied);
        self.woken.extend(other.woken);
        self.replay = other.replay.or(self.replay.take());
        self.replayed.extend(other.replayed);
    }

    /// It holds something that must not be lost. A lane's position that is lost only repeats rows.
    fn is_durable(&self) -> bool {
        let Rare {
            lanes: _, passable: _, dead, attempts, requeued, discarded, request, copied, woken, ..
        } = self;
        !(dead.is_empty()
            && attempts.is_empty()
            && requeued.is_empty()
            && discarded.is_empty()
            && request.is_none()
            && copied.is_empty()
            && woken.is_empty()
            && self.replay.is_none()
            && self.replayed.is_empty())
    }

    /// As `outbox.settle` reads it; `None` when there is nothing.
    fn to_json(&self) -> Option<String> {
        let mut parts = serde_json::Map::new();
        let mut put = |name: &str, list: Vec<serde_json::Value>| {
            if !list.is_empty() {
                parts.insert(name.to_owned(), list.into());
            }
        };
        let lane = |step: &LaneStep| {
            let late = step.position.late.as_ref();
            json!({
                "lane": &*step.topic, "cause": step.cause, "snapshot": step.position.snapshot,
                "high": step.position.high, "as_of": step.as_of, "closed": step.closed, "waiting": step.waiting,
                "late_snapshot": late.map(|late| &late.snapshot), "late_after": late.map(|late| late.after),
            })
        };
        let dead = |death: &Death| {
            json!({
                "id": death.id, "class": death.class, "fingerprint": death.fingerprint, "error": death.error,
                "attempts": death.attempts, "copy": death.copy.as_deref(),
            })
        };
        let attempt = |a: &Attempt| json!({"id": a.id, "class": a.class, "error": a.error});
        let ids = |ids: &[i64]| ids.iter().map(|id| json!(id)).collect();
        put("lanes", self.lanes.iter().map(lane).collect());
        put("dead", self.dead.iter().map(dead).collect());
        put("attempts", self.attempts.iter().map(attempt).collect());
        put("requeued", ids(&self.requeued));
        put("passable", ids(&self.passable));
        put("discarded", ids(&self.discarded));
        put("copied", ids(&self.copied));
        put(
            "woken",
            self.woken.iter().map(|(topic, rows)| json!({"topic": &**topic, "rows": rows})).collect(),
        );
        put("replayed", replayed(&self.replayed));
        if let Some(page) = &self.replay {
            parts.insert("replay".to_owned(), json!({"ids": page.ids, "to": page.to.as_deref()}));
        }
        if let Some(RequestPage { request, last_id, window_s }) = self.request {
            let page = json!({"id": request, "last_id": last_id, "window_s": window_s});
            parts.insert("request".to_owned(), page);
        }
        (!parts.is_empty()).then(|| serde_json::Value::Object(parts).to_string())
    }
}

/// Confirmed copies, each topic's of each request together: their ids and receipts are as compact as those of other rows.
fn replayed(copies: &[Replayed]) -> Vec<serde_json::Value> {
    let mut groups: BTreeMap<(i64, &str), Vec<(i64, Receipt)>> = BTreeMap::new();
    for copy in copies {
        groups.entry((copy.request, &copy.topic)).or_default().push((copy.id, copy.receipt));
    }
    let group = |((request, topic), mut copies): ((i64, &str), Vec<(i64, Receipt)>)| {
        copies.sort_unstable_by_key(|(id, _)| *id);
        let receipts = receipt::encode(copies.iter().map(|(_, receipt)| *receipt));
        let hex: String = receipts.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"request": request, "topic": topic, "ids": multirange(copies.iter().map(|(id, _)| *id)), "receipts": hex})
    };
    groups.into_iter().map(group).collect()
}

/// A settlement ready to be sent, as often as it takes.
#[derive(Debug)]
pub struct Settlement {
    epoch: i64,
    seq: i64,
    token: Uuid,
    durable: bool,
    position: Position,
    moved: bool,
    published: String,
    receipts: Vec<u8>,
    expired: String,
    dropped: String,
    departed: Vec<i64>,
    deferred: Vec<Deferral>,
    rare: Option<String>,
    lanes: i64,
}

impl Settlement {
    /// Builds the settlement number `seq` of the lease `epoch`. `moved` says that `position` is new.
    pub fn new(
        epoch: i64,
        seq: i64,
        token: Uuid,
        durable: bool,
        position: Position,
        moved: bool,
        mut outcome: Outcome,
    ) -> Settlement {
        outcome.published.sort_unstable_by_key(|(id, _)| *id);
        outcome.expired.sort_unstable();
        outcome.dropped.sort_unstable();
        let must_last = !outcome.deferred.is_empty()
            || !outcome.departed.is_empty()
            || !outcome.dropped.is_empty()
            || outcome.rare.is_durable();
        Settlement {
            epoch,
            seq,
            token,
            durable: durable || must_last,
            position,
            moved,
            published: multirange(outcome.published.iter().map(|(id, _)| *id)),
            receipts: receipt::encode(outcome.published.iter().map(|(_, receipt)| *receipt)),
            expired: multirange(outcome.expired.iter().copied()),
            dropped: multirange(outcome.dropped.iter().copied()),
            rare: outcome.rare.to_json(),
            lanes: outcome.rare.lanes.len() as i64,
            departed: outcome.departed,
            deferred: outcome.deferred,
        }
    }

    /// The settlement waits for the disk: it is marked so, or it carries what must not be lost.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The number of the last ledger row that it writes; the next settlement takes the one after it.
    pub fn last_seq(&self) -> i64 {
        self.seq + self.lanes
    }

    /// Writes it. Doing so twice is harmless. Returns the ids that it went on without: somebody else had changed or deleted
    /// their rows, so they were not put off, buried, requeued or discarded.
    pub async fn write(&self, session: &mut Session) -> Result<Vec<i64>, StoreError> {
        let late = self.position.late.as_ref();
        let column = |f: fn(&Deferral) -> Option<i64>| self.deferred.iter().map(f).collect::<Vec<_>>();
        let query = session
            .call(include_str!("sql/settle.sql"))
            .bind(self.epoch)
            .bind(self.seq)
            .bind(self.token)
            .bind(self.durable)
            .bind(&self.position.snapshot)
            .bind(self.position.high)
            .bind(late.map(|l| l.snapshot.as_str()))
            .bind(late.map(|l| l.after))
            .bind(self.moved)
            .bind(&self.published)
            .bind((!self.published.is_empty()).then_some(&self.receipts))
            .bind(&self.expired)
            .bind(&self.dropped)
            .bind(&self.departed)
            .bind(self.deferred.iter().map(|d| d.id).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.reason.as_str()).collect::<Vec<_>>())
            .bind(column(|d| d.delay_ms))
            .bind(self.deferred.iter().map(|d| d.attempts).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.tries).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.class).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.error.as_deref()).collect::<Vec<_>>())
            .bind(self.deferred.iter().map(|d| d.passable).collect::<Vec<_>>())
            .bind(&self.rare);
        let outcome: String = session.value("settle", query).await?;
        match outcome.as_str() {
            "settled" | "repeated" => Ok(Vec::new()),
            "settled_without" | "repeated_without" => self.lacking(session).await,
            "lease_lost" => StoreError::deposed().map(|()| Vec::new()),
            "forgotten" => Err(StoreError::Forgotten),
            _ => Err(StoreError::OutOfTurn),
        }
    }

    async fn lacking(&self, session: &mut Session) -> Result<Vec<i64>, StoreError> {
        const WHAT: &str = "read what a settlement lacks";
        let query = session.call(include_str!("sql/lacking.sql")).bind(self.epoch).bind(self.last_seq());
        session.value(WHAT, query).await
    }
}

/// The text of an `int8multirange` that holds exactly these ids, which are in ascending order.
pub(super) fn multirange(ids: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::from("{");
    let mut open: Option<(i64, i64)> = None;
    let mut close = |range: Option<(i64, i64)>| {
        if let Some((first, last)) = range {
            let comma = if text.len() > 1 { "," } else { "" };
            write!(text, "{comma}[{first},{}]", last).expect("writing to a string does not fail");
        }
    };
    for id in ids {
        open = match open {
            Some((first, last)) if id == last + 1 => Some((first, id)),
            Some((_, last)) if id == last => open,
            _ => {
                close(open);
                Some((id, id))
            }
        };
    }
    close(open);
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ids: &[i64], expected: &str) {
        assert_eq!(multirange(ids.iter().copied()), expected);
    }

    #[test]
    fn neighbouring_ids_become_one_range() {
        check(&[], "{}");
        check(&[7], "{[7,7]}");
        check(&[1, 2, 3, 5, 8, 9], "{[1,3],[5,5],[8,9]}");
        check(&[4, 4, 5], "{[4,5]}");
    }
}
