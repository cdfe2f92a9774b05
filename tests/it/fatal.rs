//! Fatal errors of producers: the spare takes over in order, nothing is lost, and no row is charged.

use std::collections::HashSet;
use std::sync::Arc;

use crate::support::lines::{Line, assert_complete, expect_complete, write, write_many};
use crate::support::{DEADLINE, Env, Record, Relay, RelayBuilder, eventually};

/// A relay with a producer that dies of every n-th record it is given, so many times.
async fn mortal(env: &Env, producer: &str, every: usize, times: usize) -> RelayBuilder {
    let relay = env.relay().await.env("OUTBOX_RELAY_FATAL_AT", format!("{producer}:{every}:{times}"));
    // A row that is charged once is dead.
    relay.set("retry.base", "50ms").set("retry.max", "200ms").set("retry.attempts", 1).expect_errors()
}

async fn value(relay: &Relay, name: &str, labels: &[(&str, &str)]) -> f64 {
    relay.metrics().await.get(name, labels).unwrap_or(0.0)
}

/// Every row was published, and none has been charged for what its producer died of.
async fn nobody_was_charged(env: &Env) {
    env.eventually_true("select waiting = 0 from outbox.backlog where topic is null").await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let innocent = "select (select count(*) from outbox.dead_letter) = 0 \
                       and not exists (select from outbox.attempt where class not in ('fatal', 'suspect', 'other'))";
    assert!(env.one::<bool>(innocent).await, "a row was charged");
    assert!(env.one::<bool>("select bool_and(state = 'published') from outbox.status").await);
}

/// What came more than once is counted.
async fn copies_are_counted(relay: &Relay, topic: &str, records: &[Record], rows: usize) {
    let labels = [("topic", topic), ("cause", "producer_replaced")];
    let counted = value(relay, "outbox_redeliveries_total", &labels).await;
    let copies = records.len() - rows;
    assert!(copies as f64 <= counted, "{copies} copies, {counted} counted");
}

