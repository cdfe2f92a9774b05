//! `outbox-relay run`: builds the parts, follows and leads, and owns the order in which everything stops.
//!
//! Stop has one order: nothing new is read, the window is confirmed and settled, the lease is resigned, the process
//! ends. A standby takes over within half a second of the resignation.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::board::{self, Board};
use crate::config::{Config, ConfigError};
use crate::health::{Condition, Health, Loop, PATIENCE};
use crate::http;
use crate::kafka::{KafkaSettings, Publisher, Stamp, Topics};
use crate::leader::{self, Claim, Trust, Watch};
use crate::message::HeaderNames;
use crate::metrics::{Dependency, KafkaErrorClass, Metrics, Operation};
use crate::relay::reconcile::Trouble;
use crate::relay::requests::Controls;
use crate::relay::{self, Inheritance, Term, TermEnd};
use crate::store::lease::{self, Identity, Lease};
use crate::store::{Server, Session, StoreError, deferred, request};
use crate::telemetry::chain;
use crate::trace::{self, Traces};
use crate::{crash_point, task};

/// How often a candidate looks at the lease; a resignation is noticed this fast.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A term that cannot begin (a right is missing, say) is not taken again faster than this.
const TERM_MIN: Duration = Duration::from_secs(1);

/// How long the window is drained when an operator asks for another leader: soon counts for more than no copies.
const RESIGN_DRAIN: Duration = Duration::from_secs(1);

/// How long spans may still be sent when the drain has used up its time.
const FLUSH_MIN: Duration = Duration::from_millis(500);

/// How often a trouble that lasts is said again.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What outlives a term.
struct Daemon {
    config: Config,
    /// Replaced when `postgres.url_file` has changed.
    server: watch::Sender<Server>,
    publisher: Publisher,
    topics: Topics,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    traces: Option<Arc<Traces>>,
    /// Who we are in the lease.
    holder: Uuid,
    holder_name: String,
    kafka_cluster_id: Option<String>,
    /// Kafka answers, but not to us.
    kafka_refuses_login: bool,
    /// The epoch that we last took or tried to take; it is resigned on the way out, if it is still ours.
    claimed: Option<i64>,
    /// Stepped down because an operator asked for it: the lease is for others until then.
    yields_until: Option<Instant>,
    terminate: CancellationToken,
    said: Option<(String, Instant)>,
}

/// The lease, just taken.
struct Won {
    epoch: i64,
    trouble: Option<Trouble>,
    token: Uuid,
    trust: Arc<Trust>,
}

/// Runs the relay until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(Health::new(crash_point::shortened(PATIENCE)));
    let terminate = on_signal()?;
    let holder_name = format!("{}/{}", host_name(), std::process::id());
    let board = Arc::new(Board::new(holder_name.clone(), Arc::clone(&metrics)));
    let http = http::serve(config.http.listen, Arc::clone(&metrics), Arc::clone(&health), Arc::clone(&board))
        .with_context(|| format!("listen on {}", config.http.listen))?;
    let ttl = config.lease.ttl;
    let asked_to_stop = tokio::spawn({
        let terminate = terminate.clone();
        async move {
            terminate.cancelled().await;
            Instant::now()
        }
    });
    let (traces, exporter) = trace::start(&config.trace, &holder_name, &metrics)?.unzip();
    let mut daemon =
        Daemon::build(config, holder_name, Arc::clone(&metrics), Arc::clone(&health), traces, terminate)?;
    let gather = board::gather(daemon.server.subscribe(), Arc::clone(&board), ttl);
    let gatherer = tokio::spawn(task::endless("board", CancellationToken::new(), gather));
    let heartbeats = daemon.config.heartbeat.topic.is_some();
    let sample =
        crate::backlog::sample(daemon.server.subscribe(), metrics, Arc::clone(&health), board, heartbeats);
    let sampler = tokio::spawn(task::endless("sample", CancellationToken::new(), sample));
    let inbox = Arc::clone(daemon.publisher.inbox());
    let vitals = crate::vitals::watch(inbox, daemon.config.certificates(), Arc::clone(&daemon.metrics));
    let watcher = tokio::spawn(task::endless("vitals", CancellationToken::new(), vitals));
    let ended = Box::pin(daemon.follow_and_lead()).await;
    if let Some(exporter) = exporter {
        // After the resignation: nobody waits for spans. What the drain has left of its time is theirs.
        let since = if daemon.terminate.is_cancelled() { asked_to_stop.await.ok() } else { None };
        let left =
            daemon.config.relay.drain_timeout.saturating_sub(since.map_or(Duration::ZERO, |at| at.elapsed()));
        exporter.flush(left.max(FLUSH_MIN)).await;
    }
    sampler.abort();
    watcher.abort();
    gatherer.abort();
    drop(http);
    ended.map(|()| ExitCode::SUCCESS)
}

