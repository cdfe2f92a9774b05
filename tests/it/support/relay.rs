//! A relay process under test: the real binary, its log, its HTTP endpoint, signals.

use std::io::{BufRead, BufReader};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use outbox_relay::servers::process::{BoundCommand, Process, Signal};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::{DEADLINE, wait_for};

/// A relay that has not been started yet.
#[derive(Debug, Clone)]
pub struct RelayBuilder {
    variables: Vec<(String, String)>,
    properties: Vec<String>,
    arguments: Vec<String>,
    config: String,
    errors_expected: bool,
}

impl RelayBuilder {
    pub fn new(database_url: &str, brokers: &str) -> Self {
        let relay = Self {
            variables: Vec::new(),
            properties: Vec::new(),
            arguments: vec!["run".into()],
            config: String::new(),
            errors_expected: false,
        };
        relay
            .env("DATABASE_URL", database_url)
            .env("KAFKA_BROKERS", brokers)
            .set("http.listen", "127.0.0.1:0")
            .set("log.format", "json")
    }

    /// Sets a configuration key by its name in the file: `lease.ttl`.
    pub fn set(self, key: &str, value: impl ToString) -> Self {
        let name = format!("OUTBOX_RELAY__{}", key.to_uppercase().replace('.', "__"));
        self.env(name, value)
    }

    /// Adds a line to `[kafka.properties]`.
    pub fn property(mut self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string().replace('\\', r"\\").replace(';', r"\;");
        self.properties.push(format!("{name}={value}"));
        self
    }

    /// Sets an environment variable; the last one of a name counts.
    pub fn env(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.variables.push((name.into(), value.to_string()));
        self
    }

    /// Adds lines to the relay's configuration file.
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// Adds a `[[topic]]` section.
    pub fn topic(self, name: &str, lines: &str) -> Self {
        self.config(&format!("[[topic]]\nmatch = '{name}'\n{lines}"))
    }

    /// Gives other arguments than `run`.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    /// ERROR lines are part of what the test shows.
    pub fn expect_errors(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Starts the process; it need not be listening yet.
    pub async fn spawn(self) -> Relay {
        let start = move || {
            let config = tempfile::NamedTempFile::new()?;
            std::fs::write(config.path(), &self.config)?;
            let mut relay = BoundCommand::new(env!("CARGO_BIN_EXE_outbox-relay"), "KILL", None);
            // A configuration file that happens to lie in the working directory must not reach the test.
            let command = relay.command().args(&self.arguments).current_dir(std::env::temp_dir());
            command.envs(self.variables.iter().map(|(name, value)| (name, value)));
            if !self.properties.is_empty() {
                command.env("OUTBOX_RELAY__KAFKA__PROPERTIES", self.properties.join(";"));
            }
            if !self.config.is_empty() {
                command.arg("--config").arg(config.path());
            }
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            let process = relay.spawn()?;
            let log = Arc::new(Mutex::new(Vec::new()));
            let stderr = process.take_stderr().expect("standard error is piped");
            let lines = Arc::clone(&log);
            let reader = thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(LogLine::parse(line));
                }
            });
            let errors_expected = self.errors_expected;
            Ok::<_, std::io::Error>(Relay {
                _config: config,
                process,
                log,
                reader: Some(reader),
                errors_expected,
            })
        };
        super::blocking(start).await
    }

    /// Starts the process and waits until its HTTP endpoint is there.
    pub async fn start(self) -> Relay {
        let relay = self.spawn().await;
        relay.wait_for_log("listening").await;
        relay
    }
}

/// One line of a relay's log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// As the relay wrote it.
    pub text: String,
    /// When it arrived here, whatever the relay's own clock says.
    pub read_at: SystemTime,
    json: Option<Value>,
}

impl LogLine {
    fn parse(text: String) -> Self {
        let json = serde_json::from_str(&text).ok();
        Self { text, read_at: SystemTime::now(), json }
    }

    /// The constant part.
    pub fn message(&self) -> Option<&str> {
        self.field("message")?.as_str()
    }

    /// `INFO`, `WARN`, …
    pub fn level(&self) -> Option<&str> {
        self.json.as_ref()?.get("level")?.as_str()
    }

    /// A field of the event.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let json = self.json.as_ref()?;
        json.get("fields").and_then(|fields| fields.get(name)).or_else(|| json.get(name))
    }

    /// When the relay wrote it.
    #[track_caller]
    pub fn at(&self) -> SystemTime {
        let text = self.field("timestamp").and_then(Value::as_str).expect("a line of JSON has a timestamp");
        humantime::parse_rfc3339(text).expect("the timestamp is in RFC 3339")
    }

    /// An ERROR, or something that is no log line at all: a panic.
    fn is_error(&self) -> bool {
        self.json.is_none() || self.level() == Some("ERROR")
    }
}

/// A running or ended relay. Dropping it kills the process, and fails the test if the relay logged an error that the
/// test did not expect.
#[derive(Debug)]
pub struct Relay {
    _config: tempfile::NamedTempFile,
    process: Process,
    log: Arc<Mutex<Vec<LogLine>>>,
    reader: Option<JoinHandle<()>>,
    errors_expected: bool,
}

