//! What reading costs: buffers and plan of the poll, prepared as the relay prepares it.
//!
//! Buffers and not milliseconds, because they are the same on every machine. A descent of one index of one slot costs
//! as many buffers as the tree is deep; a poll that finds nothing must cost no more than a few descents.

mod due;

use std::str::FromStr;

use outbox_relay::position::Position;
use outbox_relay::store::connect::SETTINGS;
use outbox_relay::store::lease;
use outbox_relay::store::poll::{From, PageLimits, Reader};
use outbox_relay::store::{Server, Session};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, raw_sql};
use uuid::Uuid;

use crate::support::{Quiet, ROWS_PER_SLOT};

/// The token, the sequence.
const FACTS: u64 = 2;
const LIMITS: PageLimits = PageLimits { rows: 5_000, bytes: 8 << 20, max_row_bytes: 1 << 20 };

/// A reader, and a second connection with the same settings and statements that says what they cost.
struct Polls {
    session: Session,
    reader: Reader,
    token: Uuid,
    position: Position,
    as_of: String,
    short: bool,
    explaining: PgConnection,
}

/// What one execution touched, and how.
struct Cost {
    buffers: u64,
    plan: Value,
}

impl Polls {
    /// Begins after everything that the database holds.
    async fn after_all(quiet: &Quiet) -> Self {
        let mut polls = Self::from_the_beginning(quiet).await;
        let mut admin = quiet.connect("postgres").await;
        let here = "select pg_current_snapshot()::text, (select max(id) from outbox.message)";
        (polls.position.snapshot, polls.position.high) =
            sqlx::query_as(here).fetch_one(&mut admin).await.expect("the slots are full");
        let as_of = sqlx::query_scalar("select pg_current_xact_id()::text").fetch_one(&mut admin).await;
        polls.as_of = as_of.expect("a superuser may have a transaction number");
        while polls.poll().await > 0 {}
        polls
    }

    /// Begins where the ledger says: before everything.
    async fn from_the_beginning(quiet: &Quiet) -> Self {
        let url = quiet.url_as("relay_login");
        let server = Server::new([url.as_str()]).expect("the URL is well formed");
        let mut session = server.connect("read").await.expect("the server answers");
        let resume = lease::read_position(&mut session).await.expect("the migration wrote a position");
        let token = Uuid::new_v4();
        quiet.execute("delete from outbox.incarnation").await;
        quiet.execute(&format!("insert into outbox.incarnation (token) values ('{token}')")).await;
        let options = PgConnectOptions::from_str(&url).expect("the URL is well formed").options(SETTINGS);
        let mut explaining = PgConnection::connect_with(&options).await.expect("the server answers");
        let poll = include_str!("../../src/store/sql/poll.sql");
        let late = include_str!("../../src/store/sql/poll_late.sql");
        let late_set = include_str!("../../src/store/sql/late_set.sql");
        let prepare = format!(
            "prepare poll (text, bigint, bigint, bigint, integer, uuid, boolean, text, text[], bigint) as {poll};
             prepare poll_late (text, bigint, bigint, text, bigint, bigint, bigint, integer, uuid, text[], text) as {late};
             prepare late_set (text, bigint, text, text, text[], text) as {late_set}"
        );
        raw_sql(&prepare).execute(&mut explaining).await.expect("the statements prepare");
        let (position, as_of) = (resume.position, resume.as_of);
        let mut polls =
            Self { session, reader: Reader::default(), token, position, as_of, short: false, explaining };
        // The first execution plans, and reads the catalog.
        let nowhere = Position { snapshot: "1:1:".to_owned(), high: i64::MAX, late: None };
        let here = std::mem::replace(&mut polls.position, nowhere);
        polls.cost().await;
        polls.position = here;
        polls
    }

    /// Reads a page as the relay does and goes on after it. Returns the number of rows.
    async fn poll(&mut self) -> usize {
        let (session, position) = (&mut self.session, &self.position);
        let from = From { position, as_of: &self.as_of, skip: &[], short: self.short, idle: false };
        let page = self.reader.poll(session, from, &LIMITS, self.token).await;
        let page = page.expect("the server answers");
        (self.position, self.as_of, self.short) = (page.next, page.as_of, !page.more);
        page.rows.len()
    }

