//! A private Prometheus and Alertmanager with the committed rules and routes, and what they say.
//!
//! Owns both processes and their files. It must not know faults; it asks through the two HTTP interfaces only.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outbox_relay::servers::free_port;
use outbox_relay::servers::process::{BoundCommand, Process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wait_for;
use crate::{FACTOR, python, root};

/// Quick against the scaled ranges, the shortest of which are two seconds.
const SCRAPE: &str = "1s";

/// An alert that fires, without what tells relays apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    pub name: String,
    pub severity: String,
    pub topic: Option<String>,
}

impl Alert {
    fn of(labels: &Value) -> Alert {
        let text = |name: &str| labels.get(name).and_then(Value::as_str).map(str::to_owned);
        Alert {
            name: text("alertname").unwrap_or_default(),
            severity: text("severity").unwrap_or_default(),
            // Topics of a test have a prefix of their own.
            topic: text("topic").map(|topic| topic.rsplit('.').next().unwrap_or_default().to_owned()),
        }
    }

    pub fn is_page(&self) -> bool {
        self.severity == "page"
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.topic {
            Some(topic) => write!(f, "{} ({topic})", self.name),
            None => f.write_str(&self.name),
        }
    }
}

pub struct Prometheus {
    process: Process,
    alertmanager: Process,
    port: u16,
    alertmanager_port: u16,
    directory: tempfile::TempDir,
}

impl Prometheus {
    pub async fn start() -> Prometheus {
        let directory = tempfile::tempdir().expect("a directory");
        let at = directory.path();
        let (port, alertmanager_port) = (free_port().expect("a port"), free_port().expect("a port"));
        let rules = Command::new(python())
            .args([root().join("deploy/monitoring/scaled.py").as_os_str(), FACTOR.to_string().as_ref()])
            .output()
            .expect("python3 starts");
        assert!(rules.status.success(), "{}", String::from_utf8_lossy(&rules.stderr));
        std::fs::write(at.join("rules.yml"), rules.stdout).expect("written");
        let routes =
            std::fs::read_to_string(root().join("deploy/monitoring/alertmanager.yml")).expect("routes");
        // Nobody is to be paged for it.
        let routes =
            routes.replace("pager.example.org", "127.0.0.1:9").replace("tickets.example.org", "127.0.0.1:9");
        std::fs::write(at.join("alertmanager.yml"), routes).expect("written");
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [format!("127.0.0.1:{alertmanager_port}")]}]}]},
            "scrape_configs": [{"job_name": "drill/outbox-relay",
                                "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}],
        });
        std::fs::write(at.join("prometheus.yml"), config.to_string()).expect("written");
        let alertmanager = launch(
            at,
            "prometheus-alertmanager",
            &[
                "--config.file=alertmanager.yml".to_owned(),
                "--storage.path=alertmanager".to_owned(),
                format!("--web.listen-address=127.0.0.1:{alertmanager_port}"),
                "--cluster.listen-address=".to_owned(),
            ],
        );
        let process = launch(
            at,
            "prometheus",
            &[
                "--config.file=prometheus.yml".to_owned(),
                "--storage.tsdb.path=data".to_owned(),
                format!("--web.listen-address=127.0.0.1:{port}"),
                // Five minutes, by which a series without news is over, are a duration as well.
                format!("--query.lookback-delta={}s", 300 / FACTOR),
            ],
        );
        let started = Prometheus { process, alertmanager, port, alertmanager_port, directory };
        started.set_targets(&[]);
        for (port, path) in [(port, "/-/ready"), (alertmanager_port, "/-/ready")] {
            wait_for(Duration::from_secs(60), "Prometheus and Alertmanager are ready", async || {
                get(port, path).await
            })
            .await;
        }
        started
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whom to scrape: name and address. What is no longer there is scraped on and counts as down.
    pub fn set_targets(&self, targets: &[(&str, String)]) {
        let targets: Vec<Value> = targets
            .iter()
            .map(|(instance, address)| json!({"targets": [address], "labels": {"instance": instance}}))
            .collect();
        // Renamed, so that it is never read half-written.
        let (new, path) =
            (self.directory.path().join("targets.new"), self.directory.path().join("targets.json"));
        std::fs::write(&new, Value::Array(targets).to_string()).expect("written");
        std::fs::rename(new, path).expect("renamed");
    }

    /// What fires, whoever hears of it.
    pub async fn firing(&self) -> BTreeSet<Alert> {
        let Some(answer) = get(self.port, "/api/v1/alerts").await else { return BTreeSet::new() };
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts
            .iter()
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| Alert::of(&alert["labels"]))
            .collect()
    }

    /// What somebody is told: what has reached Alertmanager and is not held back by another alert.
    pub async fn told(&self) -> BTreeSet<Alert> {
        let path = "/api/v2/alerts?active=true&silenced=false&inhibited=false";
        let Some(answer) = get(self.alertmanager_port, path).await else { return BTreeSet::new() };
        answer.as_array().into_iter().flatten().map(|alert| Alert::of(&alert["labels"])).collect()
    }

    pub fn kill(&self) {
        self.process.kill();
        self.alertmanager.kill();
    }
}

fn launch(directory: &Path, program: &str, arguments: &[String]) -> Process {
    let mut command = BoundCommand::new(program, "KILL", None);
    let log = File::create(directory.join(format!("{program}.log"))).expect("a log");
    command
        .command()
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; make setup installs it"))
}

/// The JSON that a GET answers; null where the answer is none.
async fn get(port: u16, path: &str) -> Option<Value> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // 1.0: an answer in one piece.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1)?.starts_with('2').then(|| serde_json::from_str(body).unwrap_or(Value::Null))
}
