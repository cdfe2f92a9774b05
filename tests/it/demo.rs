//! The demo shows what it promises, says no when it does not hold, and leaves nothing behind.

use std::io::{BufRead, BufReader, Read};
use std::process::{ExitStatus, Output, Stdio};
use std::thread::{self, JoinHandle};

use outbox_relay::servers::process::{BoundCommand, Process, Signal};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::support::{DEADLINE, Env, Kafka, blocking, wait_for};

/// The demo's command line with these arguments and variables and none of our own.
fn demo(arguments: &[&str], variables: &[(&str, &str)]) -> BoundCommand {
    let mut demo = BoundCommand::new(env!("CARGO_BIN_EXE_outbox-relay"), "KILL", None);
    let command = demo.command().args(["demo", "--plain"]).args(arguments).current_dir(std::env::temp_dir());
    for name in ["DATABASE_URL", "KAFKA_BROKERS", "OUTBOX_RELAY_KAFKA_JARS"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    demo
}

async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String, String) {
    finished(demo(arguments, variables)).await
}

async fn finished(demo: BoundCommand) -> (ExitStatus, String, String) {
    let Output { status, stdout, stderr } = blocking(|| demo.output()).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status, text(stdout), text(stderr))
}

/// The value of a fact of the audit, without the remark behind it.
#[track_caller]
fn fact<'a>(audit: &'a str, name: &str) -> &'a str {
    let line = audit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("  "));
    let line = line.unwrap_or_else(|| panic!("{name} is missing in\n{audit}"));
    line.trim_start().split("   ").next().unwrap_or_default()
}

#[track_caller]
fn everything_held(status: ExitStatus, audit: &str, talk: &str) {
    assert!(status.success(), "{status}\n{audit}\n{talk}");
    let committed: u32 = fact(audit, "committed").parse().expect("a number");
    assert!(committed > 0 && fact(audit, "delivered") == fact(audit, "committed"), "{audit}");
    for (name, expected) in [
        ("lost", "0"),
        ("rolled back yet delivered", "0"),
        ("altered", "0"),
        ("order kept", "yes"),
        ("verdict", "every promise held"),
    ] {
        assert_eq!(fact(audit, name), expected, "{audit}");
    }
}

/// A demo on given servers, followed line by line.
struct Running {
    process: Process,
    audit: JoinHandle<String>,
    talk: JoinHandle<String>,
    database: String,
    topic: String,
}

impl Running {
    /// Starts it and waits until it has made its database and its topic.
    async fn start(env: &Env, arguments: &[&str], url: &str) -> Running {
        let brokers = env.kafka().await.server.brokers();
        let mut demo = demo(arguments, &[("DATABASE_URL", url), ("KAFKA_BROKERS", &brokers)]);
        demo.command().stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = blocking(|| demo.spawn()).await;
        let mut stdout = process.take_stdout().expect("piped");
        let audit = thread::spawn(move || {
            let mut audit = String::new();
            stdout.read_to_string(&mut audit).expect("UTF-8");
            audit
        });
        let mut lines = BufReader::new(process.take_stderr().expect("piped")).lines().map_while(Result::ok);
        let (names, lines) = blocking(move || {
            let names = lines.find_map(|line| {
                let (database, topic) =
                    line.strip_prefix("demo: made database ")?.split_once(" and topic ")?;
                Some((database.to_owned(), topic.split(';').next()?.to_owned()))
            });
            Ok::<_, std::convert::Infallible>((names, lines))
        })
        .await;
        let (database, topic) = names.expect("the demo says what it has made");
        let talk = thread::spawn(move || lines.fold(String::new(), |talk, line| format!("{talk}{line}\n")));
        Running { process, audit, talk, database, topic }
    }

    /// Waits for its end and returns what it said.
    async fn end(self) -> (ExitStatus, String, String) {
        let status = wait_for(3 * DEADLINE, "the demo's end", async || self.process.exited()).await;
        let words = move || Ok::<_, std::convert::Infallible>((self.audit.join(), self.talk.join()));
        let (audit, talk) = blocking(words).await;
        (status, audit.expect("read"), talk.expect("read"))
    }
}

/// The URL of a login that may create databases and nothing else.
async fn restricted_url(env: &Env, login: &str) -> String {
    env.execute(&format!("create role {login} login createdb")).await;
    env.url_as(login)
}

async fn names(env: &Env, sql: &str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(env.admin()).await.expect("a list of names")
}

