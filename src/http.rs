//! Serves `/metrics`, `/livez`, `/readyz`, `/startupz` and the status page from a thread and runtime of its own, so that a probe is
//! answered while the relay's workers are busy. It only reads: nothing here changes what the relay does, or asks a server.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::board::{self, Board};
use crate::health::{Health, Report};
use crate::metrics::Metrics;
use crate::{crash_point, task};

const INDEX: &str = "outbox-relay: / (status page), /api/status (the same as JSON), /metrics (Prometheus), \
     /livez (loops are trying), /readyz (dependencies are reached), /startupz (loops have started)\n";

/// The running server. It ends when this is dropped.
pub struct HttpServer {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    board: Arc<Board>,
}

/// Binds the address, so that a port that is taken is an error at start, and serves from now on.
pub fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    board: Arc<Board>,
) -> io::Result<HttpServer> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let router = router(Shared { metrics, health, board });
    let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        let ends = crash_point::ends("http");
        let server = async move {
            tokio::select! {
                served = async { if ends { Ok(()) } else { axum::serve(listener, router).await } } => {
                    let reason = served.err().map_or_else(|| task::ENDED.to_owned(), |error| error.to_string());
                    task::ended("http", &reason);
                }
                () = stopped => {}
            }
        };
        runtime.block_on(server);
    })?;
    tracing::info!(%address, "listening");
    Ok(HttpServer { address, stop, thread: Some(thread) })
}

impl HttpServer {
    /// The address that was bound, with the port that the system chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("http thread panicked");
        }
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/api/status", get(status))
        .route("/metrics", get(metrics))
        .route("/livez", get(async |State(shared): State<Shared>| answer(shared.health.live())))
        .route("/startupz", get(async |State(shared): State<Shared>| answer(shared.health.started())))
        .route("/readyz", get(async |State(shared): State<Shared>| answer(shared.health.ready())))
        .fallback(async || (StatusCode::NOT_FOUND, INDEX))
        .with_state(shared)
}

async fn status_page(State(shared): State<Shared>) -> Response {
    let facts = shared.board.look().await;
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; frame-ancestors 'none'",
        board::style_digest()
    );
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ];
    (head, board::page(&facts)).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    let text = serde_json::to_string(&shared.board.look().await).expect("the facts are JSON");
    let head = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (head, text).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    crash_point::work("http");
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, shared.metrics.gather_text()).into_response()
}

fn answer(report: Report) -> Response {
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, report.text).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::health::{Condition, Loop};

    /// Status line and body of a GET.
    fn get(server: &HttpServer, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(server.address()).expect("the server listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().expect("a status line").to_owned(), body.to_owned())
    }

    #[track_caller]
    fn check(server: &HttpServer, path: &str, status: &str, part: &str) {
        let (head, body) = get(server, path);
        assert!(head.contains(status), "{path}: {head}");
        assert!(body.contains(part), "{path}: {body}");
    }

    #[test]
    fn probes_and_metrics_are_served_until_the_end() {
        let health = Arc::new(Health::default());
        let listen = "127.0.0.1:0".parse().expect("an address");
        let metrics = Arc::new(Metrics::new());
        let board = Arc::new(Board::new("host/1".to_owned(), Arc::clone(&metrics)));
        let serve = |listen| serve(listen, Arc::clone(&metrics), Arc::clone(&health), Arc::clone(&board));
        let server = serve(listen).expect("a free port");
        let _read = health.running(Loop::Read);
        check(&server, "/livez", "200 OK", "read: ok");
        check(&server, "/readyz", "503 Service Unavailable", "postgres: not reached yet");
        health.reached(Condition::Postgres);
        health.reached(Condition::Kafka);
        check(&server, "/readyz", "200 OK", "kafka: ok");
        check(&server, "/startupz", "503 Service Unavailable", "loops: not started yet");
        let _loops = (health.running(Loop::Follow), health.running(Loop::Sample));
        check(&server, "/startupz", "200 OK", "loops: ok");
        check(&server, "/metrics", "200 OK", "outbox_leader 0");
        check(&server, "/", "200 OK", "host/1");
        check(&server, "/api/status", "200 OK", r#""relay":"host/1","leads":false"#);
        check(&server, "/nowhere", "404 Not Found", "/livez");

        let taken = serve(server.address()).err().expect("the port is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let address = server.address();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
