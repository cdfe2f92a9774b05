//! What a person gets wrong is said in a line that tells what to do, and nothing else happens.

use std::process::{Command, Output};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::{DEADLINE, Env, blocking};

/// Runs the binary to its end, with this environment alone.
async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Output, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    let directory = tempfile::tempdir().expect("a directory without a configuration file");
    command.current_dir(directory.path());
    let output = blocking(move || command.output()).await;
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    (output, text)
}

/// Ends with exit code 2, and every part is in a line of its own.
#[track_caller]
fn is_refused((output, text): &(Output, String), parts: &[&str]) {
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(output.stdout.is_empty(), "stdout is for data");
    let problems: Vec<&str> =
        text.lines().filter(|line| parts.iter().any(|part| line.contains(part))).collect();
    for part in parts {
        assert!(problems.iter().any(|line| line.contains(part)), "{part} is missing in\n{text}");
    }
    assert_eq!(problems.len(), parts.len(), "one line a problem:\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_a_configuration_comes_at_once_and_nothing_is_connected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address").to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("relay.toml");
    let text = "colour = 'red'\n[relay]\npage_row = 5\npoll_min = '5 parsecs'\nwindow_rows = 0\n[kafka.properties]\n\
                acks = '1'\n'enable.idempotence' = 'false'\n'sasl.password' = 'hunter2'\n[retry]\nbase = '10m'\n";
    std::fs::write(&file, text).expect("write");
    let refused = run(
        &["run", "--config", &file.display().to_string()],
        &[
            ("DATABASE_URL", &format!("postgres://relay:hunter2@{address}/shop")),
            ("KAFKA_BROKERS", &address),
            ("OUTBOX_RELAY__LEASE__TTLL", "5s"),
            ("OUTBOX_RELAY__LOG__LEVEL", "loud"),
            ("OUTBOX_RELAY__HTTP__LISTEN", &address),
        ],
    )
    .await;
    is_refused(
        &refused,
        &[
            "unknown key colour",
            "unknown key relay.page_row; did you mean relay.page_rows?",
            "unknown variable OUTBOX_RELAY__LEASE__TTLL; did you mean OUTBOX_RELAY__LEASE__TTL?",
            "relay.poll_min = \"5 parsecs\"",
            "relay.window_rows = \"0\"",
            "log.level = \"loud\"",
            "retry.base must not be above retry.max",
            "kafka.properties.acks: would break a promise (nothing committed is lost",
            "kafka.properties.enable.idempotence: would break a promise",
        ],
    );
    assert!(!refused.1.contains("hunter2"), "no secret is shown:\n{}", refused.1);
    let accepted = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(accepted.is_err(), "nobody has connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_the_way_to_set_it() {
    let refused = run(&["run"], &[]).await;
    is_refused(
        &refused,
        &["postgres.url is missing: set DATABASE_URL", "kafka.brokers is missing: set KAFKA_BROKERS"],
    );

    let secret = "postgres://relay:hunter2@db:port/shop";
    let refused = run(&["run"], &[("DATABASE_URL", secret), ("KAFKA_BROKERS", "k1:9092")]).await;
    is_refused(&refused, &["postgres.url"]);
    assert!(!refused.1.contains("hunter2"), "{}", refused.1);

    let refused = run(&["run", "--config", "nowhere.toml"], &[]).await;
    is_refused(&refused, &["nowhere.toml"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_break_a_promise_are_refused_unless_they_are_named_unsafe() {
    let base = [("DATABASE_URL", "postgres://relay@db/shop"), ("KAFKA_BROKERS", "k1:9092")];
    for (property, value) in [
        ("acks", "1"),
        ("enable.idempotence", "false"),
        ("enable.gapless.guarantee", "false"),
        ("message.timeout.ms", "1000"),
        ("retries", "1"),
        ("partitioner", "consistent"),
        ("allow.auto.create.topics", "true"),
        ("max.in.flight", "1"),
    ] {
        let value = format!("{property}={value}");
        let set = [&base[..], &[("OUTBOX_RELAY__KAFKA__PROPERTIES", &*value)]].concat();
        let refused = run(&["config", "validate"], &set).await;
        is_refused(&refused, &[&format!("kafka.properties.{property}: would break a promise")]);
        let allowed = [&set[..], &[("OUTBOX_RELAY__KAFKA__UNSAFE", property)]].concat();
        let (output, text) = run(&["config", "validate"], &allowed).await;
        assert!(output.status.success(), "{property}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn help_tells_a_newcomer_what_it_is_and_what_to_set() {
    let essentials = [
        (
            &["--help"][..],
            &[
                "Publishes the rows of a Postgres outbox table to Kafka",
                "DATABASE_URL",
                "KAFKA_BROKERS",
                "demo",
                "migrate",
                "Exit codes",
            ][..],
        ),
        (&["run", "--help"], &["Relay committed rows to Kafka", "SIGTERM", "--config"]),
        (&["migrate", "--help"], &["schema `outbox`", "--dry-run", "--rebase"]),
        (&["demo", "--help"], &["audit", "--kafka-jars"]),
    ];
    for (arguments, parts) in essentials {
        let (output, text) = run(arguments, &[]).await;
        assert_eq!((output.status.code(), text.as_str()), (Some(0), ""), "{arguments:?}");
        let help = String::from_utf8(output.stdout).expect("UTF-8");
        for part in parts {
            assert!(help.contains(part), "{part} is missing in\n{help}");
        }
    }
    let (output, text) = run(&["sprint"], &[]).await;
    assert_eq!(output.status.code(), Some(2), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_kafka_credentials_are_said_in_one_line_and_tried_again() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    env.execute(&format!("insert into outbox.message (topic) values ('{topic}')")).await;
    let relay = env.restricted_relay().await.property("sasl.password", "hunter2").start().await;

    let line = relay.wait_for_log("cannot lead yet, trying again").await;
    let error = line.field("error").and_then(serde_json::Value::as_str).expect("it says why").to_owned();
    assert!(error.contains("waiting for kafka") && error.contains("Invalid username or password"), "{error}");
    assert!(error.ends_with("check sasl.*, ssl.* and security.protocol in [kafka.properties]"), "{error}");
    let (status, body) = relay.get("/readyz").await.expect("it answers");
    assert_eq!(status, 503, "{body}");
    assert_eq!(relay.get("/livez").await.map(|(status, _)| status), Some(200));
    // It goes on trying: librdkafka's lines are bounded, ours comes every ten seconds.
    let again = async || relay.logged("cannot lead yet, trying again") >= 2;
    crate::support::eventually(DEADLINE, "it is said again", again).await;
    let log = relay.log();
    assert!(log.len() <= 20, "{} lines", log.len());
    assert!(!log.iter().any(|line| line.text.contains("hunter2")), "no secret is shown");
    assert_eq!(relay.exited(), None);
    assert_eq!(env.read_topic(&topic).await, []);
}
