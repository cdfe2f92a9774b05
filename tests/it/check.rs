//! `outbox-relay check`: in each sabotaged environment exactly one line says what is wrong and what to do about it.
//!
//! [`Ground`] is a well environment, and the command on it; the sabotages are in the modules, by what is sabotaged.

mod config;
mod drift;
mod kafka;
mod lease;
mod postgres;
mod topics;

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{DEADLINE, Env};

/// An outbox with one row that waits for one topic, led by somebody, with nothing wrong but that there is one broker.
struct Ground {
    env: Env,
    topic: String,
}

impl Ground {
    async fn new() -> Ground {
        Ground::on(Env::new().await).await
    }

    async fn on(env: Env) -> Ground {
        let topic = env.create_topic("orders", 3, &[]).await;
        env.execute(&format!("select outbox.publish('{topic}', 'k', 'hello')")).await;
        let cluster = env.kafka().await.server.cluster_id().to_owned();
        // As a leader would have it whose beat lasts for two minutes.
        env.execute(&format!(
            "update outbox.lease set holder = gen_random_uuid(), holder_name = 'host/1', epoch = 1, since = now(),
                    system_identifier = (select system_identifier from pg_control_system()),
                    database_oid = (select oid from pg_database where datname = current_database()),
                    kafka_cluster_id = '{cluster}';
             update outbox.beat set at = clock_timestamp();
             insert into outbox.incarnation (token) values (gen_random_uuid())"
        ))
        .await;
        Ground { env, topic }
    }

    /// The command on it, as the relay's login.
    async fn check(&self) -> CheckRun {
        CheckRun::new()
            .env("DATABASE_URL", self.env.relay_url())
            .env("KAFKA_BROKERS", self.env.kafka().await.server.brokers())
            .set("lease.ttl", "2m")
    }

    /// As [`Self::check`], logged in to Kafka as the user to whom a topic can be forbidden, with this password.
    async fn restricted(&self, password: &str) -> CheckRun {
        use outbox_relay::servers::kafka::RELAY_USER;
        let properties = format!(
            "security.protocol=sasl_plaintext;sasl.mechanism=PLAIN;sasl.username={RELAY_USER};sasl.password={password}"
        );
        let brokers = self.env.kafka().await.server.restricted_brokers();
        self.check().await.env("KAFKA_BROKERS", brokers).set("kafka.properties", properties)
    }
}

/// The command, not yet run.
struct CheckRun {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    file: Option<String>,
}

impl CheckRun {
    fn new() -> CheckRun {
        let output = ["check", "--output", "json"].map(str::to_owned).to_vec();
        CheckRun { arguments: output, variables: Vec::new(), file: None }
    }

    fn env(mut self, name: &str, value: impl ToString) -> CheckRun {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets a configuration key.
    fn set(self, key: &str, value: impl ToString) -> CheckRun {
        self.env(&format!("OUTBOX_RELAY__{}", key.to_uppercase().replace('.', "__")), value)
    }

    /// Its configuration file.
    fn file(mut self, text: &str) -> CheckRun {
        self.file = Some(text.to_owned());
        self
    }

    fn argument(mut self, arguments: &[&str]) -> CheckRun {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn output(&self) -> Output {
        let mut command = self.command();
        let file = tempfile::NamedTempFile::new().expect("a file");
        if let Some(text) = &self.file {
            std::fs::write(file.path(), text).expect("write a file");
            command.arg("--config").arg(file.path());
        }
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        ended.unwrap_or_else(|_| panic!("{:?} does not end", self.arguments)).expect("it starts")
    }

    async fn found(&self) -> Found {
        let began = Instant::now();
        let output = self.output().await;
        let talk = String::from_utf8(output.stderr).expect("UTF-8");
        let data = String::from_utf8(output.stdout).expect("UTF-8");
        let report = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}{talk}"));
        Found { report, talk, code: output.status.code(), took: began.elapsed() }
    }

    /// Exactly this line fails, with these words in it or in its remedy, and every line that hangs on it says so.
    #[track_caller]
    fn fails(&self, line: &str, words: &[&str]) -> impl Future<Output = Found> {
        self.says("fail", line, words)
    }

    /// No line fails, and exactly this one warns.
    #[track_caller]
    fn warns(&self, line: &str, words: &[&str]) -> impl Future<Output = Found> {
        self.says("warn", line, words)
    }

    #[track_caller]
    fn says(&self, state: &str, line: &str, words: &[&str]) -> impl Future<Output = Found> {
        let caller = std::panic::Location::caller();
        async move {
            let found = self.found().await;
            let lines = found.lines();
            let bad = lines
                .iter()
                .filter(|bad| !bad.is_expected() && ["warn", "fail"].contains(&bad.state.as_str()));
            let bad: Vec<(&str, &str)> = bad.map(|bad| (bad.name.as_str(), bad.state.as_str())).collect();
            let said = lines.iter().find(|found| found.name == line);
            let said = said.unwrap_or_else(|| panic!("{caller}: there is no line {line}"));
            let strange: Vec<&Line> = lines.iter().filter(|line| line.state != "pass").collect();
            assert_eq!(bad, [(line, state)], "{caller}: {strange:#?}");
            for word in words {
                assert!(
                    format!("{} -> {}", said.found, said.remedy).contains(word),
                    "{caller}: {word:?}: {said:?}"
                );
            }
            assert!(!said.remedy.is_empty(), "{caller}: {said:?}");
            let code = if state == "fail" { 1 } else { 0 };
            assert!(
                found.code == Some(code) || line == "configuration settings",
                "{caller}: {:?}",
                found.code
            );
            found
        }
    }
}

/// What the command said.
struct Found {
    report: Value,
    talk: String,
    code: Option<i32>,
    took: Duration,
}

/// One of its lines.
#[derive(Debug)]
struct Line {
    /// Group and check.
    name: String,
    state: String,
    found: String,
    remedy: String,
}

impl Line {
    /// One broker has room for one replica.
    fn is_expected(&self) -> bool {
        self.name == "topics replication" && self.state == "warn"
    }
}

impl Found {
    fn lines(&self) -> Vec<Line> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let groups = self.report["groups"].as_array().expect("groups");
        let of = |group: &Value| {
            let name = text(&group["group"]);
            let checks = group["checks"].as_array().expect("checks").clone();
            checks.into_iter().map(move |check| Line {
                name: format!("{name} {}", text(&check["check"])),
                state: text(&check["state"]),
                found: text(&check["found"]),
                remedy: text(&check["remedy"]),
            })
        };
        groups.iter().flat_map(of).collect()
    }

