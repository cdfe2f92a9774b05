//! `debug bundle`: what is in it, what must never be, and that it is written whatever is broken.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::operate::{Said, command, say, says};
use crate::support::Env;
use crate::support::lines::{Line, write};

const PASSWORD: &str = "geheim%40postgres";
const SASL: &str = "geheim-of-kafka";
const KEY: &str = "customer-4711";
const PAYLOAD: &str = "0000000700000007";

async fn bundle(env: &Env, login: &str, file: &Path, arguments: &[&str], brokers: &str) -> Said {
    let file = file.to_str().expect("UTF-8");
    let mut command = command(env, login, &[&["debug", "bundle", "--file", file], arguments].concat());
    let url = env.url_as(login).replace(&format!("{login}@"), &format!("{login}:{PASSWORD}@"));
    assert!(url.contains(PASSWORD), "{url}");
    command.env("DATABASE_URL", url).env("KAFKA_BROKERS", brokers);
    command.env("OUTBOX_RELAY__KAFKA__PROPERTIES", format!("sasl.password={SASL};sasl.username=relay"));
    Said::of(command.output().await.expect("it starts"))
}

/// The files of the archive by name.
fn unpacked(file: &Path) -> BTreeMap<String, String> {
    let file = std::fs::File::open(file).expect("it was written");
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("UTF-8");
        files.insert(path.strip_prefix("outbox-relay-bundle/").expect("one directory").to_owned(), text);
    }
    files
}

#[track_caller]
fn json(files: &BTreeMap<String, String>, name: &str) -> Value {
    let text = files.get(name).unwrap_or_else(|| panic!("{name} is missing: {:?}", files.keys()));
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"))
}

#[track_caller]
fn holds_nothing_private(files: &BTreeMap<String, String>) {
    for (name, text) in files {
        for private in [PASSWORD, "geheim@postgres", SASL, KEY, PAYLOAD, "MDAwMDAwMDc", "Y3VzdG9tZXItNDcxMQ"]
        {
            assert!(!text.contains(private), "{private} is in {name}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_helps_is_in_the_archive_and_nothing_private() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 3, &[("max.message.bytes", "2000")]).await;
    let dying = env.create_topic("dying", 1, &[("max.message.bytes", "2000")]).await;
    let relay = env.relay().await.set("retry.base", "1h").set("retry.max", "1h").expect_errors();
    let relay = relay.topic("*.dying", "attempts = 1").start().await;
    write(
        &env,
        &[
            Line::new(&topic, KEY, 7).of_bytes(5000),
            Line::new(&topic, KEY, 7),
            Line::new(&dying, KEY, 7).of_bytes(5000),
        ],
    )
    .await;
    env.eventually_true(
        "select (select count(*) = 1 from outbox.dead_letter) and (select count(*) = 2 from outbox.deferred)",
    )
    .await;
    says(&say(&env, &format!("keys release {topic} {KEY} --yes")).await, 0, &["in effect"]);
    says(&say(&env, "topics pause elsewhere --for 1h --yes").await, 0, &["in effect"]);
    env.expect_records(&topic, 1).await;

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("bundle.tar.gz");
    let brokers = env.kafka().await.server.brokers();
    let said = bundle(&env, "admin_login", &file, &["--http", &relay.address()], &brokers).await;
    says(&said, 0, &["without payloads, keys and secrets"]);
    assert!(!said.talk.contains("missing"), "{}", said.talk);
    let files = unpacked(&file);
    holds_nothing_private(&files);
    assert_eq!(json(&files, "status.json")["overview"]["dead_letters"], 1);
    assert_eq!(json(&files, "dlq-groups.json")[0]["letters"], 1);
    assert_eq!(json(&files, "in-effect.json")[0]["kind"], "pause");
    assert!(json(&files, "attempts.json").as_array().is_some_and(|attempts| attempts.len() >= 2));
    let requests = json(&files, "requests.json");
    assert!(
        requests.as_array().expect("a list").iter().any(|request| request["value"]["key"] == "***"),
        "{requests}"
    );
    assert_eq!(json(&files, "lease.json")["epoch"], 1);
    let schema = json(&files, "schema.json");
    assert_eq!(schema["migrations"][0]["version"], 1);
    assert!(
        schema["tables"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|table| table["name"] == "message" && table["bytes"].as_i64() > Some(0))
    );
    assert!(json(&files, "server.json")["settings"]["synchronous_commit"].is_string());
    assert_eq!(json(&files, "kafka.json")["topics"][&topic]["partitions"], 3);
    assert!(
        files["metrics.txt"].contains("outbox_backlog_messages") && files["readyz.txt"].contains("kafka: ok")
    );
    assert!(files["config.toml"].contains("***") && files["config.toml"].contains("sasl.username"));
    assert_eq!(json(&files, "api-status.json")["found"]["dead_letters"], 1);
    assert_eq!(json(&files, "bundle.json")["missing"].as_array().map(Vec::len), Some(0));
    assert_eq!(env.one::<i64>("select count(*) from outbox.request where kind = 'reveal'").await, 0);

    let again = bundle(&env, "admin_login", &file, &[], &brokers).await;
    says(&again, 1, &["is there already", "--file"]);
    let nowhere = bundle(&env, "admin_login", Path::new("/proc/nowhere/bundle.tar.gz"), &[], &brokers).await;
    says(&nowhere, 1, &["write into /proc/nowhere"]);
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("a directory").count(),
        1,
        "nothing half-done is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_named_and_the_rest_is_there() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let nobody = ["--http", "127.0.0.1:1"];
    // No schema, no Kafka, no relay.
    let file = directory.path().join("no-schema.tar.gz");
    let said = bundle(&env, "postgres", &file, &nobody, "127.0.0.1:1").await;
    says(
        &said,
        0,
        &["missing: schema.json", "missing: kafka.json", "missing: metrics.txt: connect to 127.0.0.1:1"],
    );
    let files = unpacked(&file);
    holds_nothing_private(&files);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["bundle.json", "config.toml", "server.json"]);
    assert!(json(&files, "bundle.json")["missing"].as_array().is_some_and(|missing| missing.len() >= 10));

    env.stop_postgres_fast().await;
    let file = directory.path().join("no-postgres.tar.gz");
    let said = bundle(&env, "postgres", &file, &nobody, "").await;
    says(
        &said,
        0,
        &[
            "missing: server.json: postgres is not reachable",
            "missing: kafka.json: no brokers are configured",
        ],
    );
    let files = unpacked(&file);
    holds_nothing_private(&files);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["bundle.json", "config.toml"]);
}
