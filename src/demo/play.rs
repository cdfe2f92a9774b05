//! The play itself: orders are written, the leading relay is killed half-way, the other takes over, everything arrives.
//!
//! One loop looks at everything ten times a second, so that what happens when is in one place. It returns what the
//! consumer read and what the relays did; what that is worth is the audit's business.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::audit::Seen;
use super::ground::{Ground, Places};
use super::interrupt::Interrupt;
use super::reader::Reader;
use super::relays::{LEASE_TTL, Leader, NAMES, Relays};
use super::shop::{CONNECTIONS, CUSTOMERS, Shop};
use super::tally::{Figures, Tally};
use super::view::{Picture, View, say};
use crate::cli::DemoOptions;

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long the first relay may take until it leads, on a busy machine.
const LEADER_DEADLINE: Duration = Duration::from_secs(30);
/// For so long the last orders may make no progress, several times what a takeover takes. Then the audit has the word.
const STANDSTILL: Duration = Duration::from_secs(20);

/// What there is to judge after the play.
#[derive(Debug)]
pub struct Played {
    /// Every record of the topic.
    pub seen: Vec<Seen>,
    /// The live numbers at the end.
    pub figures: Figures,
    /// From the kill to the next leader. None: nobody was killed, or nobody took over.
    pub takeover: Option<Duration>,
    /// A leader was killed.
    pub killed: bool,
    /// How many leases were won in all.
    pub leases_won: usize,
}

/// Who is on stage.
struct Play {
    relays: Arc<Relays>,
    shop: Shop,
    reader: Reader,
    tally: Arc<Tally>,
    view: View,
    interrupt: Interrupt,
    began: Instant,
    kill: Kill,
}

/// Where the kill stands.
#[derive(Debug, Clone, Copy)]
enum Kill {
    ToCome,
    Done { epoch: i64, at: Instant },
    TakenOver(Duration),
}

/// Plays it from the first relay to the last record.
pub async fn play(places: Places, options: DemoOptions, interrupt: Interrupt) -> anyhow::Result<Played> {
    let relays = Arc::new(Relays::start(&places.relay_url, &places.brokers)?);
    let played = tokio::select! {
        played = Box::pin(act(Arc::clone(&relays), places, options, interrupt.clone())) => played,
        () = interrupt.left() => bail!("told to leave, so nothing was audited"),
    };
    if played.is_err() && !interrupt.is_stopped() {
        say(&relays.logs());
    }
    played
}

async fn act(
    relays: Arc<Relays>,
    places: Places,
    options: DemoOptions,
    interrupt: Interrupt,
) -> anyhow::Result<Played> {
    wait_for_leader(&relays, &interrupt).await?;
    let tally = Arc::new(Tally::default());
    let topic = places.topic.clone();
    let consumer = tokio::task::spawn_blocking(move || Ground::consumer(&places).map(|c| (c, places)));
    let (consumer, places) = consumer.await??;
    let reader = Reader::start(consumer, Arc::clone(&tally)).context("start the consumer")?;
    let shop = Shop::open(&places.shop_url, &topic, options.orders, &tally).await?;
    let view = View::new(options.plain);
    let (began, kill) = (Instant::now(), Kill::ToCome);
    let mut play = Play { relays, shop, reader, tally, view, interrupt, began, kill };
    play.write(&options).await?;
    play.drain().await?;
    play.finish().await
}