    /// States of the lines of a group.
    fn states(&self, group: &str) -> Vec<String> {
        let lines = self.lines().into_iter();
        lines.filter(|line| line.name.starts_with(&format!("{group} "))).map(|line| line.state).collect()
    }

    #[track_caller]
    fn line(&self, name: &str) -> Line {
        self.lines().into_iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no line {name}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_wrong_nothing_fails() {
    let ground = Ground::new().await;
    let check = ground.check().await;
    let found = check.found().await;
    let strange: Vec<Line> =
        found.lines().into_iter().filter(|l| l.state != "pass" && !l.is_expected()).collect();
    // A relay's login may not see what other sessions do, and need not.
    let names: Vec<&str> = strange.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["postgres old transactions"], "{strange:#?}");
    assert_eq!((found.code, found.report["verdict"].as_str()), (Some(0), Some("warn")));
    assert_eq!(found.talk, "");
    assert!(ground.env.read_topic(&ground.topic).await.is_empty(), "it leaves no record");
    let waiting = ground.env.one::<i64>("select count(*) from outbox.message").await;
    assert_eq!((waiting, ground.env.one::<i64>("select count(*) from outbox.request").await), (1, 0));

    assert_eq!(check.argument(&["--strict"]).found().await.code, Some(1));
    let text = ground.check().await.argument(&["--output", "text"]);
    let text = CheckRun { arguments: vec!["check".to_owned()], ..text };
    let output = text.output().await;
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    for line in [
        "postgres\n  ✓ pass         reachable         127.0.0.1:",
        "  ✓ pass         rights            relay_login has those of outbox_relay\n",
        "  ! warn         replication       ",
        "0 failed, 1 warnings, ",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "no colours where no terminal is");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_until_nothing_fails_or_the_time_is_up() {
    let ground = Ground::new().await;
    let missing = ground.env.topic("late");
    ground.env.execute(&format!("select outbox.publish('{missing}', 'k', 'hello')")).await;
    let short = ground.check().await.argument(&["--wait", "6s", "--timeout", "6s"]);
    // The last look may be cut short; the first one says what it waits for.
    let found = short.found().await;
    assert_eq!(found.code, Some(1), "{}", found.talk);
    assert!(
        found.talk.contains(&format!("not yet: topics: there: {missing}: missing, and rows wait for it")),
        "{}",
        found.talk
    );
    assert!(found.took < DEADLINE, "{:?}", found.took);

    let patient = ground.check().await.argument(&["--wait", "25s"]);
    let mut running = patient.command().spawn().expect("it starts");
    let mut talk = BufReader::new(running.stderr.take().expect("it is piped")).lines();
    let first = tokio::time::timeout(DEADLINE, talk.next_line()).await.expect("it says why it waits");
    let first = first.expect("a line").unwrap_or_default();
    assert!(first.starts_with("not yet: topics: there: "), "{first}");
    assert_eq!(ground.env.create_topic("late", 1, &[]).await, missing);
    let ended = tokio::time::timeout(DEADLINE, running.wait_with_output()).await.expect("it ends");
    let output = ended.expect("it was started");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}
