//! Requests: carries out what operators ask for, one page after another, and reports on it.
//!
//! Owns which requests are in effect. It moves no row itself: dead letters, and published rows that are to go out again
//! ([`replay`]), enter the ordered pipeline through the retry loop, and letters are given up by a settlement ([`letters`]); copies of
//! them go beside it ([`copies`]).
//!
//! Requests that change what is in effect, and those that cancel others, never wait for long ones.

mod copies;
mod keys;
mod letters;
mod replay;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

use self::copies::Copies;
use self::letters::Letters;
use super::{Beside, Decided, DeferredRows, Entrance, Term, TermEnd};
use crate::crash_point;
use crate::metrics::Operation;
use crate::policy::{Change, Glob, Policies};
use crate::store::request::{self, Kind, Look, Progress, Request};
use crate::store::{Session, StoreError};

/// How often is looked; a request is in effect within two of these.
const EVERY: Duration = Duration::from_millis(500);

/// What operators have asked for and is in effect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Controls {
    /// Topics that stand still.
    pub paused: HashSet<Arc<str>>,
    /// Records a second for all topics together, where that is not the configured one.
    pub rate: Option<Option<u32>>,
    /// The policies, with what was asked for on top.
    pub policies: Policies,
    /// Deferred rows that operators want out of the way, by id.
    pub heads: HashMap<i64, Way>,
    /// Topics whose rows are to be tried at once, and by which request: something about them was repaired.
    pub repaired: HashSet<(i64, Arc<str>)>,
}

/// How a row gets out of the way of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It becomes a dead letter.
    Bury,
    /// Later rows pass it, and it is tried on.
    Pass,
}

impl Controls {
    /// What is in effect when all of these requests are: of two about the same the later one counts.
    pub fn of(requests: &[Request], configured: &Policies) -> Controls {
        let mut controls = Controls { policies: configured.clone(), ..Controls::default() };
        let ended: HashSet<i64> = requests.iter().filter_map(Request::cancels).collect();
        let counts = |request: &&Request| !request.expired && !ended.contains(&request.id);
        for request in requests.iter().filter(counts) {
            let topic = request.topic.as_deref();
            let rate = rate_of(request);
            match (request.kind, topic) {
                (Some(Kind::Pause), Some(topic)) => _ = controls.paused.insert(topic.into()),
                (Some(Kind::RetryNow), Some(topic)) => {
                    controls.repaired.insert((request.id, topic.into()));
                }
                (Some(Kind::SkipHead), _) if request.is_running => {
                    controls.heads.insert(request.last_id, Way::Bury);
                }
                (Some(Kind::Release), _) if request.is_running => {
                    controls.heads.insert(request.last_id, Way::Pass);
                }
                (Some(Kind::Resume), Some(topic)) => _ = controls.paused.remove(topic),
                (Some(Kind::Rate), None) => controls.rate = rate.ok().or(controls.rate),
                (Some(Kind::Rate), Some(topic)) => {
                    if let (Ok(glob), Ok(rate)) = (topic.parse::<Glob>(), rate) {
                        let change = Change { rate: Some(rate), ..Change::default() };
                        controls.policies = controls.policies.and(glob, change);
                    }
                }
                (Some(Kind::Policy), Some(topics)) => {
                    if let (Ok(glob), Ok(change)) =
                        (topics.parse::<Glob>(), Change::from_json(&request.value))
                    {
                        controls.policies = controls.policies.and(glob, change);
                    }
                }
                _ => {}
            }
        }
        controls
    }

    /// Records a second for all topics together: what was asked for, or else what is configured.
    pub fn rate(&self, configured: Option<u32>) -> Option<u32> {
        self.rate.unwrap_or(configured)
    }
}

/// Where the loop's decisions go.
pub(super) struct Ends {
    pub entrances: mpsc::Sender<Entrance>,
    pub beside: mpsc::Sender<Beside>,
    pub decided: mpsc::Sender<Decided>,
    pub controls: watch::Sender<Controls>,
    pub deferred: watch::Receiver<DeferredRows>,
}