/// A session of the superuser, closed and not yet ended, could not be sent away by the demo's login.
async fn nobody_of_ours_is_in(env: &Env, database: &str) {
    let gone = format!(
        "select count(*) = 0 from pg_stat_activity where datname = '{database}' and usename = 'postgres' \
            and backend_type = 'client backend'"
    );
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' \
        and backend_type = 'client backend' and datname = ";
    env.execute(&format!("{end} '{database}'")).await;
    env.eventually_true(&gone).await;
}

async fn has_topic(env: &Env, topic: &str) -> bool {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", env.kafka().await.server.brokers()).set("group.id", "tests");
    let topics = blocking(move || {
        let consumer: BaseConsumer = config.create()?;
        let metadata = consumer.fetch_metadata(None, DEADLINE)?;
        let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
        Ok::<Vec<String>, rdkafka::error::KafkaError>(names.collect())
    });
    topics.await.iter().any(|name| name == topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_server_it_uses_a_private_postgres_and_the_mock_cluster_and_says_so() {
    let (status, audit, talk) = run(&["--orders", "600"], &[]).await;
    everything_held(status, &audit, &talk);
    assert!(fact(&audit, "kafka").contains("mock cluster"), "{audit}");
    assert!(fact(&audit, "postgres").starts_with("a private PostgreSQL"), "{audit}");
    let takeover: f64 = fact(&audit, "takeover").trim_end_matches(" s").parse().expect("seconds");
    assert!(takeover < 10.0, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_a_real_kafka_from_jars_that_are_named_relative_to_where_one_stands() {
    let jars = Kafka::options().jars;
    let (parent, name) = (jars.parent().expect("a parent"), jars.file_name().expect("a name"));
    let mut demo = demo(&["--orders", "300"], &[]);
    demo.command().current_dir(parent).arg("--kafka-jars").arg(name);
    let (status, audit, talk) = finished(demo).await;
    everything_held(status, &audit, &talk);
    let files = std::fs::read_dir(&jars).expect("the jars").flatten().map(|file| file.file_name());
    let release = files.filter_map(|name| Some(name.to_str()?.strip_prefix("kafka_2.13-")?.to_owned()));
    let release = release.filter_map(|rest| Some(rest.strip_suffix(".jar")?.to_owned())).next();
    let named = format!("a private Apache Kafka {}", release.expect("a broker's jar names its release"));
    assert!(fact(&audit, "kafka").starts_with(&named), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_given_servers_it_leaves_nothing_behind() {
    const DATABASES: &str = "select datname::text from pg_database order by 1";
    const ROLES: &str = "select rolname::text from pg_roles order by 1";
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let before = (names(&env, DATABASES).await, names(&env, ROLES).await);

    let demo = Running::start(&env, &["--orders", "600"], &env.admin_url()).await;
    assert!(names(&env, DATABASES).await.contains(&demo.database));
    assert!(has_topic(&env, &demo.topic).await);
    let topic = demo.topic.clone();
    let (status, audit, talk) = demo.end().await;

    everything_held(status, &audit, &talk);
    assert_eq!((names(&env, DATABASES).await, names(&env, ROLES).await), before);
    assert!(!has_topic(&env, &topic).await);
    env.eventually_true("select to_regnamespace('outbox') is null").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_nobody_committed_is_found_and_makes_it_fail() {
    let env = Env::builder().unmigrated().start().await;
    let url = restricted_url(&env, "demo_of_a_phantom").await;
    let demo = Running::start(&env, &["--orders", "300"], &url).await;
    let topic = demo.topic.clone();

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", env.kafka().await.server.brokers());
    let producer: FutureProducer = config.create().expect("a producer");
    let id = uuid::Uuid::new_v4().to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "event-id", value: Some(&id) });
    let record = FutureRecord::to(&topic).key("customer-001").payload("{}").headers(headers);
    producer.send(record, DEADLINE).await.expect("the broker confirms");

    let (status, audit, talk) = demo.end().await;
    assert_eq!(status.code(), Some(1), "{audit}\n{talk}");
    assert_eq!(fact(&audit, "rolled back yet delivered"), "1", "{audit}");
    assert_eq!(fact(&audit, "lost"), "0", "{audit}");
    assert_eq!(fact(&audit, "verdict"), "A PROMISE WAS BROKEN", "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_audits_what_there_is_and_interrupted_twice_it_leaves_without_a_trace() {
    let env = Env::builder().unmigrated().start().await;
    let url = restricted_url(&env, "demo_interrupted").await;
    let database = |name: &str| format!("select datname::text from pg_database where datname = '{name}'");

    let demo = Running::start(&env, &["--seconds", "600"], &url).await;
    let name = demo.database.clone();
    // Orders have been committed: nothing else writes to this table.
    let orders = sqlx::PgPool::connect_lazy(&env.postgres.server.url(&name)).expect("a URL");
    wait_for(DEADLINE, "orders", async || {
        let count = sqlx::query_scalar::<_, i64>("select count(*) from orders").fetch_one(&orders).await;
        (count.unwrap_or(0) > 10).then_some(())
    })
    .await;
    orders.close().await;
    nobody_of_ours_is_in(&env, &name).await;
    assert!(demo.process.signal(Signal::INT));
    let (status, audit, talk) = demo.end().await;
    everything_held(status, &audit, &talk);
    assert_eq!(fact(&audit, "takeover"), "none", "{audit}");
    assert!(names(&env, &database(&name)).await.is_empty(), "{talk}");

    let demo = Running::start(&env, &["--seconds", "600"], &url).await;
    let name = demo.database.clone();
    assert!(demo.process.signal(Signal::HUP));
    let (status, audit, talk) = demo.end().await;
    assert_eq!((status.code(), audit.as_str()), (Some(1), ""), "{talk}");
    assert!(names(&env, &database(&name)).await.is_empty(), "{talk}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autovacuum_at_work_in_its_database_does_not_keep_it_there() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    env.execute("alter system set autovacuum_naptime = '1s'").await;
    env.execute("select pg_reload_conf()").await;
    let url = restricted_url(&env, "demo_vacuumed").await;
    let demo = Running::start(&env, &["--seconds", "600"], &url).await;

    // A table whose vacuum takes for ever.
    let inside = sqlx::PgPool::connect_lazy(&env.postgres.server.url(&demo.database)).expect("a URL");
    let table = "create table dead with (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)
        as select generate_series(1, 100000); delete from dead";
    sqlx::raw_sql(table).execute(&inside).await.expect("dead rows");
    inside.close().await;
    nobody_of_ours_is_in(&env, &demo.database).await;
    env.eventually_true("select count(*) > 0 from pg_stat_progress_vacuum where relid <> 0").await;

    let name = demo.database.clone();
    assert!(demo.process.signal(Signal::HUP));
    let (_, _, talk) = demo.end().await;
    let left = names(&env, &format!("select datname::text from pg_database where datname = '{name}'")).await;
    assert!(left.is_empty(), "{talk}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_together_with_what_installs_it() {
    let nowhere = [("OUTBOX_RELAY_POSTGRES_BIN", "/nowhere")];
    let (status, audit, talk) = run(&[], &nowhere).await;
    assert_eq!((status.code(), audit.as_str()), (Some(1), ""), "{talk}");
    assert!(talk.contains("a Postgres server in /nowhere"), "{talk}");
    assert!(talk.contains("make setup") && talk.contains("--database-url"), "{talk}");

    let (status, _, talk) = run(&["--kafka-jars", "/nowhere"], &[]).await;
    assert_eq!(status.code(), Some(1), "{talk}");
    assert!(talk.contains("jars in /nowhere") && talk.contains("make setup kafka"), "{talk}");

    let bad = [("DATABASE_URL", "mysql://shop")];
    let (status, _, talk) = run(&[], &bad).await;
    assert_eq!(status.code(), Some(2), "{talk}");
    assert!(talk.contains("postgres://"), "{talk}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_not_create_databases_is_told_so() {
    let env = Env::builder().unmigrated().start().await;
    env.execute("create role demo_without_rights login").await;
    let brokers = env.kafka().await.server.brokers();
    let url = env.url_as("demo_without_rights");
    let (status, _, talk) = run(&[], &[("DATABASE_URL", &url), ("KAFKA_BROKERS", &brokers)]).await;
    assert_eq!(status.code(), Some(1), "{talk}");
    assert!(talk.contains("this login may not create databases"), "{talk}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_that_does_not_answer_is_named_and_the_database_is_gone() {
    let env = Env::builder().own_postgres().unmigrated().start().await;
    let variables = [("DATABASE_URL", &*env.admin_url()), ("KAFKA_BROKERS", "127.0.0.1:1")];
    let (status, audit, talk) = run(&[], &variables).await;
    assert_eq!((status.code(), audit.as_str()), (Some(1), ""), "{talk}");
    assert!(talk.contains("use the Kafka at 127.0.0.1:1"), "{talk}");
    env.eventually_true("select count(*) = 0 from pg_database where datname like 'outbox_demo%'").await;
}
