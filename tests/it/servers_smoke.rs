//! The private servers start, stop, come back, and end with the process that started them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use outbox_relay::servers::kafka::RELAY_USER;
use outbox_relay::servers::{PostgresOptions, PrivatePostgres};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;

use crate::support::{DEADLINE, Env, Kafka, Postgres, eventually};

/// Set for the process that [`servers_die_with_the_process_that_started_them`] starts and kills.
const VICTIM: &str = "OUTBOX_RELAY_TEST_VICTIM";

async fn count(postgres: &Postgres) -> i64 {
    let pool = sqlx::PgPool::connect(&postgres.server.url("postgres")).await.expect("connect");
    let rows = sqlx::query_scalar("select count(*) from kept").fetch_one(&pool).await.expect("select");
    pool.close().await;
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_its_port_and_rows_over_fast_and_immediate_stops() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let port = env.postgres.server.port();
    env.postgres.execute("postgres", "create table kept as select 1").await;

    env.stop_postgres_fast().await;
    assert_eq!(env.postgres.server.pid(), None);
    env.start_postgres_again().await;
    assert_eq!(count(&env.postgres).await, 1);

    env.postgres.execute("postgres", "insert into kept values (2)").await;
    env.stop_postgres_immediate().await;
    env.start_postgres_again().await;
    assert_eq!(count(&env.postgres).await, 2);
    assert_eq!(env.postgres.server.port(), port);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_setting_shows_what_postgres_said() {
    let settings = vec![("max_connections".to_owned(), "none".to_owned())];
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let started = tokio::task::spawn_blocking(|| PrivatePostgres::start(options)).await.expect("no panic");
    let error = started.expect_err("Postgres refuses the setting").to_string();
    assert!(error.contains("invalid value for parameter \"max_connections\""), "{error}");
}

async fn send(
    config: &mut ClientConfig,
    topic: &str,
    key: Option<&str>,
    payload: Option<&str>,
) -> KafkaResult<()> {
    let producer: FutureProducer = config.create().expect("a producer");
    let headers = OwnedHeaders::new().insert(Header { key: "outbox-seq", value: Some("7") });
    let headers = headers.insert(Header { key: "empty", value: None::<&str> });
    let record =
        FutureRecord { topic, partition: None, payload, key, timestamp: Some(1_234), headers: Some(headers) };
    producer.send(record, DEADLINE).await.map(|_| ()).map_err(|(error, _)| error)
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_read_back_as_it_was_sent() {
    let env = Env::builder().unmigrated().start().await;
    let topic = env.create_topic("roundtrip", 3, &[]).await;
    assert_eq!(env.read_topic(&topic).await, []);

    let brokers = env.kafka().await.server.brokers();
    send(&mut client(&brokers), &topic, Some("k"), None).await.expect("the broker confirms");
    let records = env.expect_records(&topic, 1).await;
    let [record] = &records[..] else { panic!("one record was sent: {records:?}") };
    assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
    assert_eq!((record.payload.as_deref(), record.timestamp, record.seq()), (None, Some(1_234), 7));
    assert_eq!(record.headers[1], ("empty".to_owned(), None));

    env.alter_topic(&topic, &[("max.message.bytes", "200")]).await;
    env.delete_topic(&topic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_topic_is_seen_but_not_written() {
    let env = Env::builder().unmigrated().start().await;
    let topic = env.create_topic("forbidden", 1, &[]).await;
    let mut relay = client(&env.kafka().await.server.restricted_brokers());
    relay.set("security.protocol", "sasl_plaintext").set("sasl.mechanism", "PLAIN");
    relay.set("sasl.username", RELAY_USER).set("sasl.password", RELAY_USER);

    env.forbid_topic(&topic).await;
    let refused = send(&mut relay, &topic, None, Some("no")).await.expect_err("the broker refuses");
    assert_eq!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::TopicAuthorizationFailed));

    env.allow_topic(&topic).await;
    send(&mut relay, &topic, None, Some("yes")).await.expect("the broker confirms");
    assert_eq!(env.read_topic(&topic).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_its_port_and_records_over_stop_and_kill() {
    let env = Env::builder().own_kafka().unmigrated().start().await;
    let topic = env.create_topic("kept", 1, &[]).await;
    let brokers = env.kafka().await.server.brokers();
    for (sent, clean) in [(1, true), (2, false)] {
        send(&mut client(&brokers), &topic, None, Some("kept")).await.expect("the broker confirms");
        if clean {
            env.stop_kafka().await;
        } else {
            env.kill_kafka().await;
        }
        env.start_kafka_again().await;
        assert_eq!(env.expect_records(&topic, sent).await.len(), sent);
    }
    assert_eq!(env.kafka().await.server.brokers(), brokers);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_die_with_the_process_that_started_them() {
    let mut victim = Command::new(std::env::current_exe().expect("this test binary"));
    victim.args(["--exact", "servers_smoke::victim", "--nocapture"]).env(VICTIM, "yes");
    let mut victim = victim.stdout(Stdio::piped()).spawn().expect("start this test binary again");
    let output = BufReader::new(victim.stdout.take().expect("piped"));
    let line = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("servers:").map(str::to_owned));
    let line = line.expect("the victim says which servers it has started");
    let words: Vec<&str> = line.split_whitespace().collect();
    // Two process ids and two directories; an absolute path stays itself when joined.
    let paths: Vec<PathBuf> = words.iter().map(|word| Path::new("/proc").join(word)).collect();
    assert!(paths.iter().all(|path| path.exists()), "the servers run: {line}");

    victim.kill().expect("SIGKILL");
    victim.wait().expect("it was our child");
    let gone = async || !paths.iter().any(|path| path.exists());
    eventually(Duration::from_secs(15), "servers and their directories are gone", gone).await;
}

/// No test: the process that [`servers_die_with_the_process_that_started_them`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let (postgres, kafka) = tokio::join!(Postgres::shared(), Kafka::shared());
    let pids = [postgres.server.pid(), kafka.server.pid()].map(|pid| pid.expect("it runs"));
    let logs = [postgres.server.log(), kafka.server.log()];
    let directories =
        logs.iter().map(|log| log.parent().expect("a log lies in a directory").display().to_string());
    let directories = directories.collect::<Vec<_>>().join(" ");
    let line = format!("servers:{} {} {directories}\n", pids[0], pids[1]);
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("somebody reads");
    std::future::pending::<()>().await;
}