/// Carries requests out until draining, or until the term is over.
pub(super) async fn requests(term: Term, ends: Ends) -> Result<(), TermEnd> {
    let mut session = None;
    let mut trouble = Duration::from_millis(100);
    let mut letters = Letters::default();
    let mut copies = Copies::default();
    loop {
        crash_point::work("requests");
        let round = async {
            if session.is_none() {
                session = Some(term.server.connect("requests").await?);
            }
            let session = session.as_mut().expect("it was opened above");
            let Look { mut open, copies: owed } = request::look(session).await?;
            take_effect(&term, session, &mut open, &ends.controls).await?;
            copies.go_on(&term, session, owed, &ends).await?;
            letters.go_on(&term, session, &open, &ends).await
        };
        if let Err(error) = round.await {
            session = None;
            term.metrics.database_error(Operation::Requests);
            super::settle::refuse_or_wait(error, "requests", &mut trouble, &term).await?;
            continue;
        }
        trouble = Duration::from_millis(100);
        let rest = letters.rest();
        tokio::select! {
            () = term.drain.cancelled() => return Ok(()),
            () = letters.page_ends(&term) => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Requests that change what is in effect: begun, ended by time or by a later one, refused. Those that are over leave `open`.
async fn take_effect(
    term: &Term,
    session: &mut Session,
    open: &mut Vec<Request>,
    controls: &watch::Sender<Controls>,
) -> Result<(), StoreError> {
    controls.send_if_modified(|known| {
        let now = Controls::of(open, &term.policies);
        let changed = *known != now;
        *known = now;
        changed
    });
    let cancels: Vec<(i64, i64)> =
        open.iter().filter_map(|request| Some((request.id, request.cancels()?))).collect();
    for (id, ended) in cancels {
        let found = request::cancel(session, term.epoch, id, ended).await?;
        tracing::info!(request = id, ended, found, "request is cancelled");
        open.retain(|request| request.id != id && request.id != ended);
    }
    let mut over = HashSet::new();
    let stands = !controls.borrow().paused.is_empty();
    for (at, request) in open.iter().enumerate() {
        let later = &open[at + 1..];
        let (progress, last_id, error) = match request.kind {
            None => refuse(request, "this relay does not know that kind of request"),
            // Its time is over and something still stands: it is overdue until that goes on, or somebody says that it may stand.
            Some(Kind::Maintenance) if request.expired && stands && !is_superseded(later, request) => {
                if request.is_running {
                    continue;
                }
                (Progress::Running, request.last_id, None)
            }
            Some(_) if request.expired => (Progress::Expired, request.last_id, None),
            Some(Kind::Requeue | Kind::Discard | Kind::Replay | Kind::Repair) => continue,
            // The others of its kind have been carried out above.
            Some(Kind::Cancel) => refuse(request, "it names no request"),
            Some(kind @ (Kind::RetryNow | Kind::SkipHead | Kind::Release)) => {
                match keys::go_on(term, session, request, kind).await? {
                    Some(step) => step,
                    None => continue,
                }
            }
            Some(Kind::Resign) => {
                term.resign.cancel();
                (Progress::Done, request.last_id, None)
            }
            // A pause ends with it; from then on it has no effect.
            Some(Kind::Resume) => (Progress::Done, request.last_id, None),
            Some(_) => match refused(request) {
                Some(error) => refuse(request, &error),
                None if is_superseded(later, request) => (Progress::Done, request.last_id, None),
                None if request.is_running => continue,
                None => (Progress::Running, request.last_id, None),
            },
        };
        tracing::info!(
            request = request.id,
            kind = request.kind_word(),
            topic = request.topic,
            progress = progress.as_str(),
            error,
            "request"
        );
        request::report(session, term.epoch, request.id, progress, last_id, error.as_deref()).await?;
        if progress != Progress::Running {
            over.insert(request.id);
        }
    }
    open.retain(|request| !over.contains(&request.id));
    Ok(())
}

fn refuse(request: &Request, why: &str) -> (Progress, i64, Option<String>) {
    (Progress::Refused, request.last_id, Some(why.to_owned()))
}

/// The rate that is asked for; `None` is no limit. What is no rate must not take a limit away.
fn rate_of(request: &Request) -> Result<Option<u32>, String> {
    let rate = request.value.get("rate").unwrap_or(&Value::Null);
    if rate.is_null() {
        return Ok(None);
    }
    let whole = rate.as_u64().and_then(|rate| u32::try_from(rate).ok()).filter(|rate| *rate > 0);
    whole
        .map(Some)
        .ok_or_else(|| format!("{rate} is no rate: a whole number of records a second, at least 1"))
}

fn refused(request: &Request) -> Option<String> {
    match request.kind {
        Some(Kind::Rate) => rate_of(request).err(),
        Some(Kind::Policy) => match request.topic.as_deref().unwrap_or_default().parse::<Glob>() {
            Err(error) => Some(format!("the topic {error}")),
            Ok(_) => Change::from_json(&request.value).err(),
        },
        _ => None,
    }
}

/// One of the later requests takes this one's place.
fn is_superseded(later: &[Request], request: &Request) -> bool {
    request.kind.is_some_and(|kind| later.iter().any(|later| supersedes(later, kind, request)))
}

fn supersedes(later: &Request, kind: Kind, request: &Request) -> bool {
    let same = later.topic == request.topic;
    match kind {
        Kind::Pause => same && matches!(later.kind, Some(Kind::Pause | Kind::Resume)),
        // A request that changes one key of a policy leaves the others of an earlier one in effect.
        Kind::Policy => same && later.kind == Some(kind) && later.value == request.value,
        _ => same && later.kind == Some(kind),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(id: i64, kind: Kind, topic: Option<&str>, value: Value) -> Request {
        Request {
            id,
            kind: Some(kind),
            topic: topic.map(str::to_owned),
            filter: json!({}),
            value,
            pace: None,
            is_running: false,
            done: 0,
            last_id: 0,
            asked_at: String::new(),
            expired: false,
        }
    }

    #[test]
    fn of_two_requests_about_the_same_the_later_one_counts() {
        let requests = [
            request(1, Kind::Pause, Some("orders"), Value::Null),
            request(2, Kind::Pause, Some("users"), Value::Null),
            request(3, Kind::Resume, Some("orders"), Value::Null),
            request(4, Kind::Rate, None, json!({"rate": 100})),
            request(5, Kind::Rate, Some("orders"), json!({"rate": 7})),
            request(6, Kind::Policy, Some("or*"), json!({"attempts": 99})),
            Request { expired: true, ..request(7, Kind::Pause, Some("late"), Value::Null) },
            request(8, Kind::Pause, Some("mistaken"), Value::Null),
            request(9, Kind::Cancel, None, json!({"request": 8})),
        ];
        let odd = |value| Controls::of(&[request(1, Kind::Rate, None, value)], &Policies::default()).rate;
        assert_eq!(odd(json!({"rate": null})), Some(None));
        assert_eq!((odd(json!({"rate": 1.5})), odd(json!({"rate": 4_294_967_297_u64}))), (None, None));
        let controls = Controls::of(&requests, &Policies::default());
        assert_eq!(controls.paused, HashSet::from([Arc::from("users")]));
        assert_eq!(controls.rate, Some(Some(100)));
        let policy = controls.policies.of("orders");
        assert_eq!((policy.rate, policy.attempts), (Some(7), 99));
        assert!(supersedes(&requests[2], Kind::Pause, &requests[0]));
        assert!(!supersedes(&requests[2], Kind::Pause, &requests[1]));
    }
}