    /// What the next poll costs; the reader stays where it is.
    async fn cost(&mut self) -> Cost {
        let Position { snapshot, high, .. } = &self.position;
        let PageLimits { rows, bytes, max_row_bytes } = LIMITS;
        let (token, short, as_of) = (self.token, self.short, &self.as_of);
        let call = format!(
            "poll('{snapshot}', {high}, {rows}, {bytes}, {max_row_bytes}, '{token}', {short}, '{as_of}', '{{}}', {})",
            20 * rows
        );
        self.explain(&call).await
    }

    async fn explain(&mut self, call: &str) -> Cost {
        explain(&mut self.explaining, call).await
    }

    /// Buffers of one descent of one index of each slot; the deeper one, if they differ.
    async fn descents(&mut self) -> u64 {
        let mut deepest = 0;
        for probe in ["id = -1", "txid = '1'"] {
            let explain = format!(
                "explain (analyze, buffers, format json) select topic from outbox.message where {probe}"
            );
            // Only the second one: the first one reads the meta pages too.
            raw_sql(&explain).execute(&mut self.explaining).await.expect("the probe is valid");
            let row = raw_sql(&explain).fetch_one(&mut self.explaining).await.expect("the probe is valid");
            let text: String = sqlx::Row::get_unchecked(&row, 0);
            let plan: Value = serde_json::from_str(&text).expect("explain writes JSON");
            deepest =
                deepest.max(plan[0]["Plan"]["Shared Hit Blocks"].as_u64().expect("explain counts buffers"));
        }
        deepest
    }
}

/// What a prepared statement costs.
async fn explain(connection: &mut PgConnection, call: &str) -> Cost {
    let explain = format!("explain (analyze, buffers, format json) execute {call}");
    let row = raw_sql(&explain).fetch_one(connection).await;
    let text: String = sqlx::Row::get_unchecked(&row.unwrap_or_else(|error| panic!("{call}: {error}")), 0);
    let mut plan: Value = serde_json::from_str(&text).expect("explain writes JSON");
    let plan = plan[0].take();
    let blocks = |kind: &str| plan["Plan"][kind].as_u64().expect("explain counts buffers");
    Cost { buffers: blocks("Shared Hit Blocks") + blocks("Shared Read Blocks"), plan }
}

impl Cost {
    #[track_caller]
    fn at_most(&self, buffers: u64) {
        eprintln!("{} buffers of {buffers}", self.buffers);
        assert!(self.buffers <= buffers, "{} buffers, {buffers} are allowed: {:#}", self.buffers, self.plan);
    }

    /// No node may be one that a plan of the relay must not have.
    #[track_caller]
    fn is_lean(&self) -> &Self {
        assert!(self.plan.get("JIT").is_none(), "compiled by JIT: {:#}", self.plan);
        let mut nodes = vec![&self.plan["Plan"]];
        while let Some(node) = nodes.pop() {
            let kind = node["Node Type"].as_str().expect("every node has a type");
            let table = node["Relation Name"].as_str().unwrap_or_default();
            let full = kind == "Seq Scan" && table.starts_with("message_") && table != "message_id_seq";
            assert!(!full, "reads all of {table}: {:#}", self.plan);
            assert!(!kind.starts_with("Gather"), "runs in parallel: {:#}", self.plan);
            assert!(node.get("Workers Planned").is_none(), "runs in parallel: {:#}", self.plan);
            let filter = node["Filter"].as_str().unwrap_or_default();
            let reads = filter.contains("::pg_snapshot") || filter.contains("::xid8");
            assert!(!reads, "reads a snapshot's text once per row: {filter}");
            nodes.extend(node["Plans"].as_array().into_iter().flatten());
        }
        self
    }

    /// No buffer was needed for planning: the plan was there.
    #[track_caller]
    fn is_planned(&self) -> &Self {
        let planning = self.plan["Planning"]["Shared Hit Blocks"].as_u64().unwrap_or(0);
        assert_eq!(planning, 0, "planned anew: {:#}", self.plan["Planning"]);
        self
    }
}

/// Transactions that have written, and stay open.
async fn open_writers(quiet: &Quiet, count: usize, write: &str) -> Vec<PgConnection> {
    let mut writers = Vec::new();
    for _ in 0..count {
        let mut writer = quiet.connect("app_login").await;
        raw_sql(&format!("begin; {write}")).execute(&mut writer).await.expect("the writer may write");
        writers.push(writer);
    }
    writers
}

/// Takes a transaction number and writes no outbox row.
const NO_ROW: &str = "select pg_current_xact_id()";
const TWO_ROWS: &str = "insert into outbox.message (topic, payload) values ('t', 'a'), ('t', 'b')";

