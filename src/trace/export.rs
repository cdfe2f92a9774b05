//! Getting spans away: a bounded queue, and a task that sends what is in it to a collector, by OTLP over HTTP with protobuf.
//!
//! Nothing waits for it. What finds the queue full, or cannot be sent, is dropped, counted, and told by one line a minute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Traces;
use crate::config::TraceConfig;
use crate::metrics::{Metrics, SpanFate};
use crate::task;

/// Spans that wait at most: a few megabytes.
const QUEUE: usize = 4096;

/// Spans of one request at most.
const BATCH: usize = 512;

/// How long spans are collected for a request.
const LINGER: Duration = Duration::from_millis(200);

/// How long one request may take, its repetitions included.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause after a failure: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// How often it is said that spans are dropped.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The queue's near end.
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// Never waits.
    pub fn push(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans(SpanFate::Dropped, 1);
        }
    }
}

/// The task at its far end.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Sends what is left, for so long at most; then it is given up.
    pub async fn flush(self, within: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(within, self.task).await.is_err() {
            tracing::warn!("spans were still on their way, they are given up");
        }
    }
}

/// What makes spans, and what sends them; `None`: `trace.endpoint` is off. `instance` tells this process from others.
pub fn start(
    config: &TraceConfig,
    instance: &str,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<(Arc<Traces>, Exporter)>> {
    let Some(endpoint) = &config.endpoint else { return Ok(None) };
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(PATIENCE)
        .build()
        .context("trace.endpoint cannot be used")?;
    let resource = Resource::builder().with_service_name("outbox-relay").with_attributes([
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ]);
    exporter.set_resource(&resource.build());
    let (spans, waiting) = mpsc::channel(QUEUE);
    let queue = Queue { spans, metrics: Arc::clone(metrics) };
    let stop = CancellationToken::new();
    let sending = Sending { exporter, waiting, metrics: Arc::clone(metrics), said: None, told: 0 };
    let work = task::endless("export", stop.clone(), sending.run(stop.clone()));
    let task = tokio::spawn(async move {
        let _ = work.await;
    });
    Ok(Some((Arc::new(Traces::new(config, queue)), Exporter { stop, task })))
}

struct Sending {
    exporter: SpanExporter,
    waiting: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
    /// When it was last said that spans are dropped, and of how many.
    said: Option<Instant>,
    told: u64,
}

impl Sending {
    async fn run(mut self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut pause = PAUSE;
        loop {
            crate::crash_point::work("export");
            tokio::select! {
                () = stop.cancelled() => break,
                received = self.waiting.recv_many(&mut batch, BATCH) => if received == 0 { break },
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            while batch.len() < BATCH
                && let Ok(span) = self.waiting.try_recv()
            {
                batch.push(span);
            }
            match self.export(&mut batch).await {
                Ok(()) => pause = PAUSE,
                Err(reason) => {
                    self.say(&reason);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (2 * pause).min(PAUSE_MAX);
                }
            }
        }
        self.waiting.close();
        while self.waiting.recv_many(&mut batch, BATCH).await > 0 {
            if let Err(reason) = self.export(&mut batch).await {
                self.say(&reason);
            }
        }
        Ok(())
    }

    async fn export(&self, batch: &mut Vec<SpanData>) -> Result<(), String> {
        let spans = batch.len() as u64;
        let sent = self.exporter.export(std::mem::take(batch));
        let ended = match tokio::time::timeout(PATIENCE, sent).await {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let fate = if ended.is_ok() { SpanFate::Exported } else { SpanFate::Dropped };
        self.metrics.spans(fate, spans);
        ended
    }

    /// One line for all that were dropped since the last one.
    fn say(&mut self, reason: &str) {
        if self.said.is_some_and(|at| at.elapsed() < SAY_EVERY) {
            return;
        }
        let dropped = self.metrics.dropped_spans();
        tracing::warn!(dropped = dropped - self.told, reason, "spans cannot be exported, they are dropped");
        (self.said, self.told) = (Some(Instant::now()), dropped);
    }
}
