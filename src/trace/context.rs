//! The context that a service wrote into its row: the header `traceparent`, as W3C's Trace Context has it. Pure.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::message::{OutboxRow, each_header};

const TRACEPARENT: &str = "traceparent";

/// The context of a row; `None`: it has none, or something else under that name.
pub(super) fn of(row: &OutboxRow) -> Option<SpanContext> {
    // Most rows without one are told apart without reading their headers.
    let text = row.headers.as_deref().filter(|text| text.contains(TRACEPARENT))?;
    let mut found = None;
    each_header(text, |name, value| {
        if name == TRACEPARENT && found.is_none() {
            found = value.map(str::to_owned);
        }
    })
    .ok()?;
    let context = TraceContextPropagator::new().extract(&Parent(found?));
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// That header alone.
struct Parent(String);

impl Extractor for Parent {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;

    #[track_caller]
    fn check(headers: Option<&str>, expected: Option<(&str, bool)>) {
        let row = OutboxRow {
            id: 1,
            event_id: Uuid::nil(),
            topic: Arc::from("orders"),
            key: None,
            payload: None,
            payload_bytes: None,
            headers: headers.map(Box::from),
            partition: None,
            created_us: 0,
            deliver_after_us: None,
            expires_us: None,
        };
        let found = of(&row).map(|context| (context.trace_id().to_string(), context.is_sampled()));
        assert_eq!(found, expected.map(|(trace, sampled)| (trace.to_owned(), sampled)), "{headers:?}");
    }

    #[test]
    fn a_context_is_found_where_it_is_one() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let header =
            |value: &str| format!(r#"{{"a": "traceparent", "traceparent": {value}, "tracestate": "x=y"}}"#);
        let parent = |flags: &str| header(&format!(r#""00-{TRACE}-b7ad6b7169203331-{flags}""#));
        check(None, None);
        check(Some("{}"), None);
        check(Some(r#"{"a": "traceparent"}"#), None);
        check(Some(&parent("01")), Some((TRACE, true)));
        check(Some(&parent("00")), Some((TRACE, false)));
        check(Some(&header("null")), None);
        check(Some(&header(r#""nonsense""#)), None);
        check(Some(&header(r#""00-00000000000000000000000000000000-b7ad6b7169203331-01""#)), None);
        check(Some(&header(&format!(r#"["00-{TRACE}-b7ad6b7169203331-01", "x"]"#))), Some((TRACE, true)));
        check(Some("no json traceparent"), None);
    }
}
