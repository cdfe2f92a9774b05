//! The readers under test: the relay's, and three that are wrong in ways that look right.
//!
//! All read pages, keep what they have delivered, settle it now and then, and start again from what they have settled.
//! A start forgets what was delivered after the last settlement: the process was killed before it was sent.

use std::collections::VecDeque;

use outbox_relay::position::Position;
use outbox_relay::receipt::Receipt;
use outbox_relay::store::lease;
use outbox_relay::store::poll::{From, PageLimits, Reader};
use outbox_relay::store::settle::{Outcome, Settlement};
use outbox_relay::store::{Server, Session, StoreError};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::verdict::Row;

/// What every reader can do.
pub trait Reading {
    /// Reads a page. True when it was empty and nothing is left to do.
    async fn page(&mut self) -> bool;
    /// Settles up to so many of the oldest pages that are not settled.
    async fn settle(&mut self, pages: usize);
    /// A new process takes over from the last settlement.
    async fn start_again(&mut self, limits: PageLimits);
    /// Everything delivered so far, in order.
    fn delivered(&self) -> &[Row];
}

/// The relay's reader with the relay's ledger: takes over, settles and resumes as a leader does.
pub struct Relay {
    session: Session,
    settling: Session,
    reader: Reader,
    pub limits: PageLimits,
    pub epoch: i64,
    seq: i64,
    token: Uuid,
    pub position: Position,
    as_of: String,
    short: bool,
    idle: bool,
    unsettled: VecDeque<(Position, Vec<i64>)>,
    settled: usize,
    delivered: Vec<Row>,
    /// Payloads that stayed in the database because of their size.
    pub left_behind: Vec<i32>,
    /// Rows of the newest page.
    pub last_page: usize,
}

impl Relay {
    pub async fn start(server: &Server, limits: PageLimits) -> Self {
        let mut session = server.connect("read").await.expect("the server answers");
        let settling = server.connect("settle").await.expect("the server answers");
        let resume = lease::read_position(&mut session).await.expect("the migration wrote a position");
        let mut relay = Self {
            session,
            settling,
            reader: Reader::default(),
            limits,
            epoch: 0,
            seq: 0,
            token: Uuid::nil(),
            position: resume.position,
            as_of: resume.as_of,
            short: false,
            idle: false,
            unsettled: VecDeque::new(),
            settled: 0,
            delivered: Vec::new(),
            left_behind: Vec::new(),
            last_page: 0,
        };
        relay.start_again(limits).await;
        relay
    }

    /// As [`Reading::page`], and says why when it fails.
    pub async fn try_page(&mut self) -> Result<bool, StoreError> {
        let (session, position) = (&mut self.session, &self.position);
        let from = From { position, as_of: &self.as_of, skip: &[], short: self.short, idle: self.idle };
        let page = self.reader.poll(session, from, &self.limits, self.token).await?;
        (self.position, self.as_of, self.short) = (page.next, page.as_of, !page.more);
        self.last_page = page.rows.len();
        self.idle = self.last_page == 0;
        if self.last_page > 0 {
            let ids = page.rows.iter().map(|row| row.id).collect();
            self.unsettled.push_back((self.position.clone(), ids));
        }
        for row in page.rows {
            match row.payload {
                Some(payload) => self.delivered.push(Row::new(row.id, row.key, &payload)),
                None => self.left_behind.extend(row.payload_bytes),
            }
        }
        Ok(self.last_page == 0 && self.short)
    }
}

impl Reading for Relay {
    async fn page(&mut self) -> bool {
        self.try_page().await.expect("the server answers")
    }

    async fn settle(&mut self, pages: usize) {
        let mut outcome = Outcome::default();
        let mut position = None;
        for (after, ids) in self.unsettled.drain(..pages.min(self.unsettled.len())) {
            let nowhere = Receipt { partition: 0, offset: None };
            self.settled += ids.len();
            outcome.published.extend(ids.into_iter().map(|id| (id, nowhere)));
            position = Some(after);
        }
        let Some(position) = position else { return };
        self.seq += 1;
        let settlement = Settlement::new(self.epoch, self.seq, self.token, false, position, true, outcome);
        settlement.write(&mut self.settling).await.expect("the lease is ours");
    }