impl Daemon {
    fn build(
        config: Config,
        holder_name: String,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        traces: Option<Arc<Traces>>,
        terminate: CancellationToken,
    ) -> anyhow::Result<Daemon> {
        let urls = config.postgres.host_urls();
        let server = Server::new(urls.iter().map(|url| url.expose()))?.behind_pooler(config.postgres.pooler);
        let settings = kafka_settings(&config);
        metrics.set_config(&config.digest());
        metrics.set_policies(&config.policies);
        metrics.deferred_limit.set(config.retry.deferred_max as f64);
        metrics.retention_published.set(config.retention.published.as_secs_f64());
        metrics.unsafe_settings.set(config.kafka.unsafe_properties.len() as f64);
        for property in &config.kafka.unsafe_properties {
            tracing::warn!(property, "kafka.unsafe lets this property break a promise");
        }
        let holder = Uuid::new_v4();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), holder_name, "relay started");
        Ok(Daemon {
            topics: Topics::start(&settings)?,
            publisher: Publisher::start(settings)?,
            config,
            server: watch::Sender::new(server),
            metrics,
            health,
            traces,
            holder,
            holder_name,
            kafka_cluster_id: None,
            kafka_refuses_login: false,
            claimed: None,
            yields_until: None,
            terminate,
            said: None,
        })
    }

    /// Term after term, until told to stop.
    async fn follow_and_lead(&mut self) -> anyhow::Result<()> {
        while let Some(won) = task::named("follow", self.follow()).await {
            let (epoch, begun) = (won.epoch, Instant::now());
            self.metrics.leader_transitions.inc();
            self.metrics.leader.set(1.0);
            let ended = Box::pin(self.lead(won)).await;
            self.metrics.end_term();
            self.publisher.end_term();
            match ended {
                Ok(()) if self.terminate.is_cancelled() => break,
                Ok(()) => {
                    self.resign(epoch).await;
                    self.claimed = None;
                    self.yields_until = Some(Instant::now() + 2 * self.config.lease.ttl);
                }
                Err(error) => {
                    if matches!(error, TermEnd::Store(StoreError::LeaseLost)) {
                        self.metrics.fencing_rejections.inc();
                    }
                    tracing::warn!(
                        epoch,
                        error = chain(&error),
                        "stepped down, everything of this lease is forgotten"
                    );
                    tokio::select! {
                        () = self.terminate.cancelled() => {}
                        () = tokio::time::sleep_until((begun + TERM_MIN).into()) => {}
                    }
                }
            }
        }
        // Also after a term that failed, and where we were stopped in the middle of a takeover.
        if let Some(epoch) = self.claimed {
            self.resign(epoch).await;
        }
        tracing::info!("relay stopped");
        Ok(())
    }

    /// Watches the lease until it is ours. `None`: told to stop.
    async fn follow(&mut self) -> Option<Won> {
        let health = Arc::clone(&self.health);
        let running = health.running(Loop::Follow);
        let terminate = self.terminate.clone();
        let mut watch = Watch::default();
        let mut session: Option<Session> = None;
        loop {
            running.tick();
            crash_point::work("follow");
            let looked = tokio::select! {
                () = terminate.cancelled() => return None,
                looked = self.look(&mut session, &mut watch) => looked,
            };
            match looked {
                Ok(Some(won)) => {
                    if let Some(session) = session {
                        session.close().await;
                    }
                    return Some(won);
                }
                Ok(None) => {}
                Err(error) => {
                    session = None;
                    watch.failed();
                    self.say(chain(error.as_ref()));
                }
            }
            tokio::select! {
                () = terminate.cancelled() => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// One look at the lease, and the takeover if it may be taken.
    async fn look(
        &mut self,
        session: &mut Option<Session>,
        watch: &mut Watch,
    ) -> anyhow::Result<Option<Won>> {
        if session.is_none() {
            let mut fresh = match self.server().connect("follow").await {
                Ok(fresh) => fresh,
                Err(error) => {
                    self.metrics.database_error(Operation::Connect);
                    self.health_waits(Condition::Postgres, &error.to_string());
                    self.reread_url();
                    return Err(error.into());
                }
            };
            fresh
                .check_schema()
                .await
                .inspect_err(|error| self.health_waits(Condition::Postgres, &error.to_string()))?;
            self.health.reached(Condition::Postgres);
            self.metrics.set_dependency_up(Dependency::Postgres, true);
            *session = Some(fresh);
        }
        let session = session.as_mut().expect("it was opened above");
        let cluster = self.cluster_id().await?;
        let seen = lease::read_lease(session)
            .await
            .inspect_err(|_| self.metrics.database_error(Operation::Lease))?;
        let still_for = watch.read(&seen, Instant::now());
        let Some(claim) = leader::claim(&seen, self.holder, still_for, self.config.lease.ttl) else {
            return Ok(None);
        };
        if claim == Claim::Vacant && self.yields_until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        let identity = lease::read_identity(session).await?;
        check_identity(&seen, &identity, &cluster)?;
        let token = Uuid::new_v4();
        self.claimed = Some(seen.epoch + 1);
        let sent_at = Instant::now();
        let won =
            lease::take_over(session, &seen, self.holder, &self.holder_name, token, &identity, &cluster)
                .await?;
        let Some(epoch) = won else { return Ok(None) };
        let why = match claim {
            Claim::Vacant => "nobody held it",
            Claim::Ours => "it was ours",
            Claim::Silent => "its holder fell silent",
        };
        tracing::info!(epoch, why, from = seen.holder_name, "lease taken");
        self.said = None;
        let trouble = match claim {
            _ if seen.timeline.is_some_and(|timeline| timeline != identity.timeline) => {
                Some(Trouble::Promotion)
            }
            Claim::Vacant => None,
            Claim::Ours | Claim::Silent => Some(Trouble::Takeover),
        };
        Ok(Some(Won { epoch, trouble, token, trust: Arc::new(Trust::from(sent_at, self.config.lease.ttl)) }))
    }

    /// One term: relays while the beat is raised.
    async fn lead(&mut self, won: Won) -> Result<(), TermEnd> {
        let (drain, resign) = (CancellationToken::new(), CancellationToken::new());
        let term = Term {
            epoch: won.epoch,
            token: won.token,
            trust: Arc::clone(&won.trust),
            server: self.server(),
            config: self.config.relay.clone(),
            retry: self.config.retry.clone(),
            policies: self.config.policies.clone(),
            stall_after: self.config.kafka.stall_after,
            retention: self.config.retention.clone(),
            heartbeat: self.config.heartbeat.clone(),
            dedupe_window: self.config.consumers.dedupe_window,
            stamp: Stamp {
                names: HeaderNames {
                    event_id: self.config.kafka.header_event_id.clone(),
                    seq: self.config.kafka.header_seq.clone(),
                    epoch: self.config.kafka.header_epoch.clone(),
                },
                epoch: won.epoch.to_string(),
            },
            config_file: self.config.file.clone(),
            trouble: won.trouble,
            metrics: Arc::clone(&self.metrics),
            traces: self.traces.clone(),
            health: Arc::clone(&self.health),
            drain: drain.clone(),
            resign: resign.clone(),
        };
        let ttl = self.config.lease.ttl;
        let drain_timeout = self.config.relay.drain_timeout;
        let terminate = self.terminate.clone();
        let health = Arc::clone(&self.health);
        // On a task of its own: nothing that the relay does may hold up the beat.
        let beat = AbortOnDropHandle::new(tokio::spawn(task::named(
            "beat",
            leader::beat(term.clone(), self.holder, ttl),
        )));
        let topics = self.topics.clone();
        let publisher = &mut self.publisher;
        let relay = async {
            publisher.begin_term()?;
            let inheritance = inherit(&term).await?;
            tracing::info!(epoch = term.epoch, high = inheritance.resume.position.high, "leading");
            Box::pin(relay::run(term, publisher, topics, inheritance)).await
        };
        let deadline = async {
            let patience = tokio::select! {
                () = terminate.cancelled() => {
                    tracing::info!("stopping, the window is being drained");
                    health.stopping();
                    drain_timeout
                }
                () = resign.cancelled() => {
                    tracing::info!("stepping down, as an operator asked; the window is being drained");
                    drain_timeout.min(RESIGN_DRAIN)
                }
            };
            drain.cancel();
            tokio::time::sleep(patience).await;
            tracing::warn!("drain_timeout passed, what is in flight will be sent again by the next leader");
        };
        tokio::select! {
            ended = relay => ended,
            ended = beat => Err(ended.unwrap_or(TermEnd::TrustRanOut)),
            () = deadline => Ok(()),
        }
    }

    async fn resign(&self, epoch: i64) {
        let resigned = async {
            let mut session = self.server().connect("resign").await?;
            let ours = lease::resign(&mut session, self.holder, epoch).await?;
            session.close().await;
            Ok::<bool, StoreError>(ours)
        };
        match tokio::time::timeout(Duration::from_secs(5), resigned).await {
            Ok(Ok(true)) => tracing::info!(epoch, "lease resigned"),
            Ok(Ok(false)) => tracing::info!(epoch, "the lease was not ours any more"),
            Ok(Err(error)) => {
                tracing::warn!(epoch, error = chain(&error), "the lease could not be resigned, it runs out")
            }
            Err(_) => tracing::warn!(epoch, "the lease could not be resigned in time, it runs out"),
        }
    }

    /// The Kafka cluster's id, asked for once.
    async fn cluster_id(&mut self) -> anyhow::Result<String> {
        if let Some(id) = &self.kafka_cluster_id {
            return Ok(id.clone());
        }
        match self.topics.cluster_id().await {
            Ok(id) => {
                self.health.reached(Condition::Kafka);
                self.metrics.set_dependency_up(Dependency::Kafka, true);
                self.kafka_cluster_id = Some(id.clone());
                Ok(id)
            }
            Err(error) => {
                for class in self.publisher.inbox().take_errors() {
                    self.metrics.kafka_error(KafkaErrorClass::named(class));
                    // An outage after a refused login is an outage.
                    self.kafka_refuses_login = class == "authentication";
                }
                let mut error = anyhow::Error::new(error).context("waiting for kafka");
                if self.kafka_refuses_login {
                    const ADVICE: &str = "kafka refuses the login: check security.protocol, sasl.* and ssl.* in [kafka.properties]";
                    error = error.context(ADVICE);
                }
                self.health_waits(Condition::Kafka, &chain(error.as_ref()));
                self.metrics.set_dependency_up(Dependency::Kafka, false);
                Err(error)
            }
        }
    }

    fn server(&self) -> Server {
        self.server.borrow().clone()
    }

    /// The password may have been rotated: `postgres.url_file` is read again when a connection fails.
    fn reread_url(&mut self) {
        let Ok(urls) = self.config.postgres.reread_host_urls() else { return };
        if let Ok(server) = Server::new(urls.iter().map(|url| url.expose())) {
            self.server.send_replace(server.behind_pooler(self.config.postgres.pooler));
        }
    }

    fn health_waits(&self, condition: Condition, reason: &str) {
        if !self.health.has_reached(condition) {
            self.health.waiting(condition, reason);
        }
    }

    /// A trouble that lasts is said at once and then every few seconds.
    fn say(&mut self, trouble: String) {
        let repeated =
            self.said.as_ref().is_some_and(|(said, at)| *said == trouble && at.elapsed() < SAY_EVERY);
        if !repeated {
            tracing::warn!(error = trouble, "cannot lead yet, trying again");
            self.said = Some((trouble, Instant::now()));
        }
    }
}

/// Refuses properties that librdkafka refuses, all at once, before anything is connected.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    match kafka_settings(config).problems() {
        problems if problems.is_empty() => Ok(()),
        problems => Err(ConfigError { problems }),
    }
}

