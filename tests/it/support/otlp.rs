//! A collector of spans inside the test: OTLP over HTTP with protobuf, as a relay sends it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::wait::{DEADLINE, wait_for};

/// What has come, request by request.
type Received = Arc<Mutex<Vec<(ExportTraceServiceRequest, Bytes)>>>;

/// It listens until it is dropped.
pub struct Collector {
    endpoint: String,
    received: Received,
    _server: AbortOnDropHandle<()>,
}

impl Collector {
    pub async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let received = Received::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&received));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Collector { endpoint, received, _server: AbortOnDropHandle::new(server) }
    }

    /// For `trace.endpoint`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = received.iter().flat_map(|(request, _)| &request.resource_spans);
        resources.flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).cloned().collect()
    }

    /// What the senders say of themselves.
    pub fn resources(&self) -> Vec<Vec<KeyValue>> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = received.iter().flat_map(|(request, _)| &request.resource_spans);
        resources.filter_map(|of| Some(of.resource.as_ref()?.attributes.clone())).collect()
    }

    /// Every byte that came, as text.
    pub fn text(&self) -> String {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().map(|(_, body)| String::from_utf8_lossy(body)).collect()
    }

    /// Waits until so many spans are as they should be, and returns those.
    #[track_caller]
    pub fn expect(&self, count: usize, wanted: impl Fn(&Span) -> bool) -> impl Future<Output = Vec<Span>> {
        wait_for(DEADLINE, "the spans have come", async move || {
            let found: Vec<Span> = self.spans().into_iter().filter(|span| wanted(span)).collect();
            (found.len() >= count).then_some(found)
        })
    }
}

async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
    assert_eq!(kind, Some("application/x-protobuf"));
    let request = ExportTraceServiceRequest::decode(body.clone()).expect("an export request");
    received.lock().unwrap_or_else(PoisonError::into_inner).push((request, body));
    StatusCode::OK
}

/// An attribute's value as text.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    })
}

/// An id as `traceparent` has it.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
