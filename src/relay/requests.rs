//! Requests: carries out what operators ask for, one page after another, and reports on it.
//!
//! Owns which requests are in effect and how far the others have come. It moves no row itself: dead letters enter the ordered
//! pipeline through the retry loop, and are given up by a settlement.
//!
//! A page is settled before it is reported. After a crash in between the next leader reads the page again and finds its letters
//! not open any more, so nothing is sent twice for that. Requests that change what is in effect never wait for long ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Beside, Decided, DeferredRows, Entrance, Entrant, Origin, Term, TermEnd};
use crate::crash_point;
use crate::metrics::{Operation, Outcome, RedeliveryCause};
use crate::policy::{Change, Glob, Policies};
use crate::store::dead_letter;
use crate::store::request::{self, Kind, Letter, Progress, Request};
use crate::store::{Session, StoreError};

/// How often is looked; a request is in effect within two of these.
const EVERY: Duration = Duration::from_millis(500);

/// Copies on their way at a time.
const COPIES: i64 = 100;

/// Dead letters of one page.
const PAGE: i64 = 500;

/// What operators have asked for and is in effect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Controls {
    /// Topics that stand still.
    pub paused: HashSet<Arc<str>>,
    /// Records a second for all topics together, where that is not the configured one.
    pub rate: Option<Option<u32>>,
    /// The policies, with what was asked for on top.
    pub policies: Policies,
}

