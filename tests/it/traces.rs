//! Spans, as a collector receives them: which rows have one, what it says, and that nothing ever waits for it.

use std::time::Instant;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use outbox_relay::crash_point;
use sqlx::Row;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::history::RECOVERY;
use crate::support::lines::write_many;
use crate::support::{Collector, DEADLINE, Env, Record, RelayBuilder, attribute, eventually, hex};

const DROPPED: &str = "spans cannot be exported, they are dropped";

/// A row's context: the service's trace and span. The last digits tell rows apart.
fn context(number: usize, sampled: bool) -> String {
    format!("00-{number:032x}-{number:016x}-0{}", u8::from(sampled))
}

async fn traced(env: &Env, collector: &Collector) -> RelayBuilder {
    env.relay().await.set("trace.endpoint", collector.endpoint()).set("lease.ttl", "1s")
}

/// Writes rows in one statement, each with this context, and returns their event ids.
async fn write(env: &Env, topic: &str, contexts: &[Option<String>]) -> Vec<Uuid> {
    let headers = contexts.iter().map(|context| {
        context.as_ref().map(|context| format!(r#"{{"traceparent": "{context}", "tracestate": "{STATE}"}}"#))
    });
    let sql = "insert into outbox.message (topic, payload, headers) \
               select $1, 'x', h.text::jsonb from unnest($2::text[]) with ordinality h (text, n) order by n returning event_id";
    let query = sqlx::query(sql).bind(topic).bind(headers.collect::<Vec<_>>());
    let rows = query.fetch_all(env.app()).await.expect("insert");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Names of vendors, and what they like.
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE ,  x@y=~!#$%&'()*+-./:;<>?";

fn said(span: &Span, name: &str) -> Option<String> {
    attribute(&span.attributes, name)
}

fn is_of(span: &Span, event_id: Uuid) -> bool {
    said(span, "messaging.message.id") == Some(event_id.to_string())
}

/// What every span has.
#[track_caller]
fn is_ours(span: &Span, topic: &str) {
    assert_eq!(span.name, format!("send {topic}"));
    assert_eq!(span.kind, SpanKind::Client as i32);
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", topic),
    ] {
        assert_eq!(said(span, name).as_deref(), Some(value), "{span:?}");
    }
    assert_eq!(span.trace_state, "");
    assert!(span.start_time_unix_nano > 0 && span.start_time_unix_nano <= span.end_time_unix_nano);
}

fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// What the services wrote arrives byte for byte.
#[track_caller]
fn carries(record: &Record, context: &str) {
    assert_eq!(record.header("traceparent"), Some(context));
    assert_eq!(record.header("tracestate"), Some(STATE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_one_span_that_is_linked_to_the_contexts_of_its_rows() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[]).await;
    let relay = traced(&env, &collector).await.start().await;
    relay.wait_for_log("leading").await;
    let contexts = [
        Some(context(1, true)),
        Some(context(2, false)),
        None,
        Some(context(4, true)),
        Some("nonsense".to_owned()),
    ];
    let ids = write(&env, &topic, &contexts).await;
    let records = env.expect_records(&topic, 5).await;
    for (record, context) in records.iter().zip(&contexts) {
        if let Some(context) = context {
            carries(record, context);
        }
    }
    let spans = collector.expect(1, |_| true).await;
    assert_eq!(spans.len(), 1, "{spans:?}");
    let span = &spans[0];
    is_ours(span, &topic);
    assert_eq!(said(span, "messaging.batch.message_count").as_deref(), Some("5"));
    assert_eq!(said(span, "outbox.epoch").as_deref(), Some("1"));
    assert_eq!(said(span, "messaging.message.id"), None);
    assert!(span.parent_span_id.is_empty() && !failed(span), "{span:?}");
    let links: Vec<(String, String, Option<String>)> = span
        .links
        .iter()
        .map(|link| {
            assert_eq!(link.trace_state, "");
            (hex(&link.trace_id), hex(&link.span_id), attribute(&link.attributes, "messaging.message.id"))
        })
        .collect();
    let link =
        |number: usize, id: Uuid| (format!("{number:032x}"), format!("{number:016x}"), Some(id.to_string()));
    assert_eq!(links, [link(1, ids[0]), link(4, ids[3])]);
    assert!(links.iter().all(|(trace, ..)| *trace != hex(&span.trace_id)));
    let about = collector.resources();
    assert_eq!(attribute(&about[0], "service.name").as_deref(), Some("outbox-relay"));
    assert!(attribute(&about[0], "service.instance.id").is_some());
    eventually(DEADLINE, "the span is counted", async || {
        let result = [("result", "exported")];
        relay.metrics().await.value("outbox_trace_spans_total", &result) == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_links_than_a_span_takes_are_counted_in_it() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[]).await;
    let relay = traced(&env, &collector).await.start().await;
    relay.wait_for_log("leading").await;
    let contexts: Vec<_> = (1..=150).map(|number| Some(context(number, true))).collect();
    write(&env, &topic, &contexts).await;
    let spans = collector.expect(1, |_| true).await;
    assert_eq!((spans[0].links.len(), spans[0].dropped_links_count), (128, 22));
    assert_eq!(said(&spans[0], "messaging.batch.message_count").as_deref(), Some("150"));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_children_rows_have_a_span_each_in_their_services_traces() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 2, &[]).await;
    let _relay = traced(&env, &collector).await.set("trace.mode", "child").start().await;
    let contexts = [Some(context(1, true)), Some(context(2, false)), None, Some(context(4, true))];
    let ids = write(&env, &topic, &contexts).await;
    let records = env.expect_records(&topic, 4).await;
    let spans = collector.expect(2, |_| true).await;
    assert_eq!(spans.len(), 2, "{spans:?}");
    for (number, id) in [(1, ids[0]), (4, ids[3])] {
        let span = spans.iter().find(|span| is_of(span, id)).expect("the row has a span");
        is_ours(span, &topic);
        assert_eq!(hex(&span.trace_id), format!("{number:032x}"));
        assert_eq!(hex(&span.parent_span_id), format!("{number:016x}"));
        assert!(span.links.is_empty() && said(span, "messaging.batch.message_count").is_none());
        let record = records.iter().find(|record| record.event_id() == id).expect("it arrived");
        assert_eq!(said(span, "messaging.destination.partition.id"), Some(record.partition.to_string()));
        assert_eq!(said(span, "messaging.kafka.offset"), Some(record.offset.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_zero_leaves_only_what_went_wrong() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[("max.message.bytes", "2000")]).await;
    let relay = traced(&env, &collector).await.set("trace.sample", 0).set("retry.base", "20ms");
    let relay = relay.set("retry.max", "50ms").set("retry.attempts", 2).expect_errors();
    let _relay = relay.start().await;
    let usual = write(&env, &topic, &[Some(context(1, true)), None]).await;
    env.expect_records(&topic, 2).await;
    // One that is refused until it is dead, whether its service has sampled it or not.
    let sql = "insert into outbox.message (topic, payload, headers) \
               values ($1, convert_to(repeat('x', 5000), 'UTF8'), $2::text::jsonb) returning event_id";
    let headers = format!(r#"{{"traceparent": "{}"}}"#, context(7, false));
    let dead: Uuid =
        sqlx::query_scalar(sql).bind(&topic).bind(headers).fetch_one(env.app()).await.expect("insert");
    let spans = collector.expect(2, |span| is_of(span, dead)).await;
    for span in &spans {
        is_ours(span, &topic);
        assert!(failed(span), "{span:?}");
        assert_eq!(said(span, "error.type").as_deref(), Some("record"));
        assert_eq!(hex(&span.links[0].trace_id), format!("{:032x}", 7));
    }
    let died = collector.expect(1, |span| said(span, "outbox.dead_letter").as_deref() == Some("true")).await;
    assert!(is_of(&died[0], dead) && said(&died[0], "outbox.attempt").as_deref() == Some("2"), "{died:?}");
    for span in collector.spans() {
        assert!(!usual.iter().any(|id| is_of(&span, *id)), "{span:?}");
        assert_eq!(said(&span, "messaging.batch.message_count"), None, "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_goes_at_last_tells_that_it_was_retried() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[("max.message.bytes", "2000")]).await;
    let relay = traced(&env, &collector).await.set("trace.sample", 0).set("retry.base", "20ms");
    let _relay = relay.set("retry.max", "50ms").set("retry.attempts", 1000).expect_errors().start().await;
    let sql = "insert into outbox.message (topic, payload) values ($1, convert_to(repeat('x', 5000), 'UTF8')) returning event_id";
    let id: Uuid = sqlx::query_scalar(sql).bind(&topic).fetch_one(env.app()).await.expect("insert");
    collector.expect(2, |span| is_of(span, id) && failed(span)).await;
    env.alter_topic(&topic, &[("max.message.bytes", "1000000")]).await;
    let gone = collector.expect(1, |span| is_of(span, id) && !failed(span)).await;
    is_ours(&gone[0], &topic);
    assert_eq!(said(&gone[0], "outbox.why").as_deref(), Some("retry"));
    assert_eq!(said(&gone[0], "messaging.kafka.offset").as_deref(), Some("0"));
    assert!(
        said(&gone[0], "outbox.attempt").is_some_and(|attempt| attempt.parse::<u32>().is_ok_and(|n| n > 2))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_another_leader_may_have_sent_have_spans_of_their_own() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[]).await;
    let first = env.relay().await.env("OUTBOX_RELAY_CRASH_AT", crash_point::AFTER_CONFIRM);
    let first = first.set("lease.ttl", "1s").start().await;
    let ids = write(&env, &topic, &[Some(context(1, false)), None]).await;
    first.wait_for_exit(RECOVERY).await;
    let _second = traced(&env, &collector).await.set("trace.sample", 0).start().await;
    env.expect_records(&topic, 4).await;
    for id in ids {
        let spans = collector.expect(1, |span| is_of(span, id)).await;
        is_ours(&spans[0], &topic);
        assert_eq!(said(&spans[0], "outbox.why").as_deref(), Some("takeover"));
        assert_eq!(said(&spans[0], "outbox.epoch").as_deref(), Some("2"));
    }
    // What was written since has been with nobody else.
    let later = write(&env, &topic, &[Some(context(2, false))]).await;
    env.expect_records(&topic, 5).await;
    env.eventually_true("select count(*) = 3 from outbox.status where state = 'published'").await;
    assert!(!collector.spans().iter().any(|span| is_of(span, later[0])));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_producer_that_was_replaced_have_spans_of_their_own() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[]).await;
    let relay = traced(&env, &collector).await.set("trace.sample", 0);
    let relay = relay.env("OUTBOX_RELAY_FATAL_AT", "main:20:1").start().await;
    relay.wait_for_log("leading").await;
    write_many(&env, &topic, 5, 0, 40).await;
    let again = |span: &Span| said(span, "outbox.why").as_deref() == Some("producer_replaced");
    is_ours(&collector.expect(1, again).await[0], &topic);
    env.expect_records(&topic, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_rows_go_on_and_spans_are_dropped_and_counted() {
    let env = Env::new().await;
    let topic = env.create_topic("traces", 3, &[]).await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        format!("http://{}", listener.local_addr().expect("it is bound"))
    };
    let relay = env.relay().await.set("trace.endpoint", &nobody).start().await;
    write_many(&env, &topic, 10, 0, 100).await;
    relay.wait_for_log(DROPPED).await;
    for round in 1..20 {
        write_many(&env, &topic, 10, round * 10, 100).await;
        env.expect_records(&topic, (round as usize + 1) * 100).await;
    }
    eventually(DEADLINE, "spans are counted", async || {
        relay.metrics().await.value("outbox_trace_spans_total", &[("result", "dropped")]) >= 2.0
    })
    .await;
    assert_eq!(relay.logged(DROPPED), 1, "one line tells it");
    assert_eq!(relay.metrics().await.value("outbox_trace_spans_total", &[("result", "exported")]), 0.0);
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_holds_up_neither_rows_nor_the_end() {
    let env = Env::new().await;
    let topic = env.create_topic("traces", 1, &[]).await;
    // Connections are accepted by the system, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("it is bound"));
    let relay = env.relay().await.set("trace.endpoint", endpoint).set("relay.drain_timeout", "2s");
    let relay = relay.start().await;
    write_many(&env, &topic, 1, 0, 100).await;
    env.expect_records(&topic, 100).await;
    let asked = Instant::now();
    assert!(relay.terminate().await.success());
    assert!(asked.elapsed().as_secs() < 10, "it took {:?}", asked.elapsed());
    assert_eq!(relay.logged("spans were still on their way, they are given up"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_sends_the_spans_that_it_has() {
    let (env, collector) = (Env::new().await, Collector::start().await);
    let topic = env.create_topic("traces", 1, &[]).await;
    let relay = traced(&env, &collector).await.start().await;
    relay.wait_for_log("leading").await;
    let contexts: Vec<_> = (1..=10).map(|number| Some(context(number, true))).collect();
    write(&env, &topic, &contexts).await;
    env.expect_records(&topic, 10).await;
    assert!(relay.terminate().await.success());
    assert_eq!(collector.spans().iter().map(|span| span.links.len()).sum::<usize>(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_there_are_no_spans() {
    let env = Env::new().await;
    let topic = env.create_topic("traces", 1, &[]).await;
    // The variables of OpenTelemetry's libraries do not switch it on.
    let relay = env.relay().await.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").start().await;
    write(&env, &topic, &[Some(context(1, true))]).await;
    carries(&env.expect_records(&topic, 1).await[0], &context(1, true));
    for result in ["exported", "dropped"] {
        assert_eq!(relay.metrics().await.value("outbox_trace_spans_total", &[("result", result)]), 0.0);
    }
}