    async fn start_again(&mut self, limits: PageLimits) {
        let session = &mut self.settling;
        let seen = lease::read_lease(session).await.expect("the server answers");
        let identity = lease::read_identity(session).await.expect("the server answers");
        let (holder, token) = (Uuid::new_v4(), Uuid::new_v4());
        let epoch = lease::take_over(session, &seen, holder, "a test", token, &identity, "a cluster").await;
        let resume = lease::read_position(session).await.expect("the server answers");
        self.epoch = epoch.expect("the server answers").expect("nobody else takes over");
        (self.seq, self.token, self.limits) = (0, token, limits);
        (self.position, self.as_of, self.short) = (resume.position, resume.as_of, false);
        self.unsettled.clear();
        self.delivered.truncate(self.settled);
    }

    fn delivered(&self) -> &[Row] {
        &self.delivered
    }
}

/// Readers that lose or invert rows.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// `id > last`: ids are not drawn in the order of commits.
    IdAboveLast,
    /// `(txid, id)` below the oldest open transaction, in this order: whoever got its number early comes too early.
    TxidBelowXmin,
    /// The relay's idea, looking for late rows only among the transactions that the snapshot lists as open.
    ListOfOpenOnly,
}

impl Fault {
    /// Parameters: snapshot, txid and id of the last look, page size. Columns: snapshot now, txid, id, key, payload;
    /// a row without id says that there is nothing.
    fn statement(self) -> &'static str {
        match self {
            Fault::IdAboveLast => {
                "select $1, $2, id, key, payload from outbox.message where id > $3 order by id limit $4"
            }
            Fault::TxidBelowXmin => {
                "select $1, txid::text, id, key, payload from outbox.message
                  where txid < pg_snapshot_xmin(pg_current_snapshot()) and (txid, id) > ($2::xid8, $3)
                  order by txid, id limit $4"
            }
            Fault::ListOfOpenOnly => {
                "select pg_current_snapshot()::text, $2, m.id, m.key, m.payload
                   from (select) as once left join (
                        (select * from outbox.message
                          where id <= $3 and txid in (select pg_snapshot_xip($1::pg_snapshot)) order by id)
                        union all
                        (select * from outbox.message where id > $3 order by id limit $4)) as m on true"
            }
        }
    }
}

/// A reader with a [`Fault`]. Its position lives in memory and outlives its starts.
pub struct Broken {
    connection: PgConnection,
    fault: Fault,
    limits: PageLimits,
    here: (String, String, i64),
    unsettled: VecDeque<((String, String, i64), usize)>,
    settled: ((String, String, i64), usize),
    delivered: Vec<Row>,
}

impl Broken {
    pub async fn start(url: &str, fault: Fault, limits: PageLimits) -> Self {
        let connection = PgConnection::connect(url).await.expect("the server answers");
        let start = ("1:1:".to_owned(), "0".to_owned(), 0);
        let settled = (start.clone(), 0);
        let (unsettled, delivered) = (VecDeque::new(), Vec::new());
        Self { connection, fault, limits, here: start, unsettled, settled, delivered }
    }
}

type Found = (String, String, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);

impl Reading for Broken {
    async fn page(&mut self) -> bool {
        let (snapshot, txid, id) = &self.here;
        let found = sqlx::query_as::<_, Found>(self.fault.statement()).bind(snapshot).bind(txid).bind(id);
        let found = found.bind(self.limits.rows).fetch_all(&mut self.connection).await;
        let before = self.delivered.len();
        for (snapshot, txid, id, key, payload) in found.expect("the server answers") {
            (self.here.0, self.here.1) = (snapshot, txid);
            if let Some(id) = id {
                self.here.2 =
                    if matches!(self.fault, Fault::TxidBelowXmin) { id } else { id.max(self.here.2) };
                let key = key.map(Vec::into_boxed_slice);
                self.delivered.push(Row::new(id, key, &payload.expect("writers write numbers")));
            }
        }
        self.unsettled.push_back((self.here.clone(), self.delivered.len()));
        self.delivered.len() == before
    }

    async fn settle(&mut self, pages: usize) {
        let last = self.unsettled.drain(..pages.min(self.unsettled.len())).next_back();
        self.settled = last.unwrap_or_else(|| self.settled.clone());
    }

    async fn start_again(&mut self, limits: PageLimits) {
        self.limits = limits;
        self.here = self.settled.0.clone();
        self.unsettled.clear();
        self.delivered.truncate(self.settled.1);
    }

    fn delivered(&self) -> &[Row] {
        &self.delivered
    }
}