async fn wait_for_leader(relays: &Relays, interrupt: &Interrupt) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEADER_DEADLINE;
    while relays.leader().is_none() {
        relays.check()?;
        if interrupt.is_stopped() {
            bail!("interrupted before the first order");
        }
        if Instant::now() >= deadline {
            bail!("no relay leads after {} s", LEADER_DEADLINE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

impl Play {
    /// Orders are written, until the time is up, there are enough, or somebody interrupts.
    async fn write(&mut self, options: &DemoOptions) -> anyhow::Result<()> {
        let length = Duration::from_secs(options.seconds);
        self.view.happened(
            Duration::ZERO,
            &format!(
                "{CONNECTIONS} connections write orders of {CUSTOMERS} customers, for {} s or up to {} orders",
                options.seconds, options.orders
            ),
        );
        while !self.shop.is_done()? {
            self.look("orders are being written")?;
            let half = self.began.elapsed() >= length / 2 || self.shop.begun() >= options.orders / 2;
            if half && matches!(self.kill, Kill::ToCome) {
                self.kill_leader().await;
            }
            if self.began.elapsed() >= length {
                self.shop.stop();
            }
            if self.interrupt.is_stopped() {
                self.shop.stop();
            }
            tokio::time::sleep(LOOK).await;
        }
        let why = if self.interrupt.is_stopped() { "interrupted: " } else { "" };
        let committed = self.tally.figures().committed;
        self.happened(&format!(
            "{why}writing ends with {committed} committed orders; the rest is being delivered"
        ));
        Ok(())
    }

    /// What was committed arrives, and a leader that was killed is replaced.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let (mut delivered, mut moved) = (0, Instant::now());
        loop {
            self.look("the last orders are being delivered")?;
            let figures = self.tally.figures();
            if figures.complete && !matches!(self.kill, Kill::Done { .. }) {
                self.happened("everything committed has arrived");
                return self.look("the orders are delivered");
            }
            if figures.delivered != delivered {
                (delivered, moved) = (figures.delivered, Instant::now());
            }
            if moved.elapsed() >= STANDSTILL {
                let seconds = STANDSTILL.as_secs();
                self.happened(&format!("no progress for {seconds} s; the audit says what is missing"));
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The relays stop first: then the topic grows no more, and its end is its end.
    async fn finish(self) -> anyhow::Result<Played> {
        let Play { relays, reader, tally, kill, view, .. } = self;
        view.end();
        let (leases_won, stopping) = (relays.leases_won(), Arc::clone(&relays));
        let seen = tokio::task::spawn_blocking(move || {
            stopping.stop();
            reader.finish()
        });
        let seen = seen.await??;
        let (takeover, killed) = match kill {
            Kill::ToCome => (None, false),
            Kill::Done { .. } => (None, true),
            Kill::TakenOver(after) => (Some(after), true),
        };
        Ok(Played { seen, figures: tally.figures(), takeover, killed, leases_won })
    }

    /// SIGKILL for the leader. Nobody leads at this moment: with the next look.
    async fn kill_leader(&mut self) {
        let Some(Leader { place, epoch, .. }) = self.relays.leader() else { return };
        let relays = Arc::clone(&self.relays);
        let at = Instant::now();
        if tokio::task::spawn_blocking(move || relays.kill(place)).await.is_err() {
            return;
        }
        self.kill = Kill::Done { epoch, at };
        let (name, seconds) = (NAMES[place], LEASE_TTL.as_secs());
        self.happened(&format!(
            "kill -9 for relay {name}, which leads; its lease of {seconds} s has to run out now"
        ));
    }

    /// Sees to everybody and draws the picture.
    fn look(&mut self, doing: &'static str) -> anyhow::Result<()> {
        self.relays.check()?;
        if self.reader.has_failed() {
            bail!("the consumer has stopped reading");
        }
        if let (Kill::Done { epoch, at }, Some(leader)) = (self.kill, self.relays.leader())
            && leader.epoch > epoch
        {
            let after = leader.since.duration_since(at);
            self.kill = Kill::TakenOver(after);
            let (name, epoch) = (NAMES[leader.place], leader.epoch);
            let seconds = after.as_secs_f64();
            self.happened(&format!(
                "relay {name} has taken over after {seconds:.1} s and leads, epoch {epoch}"
            ));
        }
        let (figures, relays) = (self.tally.figures(), self.relays.states());
        self.view.show(&Picture { elapsed: self.began.elapsed(), doing, figures, relays });
        Ok(())
    }

    fn happened(&mut self, what: &str) {
        self.view.happened(self.began.elapsed(), what);
    }
}
