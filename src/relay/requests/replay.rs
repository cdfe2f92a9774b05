//! Requests to send published rows again: what is looked at before they begin, and which rows of a page may go.
//!
//! Owns the rules; the pages go the way of dead letters ([`letters`](super::letters)), because from here on both are the same:
//! rows that enter the ordered pipeline from somewhere else.

use std::sync::Arc;

use super::Ends;
use crate::policy::Delivery;
use crate::store::replay::{self, RowFilter, SLACK_SECONDS, Terms};
use crate::store::request::{Kind, Letter, LetterPage, Request};
use crate::store::{Session, StoreError};

/// Whether the request is one of these.
pub(super) fn is_replay(request: &Request) -> bool {
    matches!(request.kind, Some(Kind::Replay | Kind::Repair))
}

/// What a look before the first page comes to.
pub(super) enum Beginning {
    /// It begins behind this id.
    Behind(i64),
    /// It cannot be carried out, and why.
    Refused(String),
}

/// Looks at a request that has not begun: is what it asks for still there, and may it be sent again at all?
pub(super) async fn begin(
    session: &mut Session,
    request: &Request,
    ends: &Ends,
) -> Result<Beginning, StoreError> {
    let filter = RowFilter::of(request);
    let to = Terms::of(request).to;
    for topic in filter.topic.as_deref().into_iter().chain(to.as_deref()) {
        if is_sent_once(topic, ends) {
            let why = format!("topic {topic} is at_most_once: its rows are never sent again");
            return Ok(Beginning::Refused(why));
        }
    }
    let looked = async {
        if let Some(why) = replay::horizon(session, &filter).await?.refusal() {
            return Ok(Beginning::Refused(why));
        }
        let first = match &filter.written_from {
            Some(time) => replay::first_id_since(session, time, -SLACK_SECONDS).await?,
            None => 0,
        };
        Ok(Beginning::Behind(first.max(filter.from_id.unwrap_or(0)).saturating_sub(1)))
    };
    looked.await.or_else(|error: StoreError| match error.unreadable() {
        Some(text) => Ok(Beginning::Refused(text)),
        None => Err(error),
    })
}

/// Takes out what may not go, and gives the rest the topic that they go to. Returns the last id of the page as it was.
pub(super) fn address(page: &mut LetterPage, request: &Request, ends: &Ends) -> Option<i64> {
    let last_id = page.letters.last().map(|(id, ..)| *id);
    page.letters.retain(|(_, topic, _)| !is_sent_once(topic, ends));
    if let Some(to) = Terms::of(request).to {
        let elsewhere = |(_, topic, _): &mut Letter| *topic = Arc::clone(&to);
        page.letters.iter_mut().for_each(elsewhere);
    }
    last_id
}

fn is_sent_once(topic: &str, ends: &Ends) -> bool {
    ends.controls.borrow().policies.of(topic).delivery == Delivery::AtMostOnce
}
