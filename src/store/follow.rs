//! Following the ledger: what was published, settlement by settlement, for whoever watches.
//!
//! Owns the statements behind `tap` and the rates of `top`, and the text form of an `int8multirange`. Nothing here changes anything or blocks a
//! relay; each statement costs the same however long the ledger is.

use serde::Deserialize;
use sqlx::Row;

use super::inspect::{document, documents};
use super::{Session, StoreError};
use crate::receipt::{Receipt, decode};

/// A place in the ledger: everything up to it has been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.ledger")]
pub struct Place {
    pub epoch: i64,
    pub seq: i64,
}

/// One settlement, as far as it published something.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Where it stands in the ledger.
    pub place: Place,
    /// When, as text in RFC 3339, and in Unix seconds of the database's clock.
    pub at: String,
    /// The same in Unix seconds.
    pub at_seconds: f64,
    /// How long ago that was.
    pub age_seconds: f64,
    /// Ids of what it published, ascending, with their receipts. A receipt is missing where its bytes are of another format.
    pub published: Vec<(i64, Option<Receipt>)>,
}

/// What a watcher may know of a message.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of outbox.message")]
pub struct Seen {
    pub id: i64,
    pub event_id: String,
    pub topic: String,
    pub created_at: String,
    /// The same in Unix seconds.
    pub created_seconds: f64,
    /// None: it has no key.
    pub key_bytes: Option<i64>,
    /// The first half of its SHA-256, if that was asked for.
    pub key_hash: Option<String>,
    /// The key itself, if that was asked for.
    pub key: Option<String>,
}

/// What of a key is wanted, and which key alone.
#[derive(Debug, Clone, Default)]
pub struct KeyWish {
    /// A hash of it.
    pub hash: bool,
    /// The key itself.
    pub plain: bool,
    /// Only this one, which is text.
    pub only: Option<String>,
    /// Only this one, in base64.
    pub only_base64: Option<String>,
}

/// What was done between two looks.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "each is a count of what it says")]
pub struct Flow {
    /// The end of the ledger, and the time, of this look.
    #[serde(flatten)]
    pub place: Place,
    pub at: String,
    /// The same in Unix seconds.
    pub at_seconds: f64,
    /// Messages, each as often as it was published.
    pub published: i64,
    pub dead: i64,
    /// Attempts.
    pub failed: i64,
}

/// What was done since the last look; nothing is the first one.
pub async fn flow(session: &mut Session, since: Option<&Flow>) -> Result<Flow, StoreError> {
    let place = match since {
        Some(flow) => flow.place,
        None => newest(session).await?,
    };
    let call = session.call(include_str!("sql/top_flow.sql")).bind(place.epoch).bind(place.seq);
    let call = call.bind(since.map(|flow| flow.at.clone()));
    document(session, "count what was done", call).await
}

/// The end of the ledger.
pub async fn newest(session: &mut Session) -> Result<Place, StoreError> {
    const WHAT: &str = "find the end of the ledger";
    let row = session.one(WHAT, session.call(include_str!("sql/tap_newest.sql"))).await?;
    let read = || Ok(Place { epoch: row.try_get("epoch")?, seq: row.try_get("seq")? });
    read().map_err(|error| StoreError::from_sqlx(WHAT, error))
}

/// The settlements behind `after`, in order, at most `limit`.
pub async fn settlements(
    session: &mut Session,
    after: Place,
    limit: i64,
) -> Result<Vec<Settlement>, StoreError> {
    #[derive(Deserialize)]
    struct Document {
        epoch: i64,
        seq: i64,
        at: String,
        at_seconds: f64,
        age_seconds: f64,
        published: String,
        receipts: Option<String>,
    }
    let call = session.call(include_str!("sql/tap_page.sql"));
    let call = call.bind(after.epoch).bind(after.seq).bind(limit);
    let found: Vec<Document> = documents(session, "follow the ledger", call).await?;
    let settlement = |document: Document| {
        let receipts = document.receipts.as_deref().and_then(from_hex).and_then(|bytes| decode(&bytes));
        let receipts = receipts.unwrap_or_default();
        let published = ids(&document.published).enumerate();
        Settlement {
            place: Place { epoch: document.epoch, seq: document.seq },
            at: document.at,
            at_seconds: document.at_seconds,
            age_seconds: document.age_seconds,
            published: published.map(|(at, id)| (id, receipts.get(at).copied())).collect(),
        }
    };
    Ok(found.into_iter().map(settlement).collect())
}

/// How many messages the settlements behind `after` up to `until` published.
pub async fn passed(session: &mut Session, after: Place, until: Place) -> Result<i64, StoreError> {
    let call = session.call(include_str!("sql/tap_passed.sql"));
    let call = call.bind(after.epoch).bind(after.seq).bind(until.epoch).bind(until.seq);
    session.value("count what was published", call).await
}

/// What these messages are, in order of id; those that are gone, or of another key, are left out.
pub async fn rows(session: &mut Session, ids: &[i64], key: &KeyWish) -> Result<Vec<Seen>, StoreError> {
    let call = session.call(include_str!("sql/tap_rows.sql")).bind(ids.to_vec());
    let call = call.bind(key.hash).bind(key.plain).bind(key.only.clone()).bind(key.only_base64.clone());
    documents(session, "look at published messages", call).await
}

/// Whether this login may read payloads.
pub async fn may_reveal(session: &mut Session) -> Result<bool, StoreError> {
    session.value("ask for the right to payloads", session.call(include_str!("sql/may_reveal.sql"))).await
}

/// The ids of an `int8multirange` from its text, `{[1,4),[9,10)}`, ascending. The relay writes no open end.
fn ids(text: &str) -> impl Iterator<Item = i64> {
    let runs = text.trim_matches(['{', '}']).split_terminator("),");
    runs.filter_map(|run| {
        let (first, behind) = run.trim_matches(['[', ')']).split_once(',')?;
        Some(first.parse::<i64>().ok()?..behind.parse::<i64>().ok()?)
    })
    .flatten()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    Some(digits?.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_out_of_their_ranges() {
        let check =
            |text: &str, expected: &[i64]| assert_eq!(ids(text).collect::<Vec<_>>(), expected, "{text}");
        check("{}", &[]);
        check("{[1,2)}", &[1]);
        check("{[1,4),[9,10),[12,14)}", &[1, 2, 3, 9, 12, 13]);
    }

    #[test]
    fn hex_is_bytes() {
        assert_eq!(from_hex("01ff0a").as_deref(), Some(&[1, 255, 10][..]));
        assert_eq!(from_hex("0g"), None);
    }
}
