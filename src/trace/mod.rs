//! Spans: what is told of tries to send, to whoever collects traces. Off unless `trace.endpoint` is set, and then it costs nothing.
//!
//! Owns what a span says and which rows have one; which tries there were is told by `relay`, and [`export`] gets them away. A row's
//! context is the `traceparent` that its service wrote; it goes to Kafka untouched, and spans are linked to it, or its children.
//! A span has no payload, no key and no header but that one: not even `tracestate`, in which anything may stand.
//!
//! Names are those of OpenTelemetry's semantic conventions for messaging with Kafka; what they have no name for begins with `outbox.`.

mod context;
mod export;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks,
};

use crate::config::{TraceConfig, TraceMode};
use crate::message::OutboxRow;
use crate::receipt::Receipt;

pub use export::{Exporter, start};

/// Links of one span at most, as OpenTelemetry's own limit has it; how many more there were is said in the span.
const LINKS_MAX: usize = 128;

/// The conventions that the names are taken from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.45.0";

/// What became of a try that is told on its own.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// Kafka has confirmed it.
    Confirmed(Receipt),
    /// It failed.
    Failed {
        /// What kind of failure, as in `outbox.attempt`.
        class: &'a str,
        /// The broker's words, scrubbed.
        error: &'a str,
        /// The row is a dead letter now.
        dead: bool,
    },
}

/// What a try has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing, as far as is known.
    First,
    /// The row was put off before.
    Retry,
    /// Another leader may have had it in flight when it ended.
    Takeover,
    /// Its producer was replaced.
    ProducerReplaced,
    /// Somebody asked for it.
    Replay,
    /// It is a dead letter's copy.
    Copy,
}

impl Why {
    fn cause(self) -> Option<&'static str> {
        match self {
            Why::First => None,
            Why::Retry => Some("retry"),
            Why::Takeover => Some("takeover"),
            Why::ProducerReplaced => Some("producer_replaced"),
            Why::Replay => Some("replay"),
            Why::Copy => Some("dead_letter_copy"),
        }
    }
}

/// Makes spans and gives them to the exporter. Never waits: what the exporter has no room for is dropped and counted.
pub struct Traces {
    mode: TraceMode,
    sampler: Sampler,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    queue: export::Queue,
}

/// Rows of one topic that were confirmed together.
#[derive(Default)]
struct Together {
    rows: i64,
    links: Vec<Link>,
    /// Links for which there was no room.
    omitted: u32,
    /// Some row has a context, followed or not.
    has_context: bool,
}

/// A span in the making.
struct Draft {
    topic: Arc<str>,
    parent: Option<SpanContext>,
    links: SpanLinks,
    attributes: Vec<KeyValue>,
    status: Status,
    trace: Option<TraceId>,
}

