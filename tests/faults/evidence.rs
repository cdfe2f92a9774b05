//! Gathers what the checker judges: what was committed, what the topics hold, what the tables say.
//!
//! It draws no conclusions. Reads past every proxy, after everything is healed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::checker::{
    Bounds, Delivery, Expectation, History, Metrics, Micros, Record, Removed, Row, State, Takeover,
};
use crate::scenarios::Server;
use crate::scene::{Scene, WINDOW};
use crate::support;
use crate::writers::{Tried, digest_of};

const READ: Duration = Duration::from_secs(60);

/// Reads everything.
pub async fn gather(
    scene: &Scene<'_>,
    mut tried: HashMap<Uuid, Tried>,
    expectation: &Expectation,
) -> History {
    let delivery =
        |topic: &str| if topic == scene.once { Delivery::AtMostOnce } else { Delivery::AtLeastOnce };
    let names: HashMap<String, Arc<str>> =
        scene.topics().into_iter().map(|(topic, _)| (topic.clone(), topic.into())).collect();
    let began_us = began_us(scene);
    let mut rows = Vec::new();
    let truth = "select event, id, topic, key, version, digest, (extract(epoch from at) * 1000000)::bigint from public.truth";
    for row in sqlx::query(truth).fetch_all(&scene.admin).await.expect("read the truth") {
        let (event, topic): (Uuid, String) = (row.get(0), row.get(2));
        tried.remove(&event);
        rows.push(Row {
            id: row.get(1),
            event,
            delivery: delivery(&topic),
            topic: Arc::clone(&names[&topic]),
            key: Some(row.get::<String, _>(3).into_bytes()),
            version: row.get(4),
            digest: row.get::<i64, _>(5) as u64,
            committed: true,
            at: on_our_clock(scene, row.get::<i64, _>(6) - began_us),
            lost_by_server: false,
        });
    }
    let lost = scene.lost_truth().await;
    rows.extend(tried.into_iter().map(|(event, tried)| Row {
        id: lost.get(&event).copied().unwrap_or(0),
        event,
        delivery: delivery(&tried.topic),
        topic: Arc::clone(&names[&tried.topic]),
        key: Some(tried.key.into_bytes()),
        version: 0,
        digest: tried.digest,
        committed: lost.contains_key(&event),
        at: 0,
        lost_by_server: lost.contains_key(&event),
    }));

    // Nothing moves any more, so all of it can be looked at at once.
    let topics = scene.topics();
    let reading = futures_util::future::join_all(topics.iter().map(|(topic, _)| read(scene, topic)));
    let table = async { (table(scene).await, scene.now()) };
    let (records, (table, table_at), metrics) = tokio::join!(reading, table, metrics(scene));
    History {
        rows,
        records: records.concat(),
        removed: removed(&scene.removed),
        seen: scene.removed.clone(),
        replacements: scene.replacements(),
        faults: scene.faults.clone(),
        takeovers: takeovers(scene, began_us).await,
        table,
        table_at,
        metrics,
        requeued: requeued(scene).await,
        bounds: Bounds { window_rows: WINDOW, pending_after: 60_000_000, slack: 6_000_000 },
        expectation: *expectation,
        ..History::default()
    }
}

/// Everything in a topic.
pub async fn read(scene: &Scene<'_>, topic: &str) -> Vec<Record> {
    let found = scene.cluster.kafka.read(topic, None, READ).await;
    let (topic, began_us) = (Arc::from(topic), began_us(scene));
    found.iter().map(|record| seen(record, &topic, began_us)).collect()
}

fn began_us(scene: &Scene<'_>) -> i64 {
    scene.began_at.duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as i64
}

fn seen(record: &support::Record, topic: &Arc<str>, began_us: i64) -> Record {
    Record {
        topic: Arc::clone(topic),
        partition: record.partition,
        offset: record.offset,
        key: record.key.clone(),
        event: record.header("event-id").and_then(|text| text.parse().ok()),
        seq: record.header("outbox-seq").and_then(|text| text.parse().ok()),
        epoch: record.epoch(),
        digest: digest_of(record),
        at: record.timestamp.unwrap_or(0) * 1000 - began_us,
    }
}

