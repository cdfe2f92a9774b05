//! Requests about keys that do not move: try again now, send the first message to the dead letters, or let the others pass it.
//!
//! Owns which row a request is about: the head of the key when it began, kept in its `last_id`. What becomes of the row the sender
//! decides when the row is due (`send/due.rs`); it reads in [`Controls`](super::Controls) what was asked for. So a request goes on
//! after a takeover, and a row that goes by itself meanwhile ends it.

use crate::relay::Term;
use crate::store::request::{self, Kind, OfKey, Progress, Request};
use crate::store::{Session, StoreError};

/// What has become of a request: its state, the row that it is about, and why it is refused. `None`: it goes on.
pub(super) type Step = Option<(Progress, i64, Option<String>)>;

/// One step of a request of these kinds.
pub(super) async fn go_on(
    term: &Term,
    session: &mut Session,
    request: &Request,
    kind: Kind,
) -> Result<Step, StoreError> {
    let refused = |why: &str| Ok(Some((Progress::Refused, request.last_id, Some(why.to_owned()))));
    let of = OfKey::of(request);
    if kind == Kind::RetryNow {
        return match request::retry_now(session, term.epoch, &of, None).await? {
            0 => refused("nothing of it waits for its next try"),
            _ => Ok(Some((Progress::Done, 0, None))),
        };
    }
    if !request.is_running {
        return match request::head(session, &of).await? {
            None => refused("no message is in the way of that key"),
            Some(id) => Ok(Some((Progress::Running, id, None))),
        };
    }
    match request::head_is_passable(session, request.last_id).await? {
        None => Ok(Some((Progress::Done, request.last_id, None))),
        // It lets others pass, which stays so until it is gone.
        Some(true) if kind == Kind::Release => Ok(None),
        Some(_) => {
            request::retry_now(session, term.epoch, &of, Some(request.last_id)).await?;
            Ok(None)
        }
    }
}