#[tokio::test]
async fn a_poll_touches_two_buffers_while_a_hundred_writers_are_open_and_none_has_ended() {
    let quiet = Quiet::with_full_slots().await;
    let writers = open_writers(&quiet, 100, TWO_ROWS).await;
    let mut polls = Polls::after_all(&quiet).await;
    polls.cost().await.is_lean().is_planned().at_most(FACTS);
    drop(writers);
}

#[tokio::test]
async fn a_poll_after_the_end_of_one_transaction_descends_two_indexes_of_each_slot() {
    let quiet = Quiet::with_full_slots().await;
    let mut writers = open_writers(&quiet, 100, NO_ROW).await;
    let mut polls = Polls::after_all(&quiet).await;
    // Somebody has drawn an id and rolled it back: ids above the position may be on their way for ever.
    let allowed = 2 * polls.descents().await + FACTS;
    let mut unlucky = quiet.connect("app_login").await;
    raw_sql(&format!("begin; {TWO_ROWS}; rollback"))
        .execute(&mut unlucky)
        .await
        .expect("the writer may write");
    polls.poll().await;
    raw_sql("commit").execute(&mut writers[50]).await.expect("the transaction ends");
    polls.cost().await.is_lean().is_planned().at_most(allowed);
    // Rows of open transactions cost the pages on which they lie; Postgres has no other way to see that they are open.
    let _open = open_writers(&quiet, 100, TWO_ROWS).await;
    polls.poll().await;
    raw_sql("commit").execute(&mut writers[51]).await.expect("the transaction ends");
    polls.cost().await.at_most(allowed + 2 * 100 / 20);
}

#[tokio::test]
async fn a_poll_after_the_youngest_transaction_ended_without_a_row_descends_one_index_of_each_slot() {
    let quiet = Quiet::with_full_slots().await;
    let mut writers = open_writers(&quiet, 10, NO_ROW).await;
    let mut polls = Polls::after_all(&quiet).await;
    let allowed = polls.descents().await + FACTS;
    let mut youngest = open_writers(&quiet, 1, NO_ROW).await;
    raw_sql("commit").execute(&mut youngest[0]).await.expect("the transaction ends");
    polls.cost().await.is_lean().is_planned().at_most(allowed);
    raw_sql("commit").execute(&mut writers[0]).await.expect("the transaction ends");
}

#[tokio::test]
async fn ids_that_were_rolled_back_cost_an_idle_poll_nothing() {
    let quiet = Quiet::with_full_slots().await;
    let mut polls = Polls::after_all(&quiet).await;
    let once = polls.descents().await + FACTS;
    for _ in 0..2 {
        let mut unlucky = quiet.connect("app_login").await;
        raw_sql(&format!("begin; {TWO_ROWS}; rollback"))
            .execute(&mut unlucky)
            .await
            .expect("the writer may write");
    }
    // The first look visits the dead rows; they lie on one page, or on two.
    polls.cost().await.is_lean().at_most(once + 2);
    assert_eq!(polls.poll().await, 0);
    polls.cost().await.is_planned().at_most(FACTS);
    // The sequence stays ahead of the position for ever.
    for _ in 0..2 {
        quiet.execute(NO_ROW).await;
        polls.cost().await.at_most(once);
        assert_eq!(polls.poll().await, 0);
        polls.cost().await.at_most(FACTS);
    }
}

#[tokio::test]
async fn a_full_page_costs_a_fraction_of_a_buffer_per_row() {
    let quiet = Quiet::with_full_slots().await;
    let mut polls = Polls::after_all(&quiet).await;
    quiet.execute("insert into outbox.message (topic, payload) select 't', repeat('x', 240)::bytea from generate_series(1, 5000)").await;
    let allowed = polls.descents().await + FACTS + 5_000 / 20;
    polls.cost().await.is_lean().is_planned().at_most(allowed);
    assert_eq!(polls.poll().await, 5_000);
}

#[tokio::test]
async fn the_first_page_after_a_stall_costs_the_page_and_not_the_backlog() {
    let quiet = Quiet::with_full_slots().await;
    let mut polls = Polls::after_all(&quiet).await;
    let late = open_writers(&quiet, 1, TWO_ROWS).await;
    quiet.execute(TWO_ROWS).await;
    assert_eq!(polls.poll().await, 2);
    for _ in 0..10 {
        quiet
            .execute(
                "insert into outbox.message (topic, payload) select 't', 'x' from generate_series(1, 5000)",
            )
            .await;
    }
    let allowed = 3 * polls.descents().await + FACTS + 5_000 / 20;
    polls.cost().await.is_lean().is_planned().at_most(allowed);
    drop(late);
}