/// Of a topic that was deleted the offsets begin anew, so events tell what went.
fn removed(records: &[Record]) -> Vec<Removed> {
    let mut events: HashMap<Arc<str>, HashSet<Uuid>> = HashMap::new();
    for record in records {
        events.entry(Arc::clone(&record.topic)).or_default().extend(record.event);
    }
    events.into_iter().map(|(topic, events)| Removed::Events { topic, events }).collect()
}

async fn takeovers(scene: &Scene<'_>, began_us: i64) -> Vec<Takeover> {
    let sql = "select epoch, (extract(epoch from min(at)) * 1000000)::bigint from outbox.ledger where epoch > 0 group by epoch order by epoch";
    let rows = sqlx::query(sql).fetch_all(&scene.admin).await.expect("read the takeovers");
    let at = |row: &PgRow| on_our_clock(scene, row.get::<i64, _>(1) - began_us);
    rows.iter().map(|row| Takeover { epoch: row.get(0), at: at(row) }).collect()
}

/// A time of the database, whose clock may have been off by an hour then: no scenario that does that takes half as long.
fn on_our_clock(scene: &Scene<'_>, at: Micros) -> Micros {
    const HALF: Micros = 1_800_000_000;
    let off = scene.scenario.shifts * 1_000_000;
    let was_off =
        scene.scenario.server == Server::Peculiar && off != 0 && if off > 0 { at > HALF } else { at < -HALF };
    if was_off { at - off } else { at }
}

/// Between the last settlement of an epoch and the first of the next.
pub async fn longest_takeover(scene: &Scene<'_>) -> Option<Duration> {
    if scene.scenario.shifts != 0 {
        // Its times are those of a clock that has jumped.
        return None;
    }
    let sql = "select max(extract(epoch from next - last))::float8
                 from (select max(at) as last, lead(min(at)) over (order by epoch) as next from outbox.ledger where epoch > 0 group by epoch) e";
    let seconds: Option<f64> =
        sqlx::query_scalar(sql).fetch_one(&scene.admin).await.expect("read the ledger");
    seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
}

/// Rows that their topic's position has passed.
const PASSED: &str = "
    with positions as (
        (select null::text as topic, l.snapshot, l.high from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1)
        union all
        select o.topic, o.snapshot, o.high from outbox.open_lane o
    )
    select m.id
      from outbox.message m
           cross join lateral (select x.snapshot, x.high from positions x
                                where x.topic = m.topic or x.topic is null order by x.topic nulls last limit 1) p
     where m.id <= p.high and pg_visible_in_snapshot(m.txid, p.snapshot)";

/// No row is going to be read or tried any more, accounted for or not.
pub async fn is_through(scene: &Scene<'_>) -> bool {
    let sql = format!(
        "select not exists (select from outbox.deferred) and not exists (select id from outbox.message except ({PASSED}))"
    );
    sqlx::query_scalar(&sql).fetch_one(&scene.admin).await.unwrap_or(false)
}