impl Controls {
    /// What is in effect when all of these requests are: of two about the same the later one counts.
    pub fn of(requests: &[Request], configured: &Policies) -> Controls {
        let mut controls = Controls { policies: configured.clone(), ..Controls::default() };
        for request in requests.iter().filter(|request| !request.expired) {
            let topic = request.topic.as_deref();
            let rate = rate_of(request);
            match (request.kind, topic) {
                (Some(Kind::Pause), Some(topic)) => _ = controls.paused.insert(topic.into()),
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
    // When the next page of a request with a pace may go.
    let mut paced: HashMap<i64, Instant> = HashMap::new();
    // Copies of dead letters that are on their way.
    let mut copying = None;
    loop {
        crash_point::work("requests");
        let mut worked = false;
        let round = async {
            if session.is_none() {
                session = Some(term.server.connect("requests").await?);
            }
            let session = session.as_mut().expect("it was opened above");
            let open = request::open(session).await?;
            take_effect(&term, session, &open, &ends.controls).await?;
            paced.retain(|id, _| open.iter().any(|request| request.id == *id));
            let letters = open.iter().find(|request| {
                let is_letters = matches!(request.kind, Some(Kind::Requeue | Kind::Discard));
                is_letters && paced.get(&request.id).is_none_or(|at| *at <= Instant::now())
            });
            if copying.as_mut().is_none_or(|copying: &mut oneshot::Receiver<usize>| {
                !matches!(copying.try_recv(), Err(oneshot::error::TryRecvError::Empty))
            }) {
                copying = copy_letters(&term, session, &ends).await?;
            }
            if let Some(request) = letters {
                worked = work(&term, session, request, &ends, &mut paced).await?;
            }
            Ok::<(), StoreError>(())
        };
        if let Err(error) = round.await {
            session = None;
            term.metrics.database_error(Operation::Requests);
            super::settle::refuse_or_wait(error, "requests", &mut trouble, &term).await?;
            continue;
        }
        trouble = Duration::from_millis(100);
        let rest = if worked { Duration::ZERO } else { EVERY };
        tokio::select! {
            () = term.drain.cancelled() => return Ok(()),
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Requests that change what is in effect: begun, ended by time or by a later one, refused.
async fn take_effect(
    term: &Term,
    session: &mut Session,
    open: &[Request],
    controls: &watch::Sender<Controls>,
) -> Result<(), StoreError> {
    controls.send_if_modified(|known| {
        let now = Controls::of(open, &term.policies);
        let changed = *known != now;
        *known = now;
        changed
    });
    for (at, request) in open.iter().enumerate() {
        let later = &open[at + 1..];
        let (progress, error) = match request.kind {
            None => (Progress::Refused, Some("this relay does not know that kind of request".to_owned())),
            Some(_) if request.expired => (Progress::Expired, None),
            Some(Kind::Requeue | Kind::Discard) => continue,
            // A pause ends with it; from then on it has no effect.
            Some(Kind::Resume) => (Progress::Done, None),
            Some(kind) => match refused(request) {
                Some(error) => (Progress::Refused, Some(error)),
                None if later.iter().any(|later| supersedes(later, kind, request)) => (Progress::Done, None),
                None if request.is_running => continue,
                None => (Progress::Running, None),
            },
        };
        tracing::info!(request = request.id, kind = ?request.kind, topic = request.topic, ?progress, error, "request");
        request::report(session, term.epoch, request.id, progress, 0, 0, error.as_deref()).await?;
    }
    Ok(())
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

fn supersedes(later: &Request, kind: Kind, request: &Request) -> bool {
    let same = later.topic == request.topic;
    match kind {
        Kind::Pause => same && matches!(later.kind, Some(Kind::Pause | Kind::Resume)),
        // A request that changes one key of a policy leaves the others of an earlier one in effect.
        Kind::Policy => same && later.kind == Some(kind) && later.value == request.value,
        _ => same && later.kind == Some(kind),
    }
}

/// One page of dead letters. Returns whether there may be more at once.
async fn work(
    term: &Term,
    session: &mut Session,
    request: &Request,
    ends: &Ends,
    paced: &mut HashMap<i64, Instant>,
) -> Result<bool, StoreError> {
    let left = request.filter.get("max").and_then(Value::as_i64).map_or(i64::MAX, |max| max - request.done);
    let page = PAGE.min(request.pace.map_or(PAGE, i64::from)).min(left);
    // Copies that have no room would stop reading for all.
    let waiting = ends.deferred.borrow().waiting + page.max(0) as u64;
    if request.kind == Some(Kind::Requeue) && waiting > term.retry.deferred_max as u64 / 10 * 9 {
        return Ok(false);
    }
    let letters = match request::letters(session, &request.filter, request.last_id, page.max(0)).await {
        // The filter is not what Postgres can read: a time, a key.
        Err(StoreError::Failed { source, .. }) => {
            let error = source.to_string();
            request::report(session, term.epoch, request.id, Progress::Refused, 0, 0, Some(&error)).await?;
            return Ok(true);
        }
        letters => letters?,
    };
    let Some((last_id, ..)) = letters.last() else {
        request::report(session, term.epoch, request.id, Progress::Done, 0, 0, None).await?;
        tracing::info!(request = request.id, kind = ?request.kind, done = request.done, "request is done");
        return Ok(true);
    };
    let (last_id, rows) = (*last_id, letters.len() as i64);
    let settled = match request.kind {
        Some(Kind::Requeue) => requeue(&letters, ends).await,
        _ => discard(&letters, ends).await,
    };
    if !settled {
        // The lease ends; the next leader goes on.
        return Ok(false);
    }
    crash_point::reach(crash_point::AFTER_REQUEUE);
    for run in letters.chunk_by(|a, b| Arc::ptr_eq(&a.1, &b.1)) {
        let (topic, rows) = (term.metrics.topic(&run[0].1), run.len() as u64);
        match request.kind {
            Some(Kind::Requeue) => topic.redeliveries(RedeliveryCause::Requeue, rows),
            _ => topic.messages(Outcome::Discarded, rows),
        }
    }
    request::report(session, term.epoch, request.id, Progress::Running, rows, last_id, None).await?;
    if let Some(pace) = request.pace {
        let wait = Duration::from_secs_f64(rows as f64 / f64::from(pace));
        paced.insert(request.id, Instant::now() + wait);
    }
    Ok(request.pace.is_none())
}

/// Sends copies of dead letters to the topics that get them. What is on its way is not asked for again.
async fn copy_letters(
    term: &Term,
    session: &mut Session,
    ends: &Ends,
) -> Result<Option<oneshot::Receiver<usize>>, StoreError> {
    let max_row_bytes = i32::try_from(term.config.max_row_bytes).unwrap_or(i32::MAX);
    let rows = dead_letter::owed_copies(session, COPIES, max_row_bytes).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let (settled, is_settled) = oneshot::channel();
    let sent = ends.beside.send(Beside::Copies { rows, settled }).await;
    Ok(sent.is_ok().then_some(is_settled))
}

async fn requeue(letters: &[Letter], ends: &Ends) -> bool {
    let (settled, is_settled) = oneshot::channel();
    let entrant = |(id, topic, key): &Letter| Entrant { id: *id, topic: Arc::clone(topic), key: key.clone() };
    let rows = letters.iter().map(entrant).collect();
    let entrance = Entrance { rows, origin: Origin::Requeued, settled };
    ends.entrances.send(entrance).await.is_ok() && is_settled.await.is_ok()
}

async fn discard(letters: &[Letter], ends: &Ends) -> bool {
    let (settled, is_settled) = oneshot::channel();
    let mut decided = Decided { settled: Some(settled), ..Decided::default() };
    decided.outcome.rare.discarded = letters.iter().map(|(id, ..)| *id).collect();
    ends.decided.send(decided).await.is_ok() && is_settled.await.is_ok()
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
