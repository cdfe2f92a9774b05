//! `outbox-relay bench`: it measures, tells what it would do, and leaves nothing behind and others' messages alone.

use std::process::Output;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use crate::operate::{Said, command, says};
use crate::outputs::schema::{problems, schema};
use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env, eventually};

const SMALL: [&str; 7] = ["bench", "--from-rate", "100", "--per-transaction", "5", "--partitions", "3"];

/// The benchmark on this environment, with these arguments more.
async fn bench(env: &Env, login: &str, arguments: &[&str]) -> tokio::process::Command {
    // An option that is given twice is refused.
    let step: &[&str] = if arguments.contains(&"--step") { &[] } else { &["--step", "1s"] };
    let mut bench = command(env, login, &[&SMALL, step, arguments].concat());
    bench.env("KAFKA_BROKERS", env.kafka().await.server.brokers());
    bench
}

async fn run(env: &Env, login: &str, arguments: &[&str]) -> Said {
    let output = tokio::time::timeout(3 * DEADLINE, bench(env, login, arguments).await.output()).await;
    let output: Output = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("it starts");
    Said::of(output)
}

/// Topics of benchmarks that are there now. Other tests make some, too: only one's own say something.
async fn is_there(env: &Env, topic: &str) -> bool {
    let (brokers, topic) = (env.kafka().await.server.brokers(), topic.to_owned());
    let look = move || {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
        let metadata = client.fetch_metadata(None, Duration::from_secs(10)).expect("metadata");
        metadata.topics().iter().any(|known| known.name() == topic)
    };
    tokio::task::spawn_blocking(look).await.expect("it does not panic")
}

/// Nothing of it is left, in Postgres or in Kafka.
async fn leaves_nothing(env: &Env, topic: &str) {
    assert!(topic.starts_with("outbox-bench-"), "{topic}");
    let rows =
        "select count(*) from outbox.message where topic like 'outbox-bench-%' or headers ? 'outbox-bench'";
    assert_eq!(env.one::<i64>(rows).await, 0);
    eventually(DEADLINE, "its topic is gone", async || !is_there(env, topic).await).await;
}