/// As `outbox.status` says it, for all rows at once and in one snapshot: that view looks each of them up. Beyond it, rows that
/// their topic's position has passed are told from those that it has not.
async fn table(scene: &Scene<'_>) -> HashMap<i64, State> {
    let mut look = scene.admin.begin().await.expect("begin");
    let snapshot = "set transaction isolation level repeatable read read only";
    sqlx::raw_sql(snapshot).execute(&mut *look).await.expect("one snapshot for all");
    let mut table = HashMap::new();
    let outcome = |column: &str| {
        format!("select generate_series(lower(r), upper(r) - 1) from outbox.ledger l, unnest(l.{column}) r")
    };
    let known = [
        ("select id from outbox.message".to_owned(), State::Pending),
        (PASSED.to_owned(), State::PassedBy),
        (outcome("expired"), State::Expired),
        (outcome("dropped"), State::Dropped),
    ];
    for (sql, state) in known {
        let ids: Vec<i64> = sqlx::query_scalar(&sql).fetch_all(&mut *look).await.expect("read ids");
        table.extend(ids.into_iter().map(|id| (id, state)));
    }
    let published = "
        select s.id, r.record_partition, r.record_offset
          from outbox.ledger l, unnest(l.published) p, generate_series(lower(p), upper(p) - 1) s (id),
               outbox.receipt(l.receipts, l.published, s.id) r
         order by l.epoch, l.seq";
    let rows = sqlx::query(published).fetch_all(&mut *look).await.expect("read the receipts");
    let state = |row: &PgRow| State::Published {
        partition: row.get::<Option<i32>, _>(1).unwrap_or(-1),
        offset: row.get(2),
    };
    // A later settlement names the copy that a crash or an operator has caused.
    table.extend(rows.iter().map(|row| (row.get(0), state(row))));
    let left = [
        ("select id from outbox.dead_letter where state in ('open', 'discarded')", State::Dead),
        ("select id from outbox.deferred", State::Deferred),
    ];
    for (sql, state) in left {
        let ids: Vec<i64> = sqlx::query_scalar(sql).fetch_all(&mut *look).await.expect("read ids");
        table.extend(ids.into_iter().map(|id| (id, state)));
    }
    table
}

/// Dead letters that were sent again.
async fn requeued(scene: &Scene<'_>) -> HashSet<Uuid> {
    if !scene.scenario.requeues {
        return HashSet::new();
    }
    let sql = "select event_id from outbox.dead_letter where replay_count > 0";
    let events: Vec<Uuid> = sqlx::query_scalar(sql).fetch_all(&scene.admin).await.expect("read the letters");
    assert!(!events.is_empty(), "letters were to be sent again, and none was");
    events.into_iter().collect()
}

/// Rows on which an attempt was spent, and dead letters.
pub async fn charged(scene: &Scene<'_>) -> i64 {
    let sql =
        "select (select count(distinct id) from outbox.attempt) + (select count(*) from outbox.dead_letter)";
    sqlx::query_scalar(sql).fetch_one(&scene.admin).await.expect("read the attempts")
}

/// At-most-once rows of which it is not known yet what became of them.
pub async fn unconfirmed(scene: &Scene<'_>) -> i64 {
    let sql = "select count(*) from public.truth t where t.topic = $1
                 and not exists (select from outbox.ledger l where l.published @> t.id)";
    sqlx::query_scalar(sql).bind(&scene.once).fetch_one(&scene.admin).await.unwrap_or(0)
}

/// The metrics of all relays, summed up. Backlogs are sampled every few seconds, and twenty seconds after a sample that took long: what
/// is not zero is asked again until then.
async fn metrics(scene: &Scene<'_>) -> Metrics {
    const SAMPLED: Duration = Duration::from_secs(30);
    let deadline = Instant::now() + SAMPLED;
    loop {
        let metrics = scrape(scene).await;
        let backlog = metrics.values.iter().filter(|((name, _), _)| name == "outbox_backlog_messages");
        if backlog.map(|(_, value)| value).sum::<f64>() == 0.0 || Instant::now() >= deadline {
            return metrics;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn scrape(scene: &Scene<'_>) -> Metrics {
    let mut metrics = Metrics { complete: !scene.counters_lost, ..Metrics::default() };
    for relay in &scene.relays {
        if relay.exited().is_some() {
            continue;
        }
        let Some((200, text)) = relay.get("/metrics").await else { continue };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
            let labels: Vec<(&str, &str)> =
                labels.map(|(label, value)| (label, value.trim_matches('"'))).collect();
            metrics.add(name, &labels, value);
        }
    }
    metrics
}
