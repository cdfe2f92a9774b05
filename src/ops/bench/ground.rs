//! What the benchmark makes and takes away: a topic, maybe a relay, and its rows.
//!
//! Nothing else is touched: the topic's name is new, and only rows with that topic as their mark are deleted.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use uuid::Uuid;

use crate::config::Config;
use crate::kafka::{KafkaSettings, OwnTopic, Topics};
use crate::ops::http;
use crate::ops::talk::say;
use crate::servers::free_port;
use crate::servers::process::{BoundCommand, Process, Signal};
use crate::store::{Session, bench, inspect, replay};

/// A relay that cannot lead by then cannot lead.
const START: Duration = Duration::from_secs(60);
/// A little more than the relay's own drain_timeout.
const STOP: Duration = Duration::from_secs(25);
/// A relay that has the lease says so by then.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(100);

/// A name that nobody else has.
pub fn topic_name() -> String {
    format!("outbox-bench-{}", &Uuid::new_v4().simple().to_string()[..12])
}

#[derive(PartialEq)]
enum Leads {
    Nobody,
    Another(Instant),
    Ours,
}

/// What was made so far.
#[derive(Debug, Default)]
pub struct Ground {
    topic: Option<OwnTopic>,
    relay: Option<Process>,
    /// The newest row before the first of ours.
    first: i64,
    /// Rows were written, or may have been.
    pub wrote: bool,
    /// All of them are settled.
    pub is_through: bool,
}

impl Ground {
    /// Makes the topic.
    pub async fn make_topic(
        &mut self,
        session: &mut Session,
        settings: &KafkaSettings,
        name: String,
        partitions: u32,
    ) -> anyhow::Result<()> {
        self.first = replay::last_id(session).await?;
        let partitions = i32::try_from(partitions).context("--partitions")?;
        // Brokers that cannot be reached say so to this question, and sooner.
        Topics::start(settings)?.cluster_id().await?;
        let made = OwnTopic::create(settings, &name, partitions).await;
        self.topic = Some(made.context(
            "make a topic for the benchmark; its login needs the right to create and delete topics",
        )?);
        Ok(())
    }

    /// Starts a relay with the same settings and waits until it leads. Returns where it serves its metrics.
    pub async fn start_relay(&mut self, session: &mut Session, config: &Config) -> anyhow::Result<String> {
        let address = format!("127.0.0.1:{}", free_port().context("find a free port")?);
        let program = std::env::current_exe().context("find this program")?;
        let mut relay = BoundCommand::new(program, "KILL", None);
        let command = relay.command();
        if let Some(file) = &config.file {
            command.arg("--config").arg(file);
        }
        command.arg("run").stdout(Stdio::null());
        command.env("OUTBOX_RELAY__HTTP__LISTEN", &address).env("OUTBOX_RELAY__LOG__LEVEL", "error");
        let process =
            tokio::task::spawn_blocking(|| relay.spawn()).await?.context("start a relay through setpriv")?;
        let process = self.relay.insert(process);
        let deadline = Instant::now() + START;
        let mut leads = Leads::Nobody;
        while leads != Leads::Ours {
            if let Some(status) = process.exited() {
                bail!("the relay ended ({status}); outbox-relay check tells what is wrong");
            }
            if Instant::now() > deadline {
                bail!("the relay does not lead within {} s; outbox-relay check tells why", START.as_secs());
            }
            tokio::time::sleep(LOOK).await;
            let is_held = inspect::overview(session).await?.holder.is_some();
            leads = match (is_held, our_lead(&address).await) {
                (true, Some(true)) => Leads::Ours,
                // It may be ours, which has not said so yet.
                (true, Some(false)) => match leads {
                    Leads::Another(since) if since.elapsed() > PATIENCE => {
                        bail!("another relay has begun to lead meanwhile: run this again, with that one")
                    }
                    Leads::Another(since) => Leads::Another(since),
                    _ => Leads::Another(Instant::now()),
                },
                _ => Leads::Nobody,
            };
        }
        Ok(address)
    }

    /// Takes rows, relay and topic away. Returns how many rows they were.
    pub async fn clear(self, session: &mut Session) -> anyhow::Result<i64> {
        let Some(topic) = self.topic else { return Ok(0) };
        let name = topic.name().to_owned();
        let by_hand = format!(
            "take them away by hand once outbox-relay status shows that nothing waits: delete from outbox.message where topic = '{name}'; \
             and delete topic {name}"
        );
        if self.wrote && !self.is_through {
            // A relay that still has to publish them would find no topic.
            bail!("messages of topic {name} are not settled, so they and the topic stay; {by_hand}");
        }
        if let Some(relay) = self.relay {
            relay.signal(Signal::TERM);
            let ended = tokio::task::spawn_blocking(move || {
                if relay.wait(STOP).is_none() {
                    relay.kill();
                }
            });
            ended.await?;
        }
        let mut gone = 0;
        if self.wrote {
            let last = replay::last_id(session).await?;
            let deleted = bench::delete(session, &name, self.first, last).await;
            gone = deleted.with_context(|| format!("the messages could not be deleted; {by_hand}"))?;
        }
        if let Err(error) = topic.delete().await {
            say(&format!("topic {name} could not be deleted, please delete it"))?;
            return Err(error.into());
        }
        Ok(gone)
    }
}

/// Whether our relay leads; `None`: it does not answer yet.
async fn our_lead(address: &str) -> Option<bool> {
    let page = http::get(address, "/metrics").await.ok()?;
    Some(crate::metrics::Load::read(&page)?.leads)
}