/// What clients of the configured cluster are made from.
pub fn kafka_settings(config: &Config) -> KafkaSettings {
    let properties = config.kafka.properties.iter();
    KafkaSettings {
        brokers: config.kafka.brokers.join(","),
        properties: properties.map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
        window_rows: config.relay.window_rows,
        max_row_bytes: config.relay.max_row_bytes,
        stall_after: config.kafka.stall_after,
    }
}

/// What the new leader finds.
async fn inherit(term: &Term) -> Result<Inheritance, TermEnd> {
    let mut session = term.server.connect("inherit").await?;
    let inheritance = Inheritance {
        resume: lease::read_position(&mut session).await?,
        deferred: deferred::counts(&mut session).await?,
        waiting: deferred::waiting_keys(&mut session).await?,
        topics: deferred::topic_counts(&mut session).await?,
        lanes: lease::read_open_lanes(&mut session).await?,
        controls: Controls::of(&request::look(&mut session).await?.open, &term.policies),
        // Twice as long as a try takes, and some.
        lost: lease::read_lost(&mut session, term.epoch, 2 * term.stall_after + Duration::from_secs(30))
            .await?,
    };
    session.close().await;
    Ok(inheritance)
}

/// A copy of this database, or the same one with another Kafka, must not publish: its backlog is not its own.
fn check_identity(stored: &Lease, here: &Identity, kafka_cluster_id: &str) -> anyhow::Result<()> {
    let rebase = "run outbox-relay migrate --rebase to make this outbox its own";
    if stored.system_identifier.is_some_and(|id| id != here.system_identifier) {
        anyhow::bail!("this outbox was copied from another Postgres server; {rebase}");
    }
    if stored.database_oid.is_some_and(|oid| oid != here.database_oid) {
        anyhow::bail!("this outbox was copied from another database of this server; {rebase}");
    }
    if stored.kafka_cluster_id.as_deref().is_some_and(|id| id != kafka_cluster_id) {
        anyhow::bail!(
            "this outbox was published to another Kafka cluster than the one in kafka.brokers; correct kafka.brokers or {rebase}"
        );
    }
    if here.sequence_cache > 1 {
        anyhow::bail!(
            "outbox.message_id_seq has a cache of {}, which breaks the order of ids; run: alter sequence outbox.message_id_seq cache 1",
            here.sequence_cache
        );
    }
    Ok(())
}

fn host_name() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Cancelled by the first SIGTERM or SIGINT.
fn on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(task::named("signal", async move {
        crash_point::work("signal");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    }));
    Ok(token)
}