fn text(document: &Value, name: &str) -> String {
    document[name].as_str().unwrap_or_else(|| panic!("{name} is no text: {document}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_measures_beside_a_relay_and_takes_everything_away() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 2, &[]).await;
    let relay = env.relay().await.start().await;
    let lines: Vec<Line<'_>> = (0..20).map(|version| Line::new(&topic, "k", version)).collect();
    write(&env, &lines).await;
    env.expect_records(&topic, 20).await;
    let said =
        run(&env, "postgres", &["--to-rate", "200", "--yes", "-o", "json", "--http", &relay.address()]).await;
    assert_eq!(said.code, 0, "{}", said.talk);
    let document = said.json();
    let found = problems(&schema("bench"), &document);
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(text(&document, "relay"), "running");
    let rows = document["rows"].as_i64().expect("a number");
    // A second of warming up and a step, at the least.
    assert!(rows >= 100 && document["deleted"] == rows && document["duplicates"] == 0, "{document}");
    let first = &document["steps"][0];
    assert_eq!(first["rate"], 100);
    for measured in ["written_rate", "delivered_rate", "p50_ms", "p999_ms", "reading_share"] {
        assert!(first[measured].as_f64().is_some_and(|value| value > 0.0), "{measured}: {document}");
    }
    assert!(first["relay_cpu"].is_number(), "in whole seconds, so maybe none: {document}");
    assert!(first["p50_ms"].as_f64() <= first["p999_ms"].as_f64(), "{document}");
    leaves_nothing(&env, &text(&document, "topic")).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.message").await, 20, "others' rows are untouched");
    assert_eq!(env.read_topic(&topic).await.len(), 20);
    // Receipts of rows that are gone, in a topic that is gone, are no loss.
    let mut compared = command(&env, "admin_login", &["reconcile", "--all"]);
    let compared = compared.env("KAFKA_BROKERS", env.kafka().await.server.brokers()).output().await;
    says(&Said::of(compared.expect("it starts")), 0, &["nothing is missing"]);
    // The relay goes on as if nothing had been.
    write(&env, &[Line::new(&topic, "k", 20)]).await;
    env.expect_records(&topic, 21).await;
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_it_starts_one_but_not_where_messages_wait() {
    let env = Env::new().await;
    let said = run(&env, "postgres", &["--to-rate", "100", "--yes"]).await;
    says(&said, 0, &["started for this", "duplicates", "are deleted again", "P99.9 MS"]);
    assert!(said.data.starts_with("RATE"), "{}", said.data);
    let holder = env.one::<bool>("select holder is null from outbox.lease").await;
    assert!(holder, "its relay has resigned");
    let topic = env.create_topic("waits", 1, &[]).await;
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    let said = run(&env, "postgres", &["--yes"]).await;
    says(&said, 1, &["no relay leads and 1 messages wait", "outbox-relay run"]);
    assert_eq!(env.one::<i64>("select count(*) from outbox.message").await, 1);
    assert!(env.read_topic(&topic).await.is_empty(), "nobody has published it");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_first_and_needs_the_right_to_clean_up() {
    let env = Env::new().await;
    let nothing = async || {
        assert_eq!(env.one::<i64>("select count(*) from outbox.message").await, 0);
        assert_eq!(env.one::<i64>("select epoch from outbox.lease").await, 0);
    };
    says(
        &run(&env, "postgres", &[]).await,
        1,
        &["this will create topic outbox-bench-", "nothing was changed", "--yes"],
    );
    says(&run(&env, "postgres", &["--dry-run"]).await, 0, &["would create topic", "nothing was changed"]);
    for login in ["relay_login", "admin_login"] {
        says(
            &run(&env, login, &["--yes"]).await,
            1,
            &["may not insert into outbox.message and delete from it"],
        );
    }
    says(
        &run(&env, "postgres", &["--yes", "--to-rate", "50"]).await,
        1,
        &["--from-rate 100 is above --to-rate 50"],
    );
    says(&run(&env, "postgres", &["--yes", "--step", "1ms"]).await, 2, &["is between 1s and 10m"]);
    nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_nothing_is_written() {
    let env = Env::new().await;
    let mut measured = command(&env, "postgres", &["bench", "--yes"]);
    let output = measured.env("KAFKA_BROKERS", "127.0.0.1:1").output().await.expect("it starts");
    says(&Said::of(output), 1, &["127.0.0.1:1"]);
    assert_eq!(env.one::<i64>("select count(*) from outbox.message").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_reports_what_it_has_and_takes_everything_away() {
    let env = Env::new().await;
    let relay = env.relay().await.start().await;
    env.eventually_true("select holder is not null from outbox.lease").await;
    let mut bench = bench(&env, "postgres", &["--step", "10m", "--yes", "-o", "json"]).await;
    let bench = bench.spawn().expect("it starts");
    env.eventually_true("select count(*) >= 200 from outbox.message").await;
    let pid = bench.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("it runs"), rustix::process::Signal::INT).expect("it runs");
    let ended = tokio::time::timeout(2 * DEADLINE, bench.wait_with_output()).await.expect("it ends");
    let said = Said::of(ended.expect("it ends"));
    assert_eq!(said.code, 1, "{}", said.talk);
    let document = said.json();
    assert!(document["interrupted"] == true && document["deleted"] == document["rows"], "{document}");
    leaves_nothing(&env, &text(&document, "topic")).await;
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_too_much_is_not_called_sustained() {
    let env = Env::new().await;
    // The relay takes no more than this, whatever the machine can do.
    let relay = env.relay().await.set("relay.rate", 300).start().await;
    env.eventually_true("select holder is not null from outbox.lease").await;
    let said =
        run(&env, "postgres", &["--to-rate", "3200", "--yes", "-o", "json", "--http", &relay.address()])
            .await;
    assert_eq!(said.code, 0, "{}", said.talk);
    let document = said.json();
    let steps = document["steps"].as_array().expect("a list");
    let too_much = steps.iter().find(|step| step["sustained"] == false);
    let too_much = too_much.unwrap_or_else(|| panic!("800 a second are too much: {document}"));
    assert!(too_much["rate"].as_i64().is_some_and(|rate| (200..=1600).contains(&rate)), "{document}");
    assert!(document["sustained_rate"].as_i64().is_some_and(|rate| rate < 1600), "{document}");
    assert!(document["limit"].is_string() && document["deleted"] == document["rows"], "{document}");
    leaves_nothing(&env, &text(&document, "topic")).await;
    assert!(relay.terminate().await.success());
}