impl Traces {
    fn new(config: &TraceConfig, queue: export::Queue) -> Traces {
        let scope = InstrumentationScope::builder("outbox-relay")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA);
        Traces {
            mode: config.mode,
            sampler: Sampler::TraceIdRatioBased(config.sample),
            ids: RandomIdGenerator::default(),
            scope: scope.build(),
            queue,
        }
    }

    /// Rows that were confirmed by their first try: a span for each topic, linked to the contexts of the rows that are followed; or,
    /// in the other mode, a child for each of these. A topic without any followed row has none.
    pub fn together<'r>(
        &self,
        epoch: i64,
        begun: Instant,
        rows: impl Iterator<Item = (&'r OutboxRow, Receipt)>,
    ) {
        match self.mode {
            TraceMode::Links => self.link(epoch, begun, rows),
            TraceMode::Child => {
                for (row, receipt) in rows {
                    let parent = context::of(row).filter(|context| self.follows_context(context));
                    if parent.is_some() {
                        let mut draft = self.of_row(row, parent);
                        draft.attributes.extend(place(receipt));
                        self.finish(epoch, begun, draft);
                    }
                }
            }
        }
    }

    fn link<'r>(&self, epoch: i64, begun: Instant, rows: impl Iterator<Item = (&'r OutboxRow, Receipt)>) {
        let mut topics: HashMap<&Arc<str>, Together> = HashMap::new();
        for (row, _) in rows {
            let topic = topics.entry(&row.topic).or_default();
            topic.rows += 1;
            let Some(context) = context::of(row) else { continue };
            topic.has_context = true;
            if !self.follows_context(&context) {
                continue;
            }
            if topic.links.len() < LINKS_MAX {
                let id = KeyValue::new("messaging.message.id", row.event_id.to_string());
                topic.links.push(Link::new(context, vec![id], 0));
            } else {
                topic.omitted += 1;
            }
        }
        for (name, together) in topics {
            let trace = self.ids.new_trace_id();
            // Nobody else has decided about rows without a context.
            let is_followed = match together.has_context {
                true => !together.links.is_empty(),
                false => self.follows(trace),
            };
            if !is_followed {
                continue;
            }
            let mut links = SpanLinks::default();
            (links.links, links.dropped_count) = (together.links, together.omitted);
            self.finish(
                epoch,
                begun,
                Draft {
                    topic: Arc::clone(name),
                    parent: None,
                    links,
                    attributes: vec![KeyValue::new("messaging.batch.message_count", together.rows)],
                    status: Status::Unset,
                    trace: Some(trace),
                },
            );
        }
    }

    /// A try that failed, or one of a row that was sent before: it always has a span of its own.
    pub fn alone(&self, epoch: i64, begun: Instant, row: &OutboxRow, end: End<'_>, why: Why, attempt: i32) {
        let mut draft = match (self.mode, context::of(row)) {
            (TraceMode::Child, parent) => self.of_row(row, parent),
            (TraceMode::Links, None) => self.of_row(row, None),
            (TraceMode::Links, Some(context)) => {
                let mut draft = self.of_row(row, None);
                draft.links.links = vec![Link::new(context, Vec::new(), 0)];
                draft
            }
        };
        draft.attributes.push(KeyValue::new("outbox.attempt", i64::from(attempt)));
        draft.attributes.extend(why.cause().map(|cause| KeyValue::new("outbox.why", cause)));
        match end {
            End::Confirmed(receipt) => draft.attributes.extend(place(receipt)),
            End::Failed { class, error, dead } => {
                draft.attributes.push(KeyValue::new("error.type", class.to_owned()));
                draft.attributes.push(KeyValue::new("outbox.dead_letter", dead));
                draft.status = Status::error(error.to_owned());
            }
        }
        self.finish(epoch, begun, draft);
    }

    fn of_row(&self, row: &OutboxRow, parent: Option<SpanContext>) -> Draft {
        let mut attributes = vec![
            KeyValue::new("messaging.message.id", row.event_id.to_string()),
            KeyValue::new("outbox.id", row.id),
        ];
        if row.payload.is_none() && !row.is_oversize() {
            attributes.push(KeyValue::new("messaging.kafka.message.tombstone", true));
        }
        let topic = Arc::clone(&row.topic);
        Draft { topic, parent, links: SpanLinks::default(), attributes, status: Status::Unset, trace: None }
    }

    /// The service has sampled its trace, and it is one of those that we follow.
    fn follows_context(&self, context: &SpanContext) -> bool {
        context.is_sampled() && self.follows(context.trace_id())
    }

    /// Decided by the trace's id alone, so that every relay, and every other program with this ratio, decides alike.
    fn follows(&self, trace: TraceId) -> bool {
        let sampled = self.sampler.should_sample(None, trace, "", &SpanKind::Client, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    fn finish(&self, epoch: i64, begun: Instant, draft: Draft) {
        let Draft { topic, parent, links, mut attributes, status, trace } = draft;
        let trace = match &parent {
            Some(parent) => parent.trace_id(),
            None => trace.unwrap_or_else(|| self.ids.new_trace_id()),
        };
        let context =
            SpanContext::new(trace, self.ids.new_span_id(), TraceFlags::SAMPLED, false, TraceState::NONE);
        attributes.extend([
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", "send"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", StringValue::from(Arc::clone(&topic))),
            KeyValue::new("outbox.epoch", epoch),
        ]);
        let end_time = SystemTime::now();
        self.queue.push(SpanData {
            span_context: context,
            parent_span_id: parent.as_ref().map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some(),
            // Not a producer's: the context in the message is its service's, and consumers link to that.
            span_kind: SpanKind::Client,
            name: format!("send {topic}").into(),
            start_time: end_time.checked_sub(begun.elapsed()).unwrap_or(end_time),
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// Where the record is.
fn place(receipt: Receipt) -> impl Iterator<Item = KeyValue> {
    let partition = KeyValue::new("messaging.destination.partition.id", receipt.partition.to_string());
    let offset = receipt.offset.map(|offset| KeyValue::new("messaging.kafka.offset", offset));
    std::iter::once(partition).chain(offset)
}