#[tokio::test]
async fn a_slot_that_filled_up_after_planning_is_read_by_its_indexes() {
    let quiet = Quiet::new().await;
    // Postgres takes an empty table for one of ten pages unless it has looked.
    quiet.execute("analyze").await;
    let mut polls = Polls::from_the_beginning(&quiet).await;
    polls.cost().await.is_lean();
    quiet.fill(2).await;
    quiet.fill(3).await;
    let descents = polls.descents().await;
    polls.cost().await.is_lean().is_planned().at_most(descents + FACTS + 5_000 / 20);
    while polls.poll().await > 0 {}
    quiet.execute(NO_ROW).await;
    polls.cost().await.is_lean().is_planned().at_most(descents + FACTS);
}

#[tokio::test]
async fn a_plan_made_with_stale_statistics_reads_full_slots_by_their_indexes() {
    let quiet = Quiet::with_full_slots().await;
    let mut polls = Polls::from_the_beginning(&quiet).await;
    let allowed = 2 * polls.descents().await + FACTS + 5_000 / 20;
    polls.cost().await.is_lean().is_planned().at_most(allowed);
    assert_eq!(polls.poll().await, 5_000);
    polls.cost().await.is_lean().is_planned().at_most(allowed);
}

#[tokio::test]
async fn a_page_of_a_large_late_set_costs_what_it_looks_at() {
    let quiet = Quiet::with_full_slots().await;
    let mut polls = Polls::after_all(&quiet).await;
    let high = polls.position.high;
    let descents = polls.descents().await;
    let PageLimits { rows, bytes, max_row_bytes } = LIMITS;
    let (token, now) = (polls.token, polls.position.snapshot.clone());
    // Nothing of what was visible at the beginning is late, all of it is between two late rows.
    for (known, returned) in [(now.as_str(), 0), ("3:3:", rows)] {
        let call = format!(
            "poll_late('{known}', 0, {high}, '{now}', {rows}, {bytes}, {}, {max_row_bytes}, '{token}', '{{}}', null)",
            20 * rows
        );
        polls.explain(&call).await;
        let cost = polls.explain(&call).await;
        let looked_at = if returned == 0 { 20 * rows } else { rows };
        cost.is_lean().is_planned().at_most(3 * descents + FACTS + looked_at as u64 / 50);
        // The facts, and the rows or the last id looked at. A whole number before Postgres 18, one with decimals since.
        assert_eq!(cost.plan["Plan"]["Actual Rows"].as_f64(), Some((1 + returned.max(1)) as f64));
    }
    assert!(20 * rows < 8 * ROWS_PER_SLOT, "the set is larger than a page looks at");
}

#[tokio::test]
async fn a_large_late_set_is_found_without_sorting_it() {
    let quiet = Quiet::new().await;
    quiet.fill(2).await;
    let mut polls = Polls::after_all(&quiet).await;
    let rows = 10_000;
    let write = "insert into outbox.message (topic, payload) select 't', repeat('x', 240)::bytea from generate_series(1, 50000)";
    let mut writers = open_writers(&quiet, 1, write).await;
    quiet.execute(TWO_ROWS).await;
    assert_eq!(polls.poll().await, 2);
    raw_sql("commit").execute(&mut writers[0]).await.expect("the writer commits");
    let Position { snapshot, high, .. } = polls.position.clone();
    let (token, as_of) = (polls.token, polls.as_of.clone());
    let poll = format!(
        "poll('{snapshot}', {high}, {rows}, 8388608, 1048576, '{token}', false, '{as_of}', '{{}}', {})",
        20 * rows
    );
    let set = format!("late_set('{snapshot}', {high}, pg_current_snapshot()::text, '{as_of}', '{{}}', null)");
    for (call, of_each_row) in [(poll, rows as u64 / 20), (set, 50_000 / 20)] {
        // The first execution plans.
        polls.explain(&call).await;
        let cost = polls.explain(&call).await;
        cost.is_lean().is_planned().at_most(3 * polls.descents().await + FACTS + of_each_row);
        assert_eq!(cost.plan["Plan"]["Temp Written Blocks"].as_u64(), Some(0), "{call}");
        assert_eq!(
            cost.plan["Plan"]["Actual Rows"].as_f64(),
            Some(1.0),
            "{call}: facts without rows, one topic"
        );
    }
}
