//! Nothing private gets out: at the most talkative log level, and while everything goes wrong that can, no payload, key, header value,
//! password or connection string is in a log, a span, a metric, a probe's answer or an error that is kept.

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::support::lines::write_many;
use crate::support::{Collector, Env, Relay, RelayBuilder, attribute};

/// Each stands for something that nobody but its owner may see.
const PAYLOAD: &str = "canary-payload";
const KEY: &str = "canary-key";
const HEADER: &str = "canary-header";
const PASSWORD: &str = "canary-password";
const SECRETS: [&str; 4] = [PAYLOAD, KEY, HEADER, PASSWORD];

fn talkative(relay: RelayBuilder, collector: &Collector) -> RelayBuilder {
    relay
        .set("trace.endpoint", collector.endpoint())
        // The libraries too, which stay at warnings unless they are named.
        .set("log.level", "trace,librdkafka=trace,rdkafka=trace,sqlx=trace,hyper=trace,hyper_util=trace,axum=trace,rustls=trace")
        .set("retry.base", "20ms")
        .set("retry.max", "50ms")
        .set("retry.attempts", 2)
        .set("lease.ttl", "1s")
        .property("sasl.password", PASSWORD)
        .property("debug", "all")
        .expect_errors()
}

#[track_caller]
fn keeps_quiet(what: &str, text: &str, also: &[&str]) {
    assert!(!text.is_empty(), "{what} says nothing at all");
    for secret in SECRETS.iter().chain(also) {
        if let Some(at) = text.find(secret) {
            let around: String =
                text[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{what} shows {secret}: …{around}{secret}…");
        }
    }
}

async fn everything_goes_wrong(env: &Env) {
    let good = env.create_topic("good", 1, &[]).await;
    let narrow = env.create_topic("narrow", 1, &[("max.message.bytes", "2000")]).await;
    let missing = env.topic("missing");
    let once = env.topic("once");
    // What goes, what dies, what stands, what is dropped, what expires, what waits behind another.
    for (topic, payload, more) in [
        (&good, format!("'{PAYLOAD}'"), ""),
        (&narrow, format!("repeat('{PAYLOAD}', 500)"), ""),
        (&narrow, format!("'{PAYLOAD}'"), ""),
        (&missing, format!("'{PAYLOAD}'"), ""),
        (&once, format!("'{PAYLOAD}'"), ""),
        (&good, format!("'{PAYLOAD}'"), ", expires_at => now() - interval '1 day'"),
        (&good, format!("'{PAYLOAD}'"), ", partition => 7"),
    ] {
        let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = format!(
            r#"'{{"trace": "{HEADER}", "traceparent": "{context}", "tracestate": "vendor={HEADER}"}}'"#
        );
        let insert =
            format!("select outbox.publish('{topic}', '{KEY}', {payload}, headers => {headers}{more})");
        sqlx::query(&insert).execute(env.app()).await.unwrap_or_else(|error| panic!("{insert}: {error}"));
    }
    env.eventually_true("select count(*) >= 2 from outbox.dead_letter").await;
    env.expect_lane(&missing, "missing").await;
    env.expect_records(&good, 1).await;
    env.execute(&format!(
        "insert into outbox.request (kind, topic, value) values ('retry_now', '{missing}', '{{\"key\": \"{KEY}\"}}'), \
                                                               ('skip_head', '{missing}', '{{\"key\": \"{KEY}\"}}')"
    ))
    .await;
    env.eventually_true("select count(*) = 0 from outbox.request where state = 'asked'").await;
    // A session that loses its server says why.
    env.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
    write_many(env, &good, 1, 0, 3).await;
    env.expect_records(&good, 4).await;
}

async fn look_everywhere(env: &Env, relay: &Relay, collector: &Collector, also: &[&str]) {
    let log: String = relay.log().into_iter().map(|line| line.text + "\n").collect();
    assert!(log.contains("TRACE"), "the log is not at its most talkative");
    keeps_quiet("the log", &log, also);
    // What goes as usual, and what is told on its own.
    let is_alone = |span: &Span| attribute(&span.attributes, "error.type").is_some();
    collector.expect(1, is_alone).await;
    collector.expect(1, |span| !is_alone(span)).await;
    keeps_quiet("the spans", &collector.text(), also);
    for path in ["/metrics", "/livez", "/readyz", "/startupz", "/", "/api/status"] {
        let (_, text) = relay.get(path).await.expect("it is served");
        keeps_quiet(path, &text, also);
    }
    for kept in [
        "select string_agg(error, ' ') from outbox.attempt",
        "select string_agg(error, ' ') from outbox.dead_letter",
    ] {
        let text: Option<String> = env.one(kept).await;
        keeps_quiet(kept, &text.unwrap_or_else(|| "nothing".to_owned()), also);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_gets_out_whatever_goes_wrong() {
    let env = Env::new().await;
    let once = env.topic("once");
    let url = env.relay_url().replace("relay_login@", &format!("relay_login:{PASSWORD}@"));
    assert!(url.contains(PASSWORD), "{url}");
    let collector = Collector::start().await;
    let relay = talkative(env.relay().await, &collector).topic(&once, "delivery = 'at_most_once'");
    let relay = relay.set("postgres.url", &url).start().await;
    everything_goes_wrong(&env).await;
    // Behind a pooler nobody may have noticed.
    relay.wait_for_log("postgres failed, trying again").await;
    look_everywhere(&env, &relay, &collector, &[&url, "postgres://"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_gets_out_through_a_pooler() {
    // There every value is written into its statement.
    let env = Env::builder().pooler().start().await;
    let once = env.topic("once");
    let collector = Collector::start().await;
    let relay = talkative(env.relay().await, &collector).set("trace.mode", "child");
    let relay = relay.topic(&once, "delivery = 'at_most_once'").start().await;
    everything_goes_wrong(&env).await;
    look_everywhere(&env, &relay, &collector, &["postgres://"]).await;
}
