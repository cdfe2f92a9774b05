//! What a person gets wrong is said in a line that tells what to do, and nothing else happens.

use std::process::{Command, Output};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::{DEADLINE, Env, blocking, eventually};

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
        let refused = run(&["config", "validate", "--no-connect"], &set).await;
        is_refused(&refused, &[&format!("kafka.properties.{property}: would break a promise")]);
        let allowed = [&set[..], &[("OUTBOX_RELAY__KAFKA__UNSAFE", property)]].concat();
        let (output, text) = run(&["config", "validate", "--no-connect"], &allowed).await;
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

/// Rows with absurd values, all in one transaction per row: refused by the insert, or dead with a reason that a person understands.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_rows_are_refused_or_die_with_a_reason_and_memory_stays_bounded() {
    let env = Env::new().await;
    let topic = env.create_topic("absurd", 2, &[]).await;
    let relay = env
        .relay()
        .await
        .set("retry.attempts", 2)
        .set("retry.base", "20ms")
        .set("retry.max", "50ms")
        .expect_errors();
    let relay = relay.start().await;
    relay.wait_for_log("leading").await;
    let insert = async |columns: &str, values: &str| {
        let sql = format!("insert into outbox.message ({columns}) values ({values}) returning id");
        sqlx::query_scalar::<_, i64>(&sql).fetch_one(env.app()).await.map_err(|error| error.to_string())
    };
    let refused = |answer: Result<i64, String>, reason: &str| {
        let error = answer.expect_err(reason);
        assert!(error.contains(reason), "{error}");
    };
    refused(insert("topic", "''").await, "the topic is empty");
    refused(
        insert("topic, headers", &format!("'{topic}', '{{\"n\": 5}}'")).await,
        "header 'n' is a JSON number",
    );
    let long = format!("'{topic}', convert_to(repeat('k', 1048576), 'UTF8')");
    refused(insert("topic, key", &long).await, "the key has 1048576 bytes, 2000 are allowed");
    refused(
        insert("topic, deliver_after", &format!("'{topic}', 'infinity'")).await,
        "deliver_after is infinite",
    );

    let fate = async |id: i64| {
        let sql = "select coalesce((select reason_class || ': ' || error from outbox.dead_letter where id = $1), \
                                   (select state from outbox.status where id = $1))";
        sqlx::query_scalar::<_, Option<String>>(sql)
            .bind(id)
            .fetch_one(env.admin())
            .await
            .expect("select")
            .unwrap_or_default()
    };
    let comes_to = async |id: i64, wanted: &str| {
        eventually(DEADLINE, wanted, async || fate(id).await.contains(wanted)).await;
    };
    // 64 MiB never leave the database.
    let huge =
        insert("topic, payload", &format!("'{topic}', convert_to(repeat(md5('x'), 2097152), 'UTF8')")).await;
    comes_to(
        huge.expect("Postgres takes it"),
        "too_large: payload of 67108864 bytes is above relay.max_row_bytes",
    )
    .await;
    let headers = format!(
        "'{topic}', (select jsonb_object_agg('h' || n, repeat('v', 10)) from generate_series(1, 10000) n)"
    );
    comes_to(insert("topic, headers", &headers).await.expect("Postgres takes it"), "published").await;
    let partition = insert("topic, partition", &format!("'{topic}', 7")).await.expect("Postgres takes it");
    comes_to(partition, "refused: partition 7 does not exist, the topic has 2").await;
    let far = insert("topic, deliver_after", &format!("'{topic}', '9999-12-31'")).await.expect("taken");
    comes_to(far, "scheduled").await;
    let sane = insert("topic, key", &format!("'{topic}', 'k'")).await.expect("taken");
    comes_to(sane, "published").await;
    let resident = relay.metrics().await.value("process_resident_memory_bytes", &[]);
    assert!(resident < 300e6, "{resident} bytes: a debug build with all its producers needs about 100 MB");
}