/// What the kernel has taken for a frozen server on its fullest connection. Java's sockets are those of IPv6.
fn unread_bytes(address: &str) -> u64 {
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("host:port");
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let queues = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_its = fields.get(1)?.ends_with(&format!(":{port:04X}"));
        let (_, received) = fields.get(4)?.split_once(':')?;
        is_its.then(|| u64::from_str_radix(received, 16).ok()).flatten()
    });
    queues.max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_costs_a_producer_and_nothing_else() {
    const VERSIONS: i64 = 300;
    let env = Env::new().await;
    let topic = env.create_topic("mortal", 3, &[]).await;
    let relay = mortal(&env, "main", 1300, 4).await.start().await;
    write_many(&env, &topic, 20, 0, 20 * VERSIONS).await;

    expect_complete(&env, &topic, 20, VERSIONS).await;
    nobody_was_charged(&env).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.attempt").await, 0, "attempts of innocents");
    let again = relay.wait_for_log("kafka producer replaced, innocent rows go out again").await;
    assert!(again.field("again").and_then(|n| n.as_u64()).is_some_and(|n| n > 0), "{again:?}");
    assert!(value(&relay, "outbox_producer_replaced_total", &[]).await >= 4.0);
    let counted = async || value(&relay, "outbox_kafka_errors_total", &[("class", "fatal")]).await >= 4.0;
    eventually(DEADLINE, "each end of a producer is counted", counted).await;
    copies_are_counted(&relay, &topic, &env.read_topic(&topic).await, 20 * VERSIONS as usize).await;
    assert_eq!(value(&relay, "outbox_circuit_open", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dying_producer_had_on_its_way_goes_out_again_in_order() {
    let env = Env::with_own_kafka().await;
    let topic = env.create_topic("mortal", 1, &[]).await;
    let relay = mortal(&env, "main", 600, 1).await.set("kafka.stall_after", "30s").start().await;
    write_many(&env, &topic, 10, 0, 100).await;
    env.expect_records(&topic, 100).await;

    // The broker takes requests and answers none: what is in flight may be written or not.
    let server = Arc::clone(&env.kafka().await.server);
    assert!(server.freeze());
    write_many(&env, &topic, 10, 10, 100).await;
    // More than a request for metadata. What librdkafka still holds would be known not to be written.
    let sent = async || unread_bytes(&server.brokers()) > 1500;
    eventually(DEADLINE, "a hundred rows are on their way to the broker", sent).await;
    write_many(&env, &topic, 10, 20, 900).await;
    let replaced = relay.wait_for_log("kafka producer replaced, innocent rows go out again").await;
    let possibly = replaced.field("possibly_written").and_then(|n| n.as_u64()).expect("a number");
    assert!(possibly > 0, "{replaced:?}");
    assert_eq!(value(&relay, "outbox_producer_replaced_total", &[]).await, 1.0);
    assert_eq!(value(&relay, "outbox_kafka_errors_total", &[("class", "fatal")]).await, 1.0);
    assert!(server.thaw());

    expect_complete(&env, &topic, 10, 110).await;
    nobody_was_charged(&env).await;
    copies_are_counted(&relay, &topic, &env.read_topic(&topic).await, 1100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_of_the_second_producer_puts_its_rows_off_and_charges_none() {
    const VERSIONS: i64 = 30;
    let env = Env::new().await;
    // Its limit is so low that its rows go alone.
    let topic = env.create_topic("narrow", 2, &[("max.message.bytes", "3000")]).await;
    let relay = mortal(&env, "second", 70, 4).await.start().await;
    let lines: Vec<Line<'_>> = (0..VERSIONS)
        .flat_map(|v| (0..20).map(move |k| (k, v)))
        .map(|(k, v)| Line::new(&topic, format!("k{k}"), v))
        .collect();
    write(&env, &lines).await;

    expect_complete(&env, &topic, 20, VERSIONS).await;
    nobody_was_charged(&env).await;
    let counted = async || value(&relay, "outbox_kafka_errors_total", &[("class", "fatal")]).await >= 4.0;
    eventually(DEADLINE, "each end of a producer is counted", counted).await;
    assert_eq!(value(&relay, "outbox_producer_replaced_total", &[]).await, 0.0, "main lives");
    relay.wait_for_log("second kafka producer replaced, what it had is put off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_of_the_third_producer_makes_no_copy_and_every_row_is_counted_once() {
    const ROWS: i64 = 2000;
    let env = Env::new().await;
    let (once, well) = (env.create_topic("once", 2, &[]).await, env.create_topic("well", 2, &[]).await);
    // Without idempotence librdkafka goes on after a fatal error and gives up only what it had queued; the relay does not.
    let relay = mortal(&env, "third", 350, 3).await.topic(&once, "delivery = 'at_most_once'");
    let relay = relay.set("relay.page_rows", 100).start().await;
    for version in 0..10 {
        write_many(&env, &once, 10, version * ROWS / 100, ROWS / 10).await;
        write_many(&env, &well, 10, version * ROWS / 100, ROWS / 10).await;
    }

    assert_complete(&env.expect_records(&well, ROWS as usize).await, 10, ROWS / 10);
    let decided = async || {
        let metrics = relay.metrics().await;
        let of = |outcome| {
            metrics.get("outbox_messages_total", &[("topic", &once), ("outcome", outcome)]).unwrap_or(0.0)
        };
        (of("delivered"), of("dropped"))
    };
    eventually(DEADLINE, "each row is counted as delivered or dropped", async || {
        let (delivered, dropped) = decided().await;
        delivered + dropped == ROWS as f64
    })
    .await;
    let (delivered, dropped) = decided().await;
    eprintln!("{delivered} delivered, {dropped} dropped");
    let records = env.read_topic(&once).await;
    let events: HashSet<_> = records.iter().map(Record::event_id).collect();
    assert_eq!(events.len(), records.len(), "a record came twice");
    assert!(records.len() as f64 >= delivered, "what is counted as delivered is there");
    let counted = async || value(&relay, "outbox_kafka_errors_total", &[("class", "fatal")]).await >= 1.0;
    eventually(DEADLINE, "the end of a producer is counted", counted).await;
    assert_eq!(value(&relay, "outbox_producer_replaced_total", &[]).await, 0.0, "main lives");
}