impl Relay {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// From here on ERROR lines are part of what the test shows.
    pub fn expect_errors(&mut self) {
        self.errors_expected = true;
    }

    /// What the relay has logged so far.
    pub fn log(&self) -> Vec<LogLine> {
        self.lines().clone()
    }

    /// Waits for the first line with exactly this message, also among those already there.
    #[track_caller]
    pub fn wait_for_log(&self, message: &str) -> impl Future<Output = LogLine> {
        self.wait_for_line(message, DEADLINE, move |line| line.message() == Some(message))
    }

    /// Waits for the first line that satisfies the condition, also among those already there.
    #[track_caller]
    pub fn wait_for_line(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&LogLine) -> bool,
    ) -> impl Future<Output = LogLine> {
        wait_for(within, what, async move || self.lines().iter().find(|line| wanted(line)).cloned())
    }

    /// How many lines have this message.
    pub fn logged(&self, message: &str) -> usize {
        self.lines().iter().filter(|line| line.message() == Some(message)).count()
    }

    /// The address of the HTTP endpoint. Panics while the relay has none.
    #[track_caller]
    pub fn address(&self) -> String {
        let lines = self.lines();
        let listening = lines.iter().find(|line| line.message() == Some("listening"));
        let address = listening.and_then(|line| line.field("address")?.as_str());
        address.expect("the relay has logged where it listens").to_owned()
    }

    /// Status and body of a GET, or None when the relay does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let address = self.address();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let exchange = async {
            let mut stream = TcpStream::connect(&address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await.ok()?.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// What /metrics says now. Panics when the relay does not answer.
    pub async fn metrics(&self) -> Metrics {
        let (status, text) = self.get("/metrics").await.expect("the relay answers");
        assert_eq!(status, 200, "{text}");
        Metrics { text }
    }

    /// SIGKILL, and waits until the process is gone.
    pub async fn kill(&self) {
        self.process.signal(Signal::KILL);
        self.wait_for_exit(DEADLINE).await;
    }

    /// SIGSTOP: the relay keeps its connections and does nothing.
    pub fn stop(&self) {
        assert!(self.process.signal(Signal::STOP), "the relay runs");
    }

    /// SIGCONT.
    pub fn cont(&self) {
        assert!(self.process.signal(Signal::CONT), "the relay runs");
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        assert!(self.process.signal(Signal::TERM), "the relay runs");
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn terminate(&self) -> impl Future<Output = ExitStatus> {
        self.ask_to_stop();
        self.wait_for_exit(DEADLINE)
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn wait_for_exit(&self, within: Duration) -> impl Future<Output = ExitStatus> {
        wait_for(within, "the relay's end", async || self.process.exited())
    }

    /// How the process ended, or None while it runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process.exited()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<LogLine>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill();
        // The pipe ends with the process; after this every line is in.
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
        let log = self.log();
        let unexpected = !self.errors_expected && log.iter().any(LogLine::is_error);
        if unexpected || thread::panicking() {
            const LINES: usize = 200;
            eprintln!("log of the relay with process id {}:", self.pid());
            log.iter().skip(log.len().saturating_sub(LINES)).for_each(|line| eprintln!("  {}", line.text));
        }
        assert!(!unexpected || thread::panicking(), "the relay logged an error that the test did not expect");
    }
}

/// A scrape of /metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub text: String,
}

impl Metrics {
    /// The sum over all series of this name whose labels include these. None when there is no such series.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let values = self.text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, found_labels) = series.split_once('{').unwrap_or((series, "}"));
            let has = |(label, value): &(&str, &str)| {
                let wanted = format!("{label}=\"{value}\"");
                found_labels.trim_end_matches('}').split(',').any(|pair| pair == wanted)
            };
            (found == name && labels.iter().all(has)).then(|| value.parse::<f64>().ok())?
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// As [`Self::get`], and panics when there is no such series.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no series {name} {labels:?} in\n{}", self.text))
    }
}

#[test]
fn series_are_found_by_name_and_labels() {
    let text =
        "# TYPE a counter\na{topic=\"x\",outcome=\"y\"} 2\na{topic=\"z\",outcome=\"y\"} 3\nab 7\n".to_owned();
    let metrics = Metrics { text };
    assert_eq!(metrics.get("a", &[("outcome", "y")]), Some(5.0));
    assert_eq!(metrics.get("a", &[("outcome", "y"), ("topic", "z")]), Some(3.0));
    assert_eq!(metrics.get("a", &[("topic", "none")]), None);
    assert_eq!(metrics.get("ab", &[]), Some(7.0));
}

#[test]
fn a_panic_counts_as_an_error() {
    let info = r#"{"timestamp":"t","level":"INFO","message":"listening","address":"127.0.0.1:1"}"#;
    let info = LogLine::parse(info.to_owned());
    assert_eq!((info.message(), info.is_error()), (Some("listening"), false));
    assert_eq!(info.field("address").and_then(Value::as_str), Some("127.0.0.1:1"));
    assert!(LogLine::parse("thread 'main' panicked at src/main.rs:1:1:".to_owned()).is_error());
}
