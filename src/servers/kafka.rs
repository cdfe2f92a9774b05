//! A private Apache Kafka broker from a directory of jars (`make kafka`), without ZooKeeper: one process is broker and
//! controller.
//!
//! Owns the broker's properties, its data directory, start and stop. It must not speak Kafka's protocol: topics and
//! records belong to whoever uses the broker.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::directory::ServerDirectory;
use super::process::{BoundCommand, Process, Signal};
use super::{ServerError, free_port, last_lines, log_tail, on_free_ports, start_server};

/// Names the directory of jars for callers that let the environment choose.
pub const KAFKA_JARS: &str = "OUTBOX_RELAY_KAFKA_JARS";

/// The login of the restricted listener that ACLs apply to; its password is the same word.
pub const RELAY_USER: &str = "relay";

/// A start takes three seconds on a quiet machine.
const START_DEADLINE: Duration = Duration::from_secs(90);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Kafka rewrites its tools one by one and moves them: this one in 4.0, the next one after 4.1.
const ACL_COMMAND: [&str; 2] = ["org.apache.kafka.tools.AclCommand", "kafka.admin.AclCommand"];
const CONFIG_COMMAND: [&str; 2] = ["org.apache.kafka.tools.ConfigCommand", "kafka.admin.ConfigCommand"];
/// What java says of a class that no jar has.
const NO_SUCH_CLASS: &str = "Could not find or load main class";
/// Any 16 bytes in Kafka's base64. The same for all private brokers unless the caller asks for another.
const CLUSTER_ID: &str = "b3V0Ym94LXJlbGF5LTAwMQ";

/// How a private Kafka differs from a plain one.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// The directory that `make kafka` fills.
    pub jars: PathBuf,
    /// Further lines for server.properties; they win over ours.
    pub properties: Vec<(String, String)>,
    /// Start fast rather than run fast: only the JVM's first compiler. Wrong for measurements.
    pub quick_start: bool,
    /// The largest heap, as after `-Xmx`.
    pub heap: String,
    /// Adds a second listener on which clients log in (SASL_PLAINTEXT, PLAIN, [`RELAY_USER`]) and ACLs hold. Whoever
    /// uses the first listener may do everything.
    pub restricted_listener: bool,
    /// Adds a listener that is advertised under this port, where somebody's proxy listens; see [`PrivateKafka::proxied_port`].
    pub proxy: Option<u16>,
    /// Which cluster this is, as 16 bytes in base64 without padding; None takes a fixed one.
    pub cluster_id: Option<String>,
    /// Which broker of its cluster this is. Broker 1 is the controller as well.
    pub node: u32,
    /// The port of the controller, for a broker that joins a cluster; see [`PrivateKafka::controller`].
    pub joins: Option<u16>,
    /// The records lie on a disk of their own of so many bytes, which can be full. Takes root.
    pub disk: Option<u64>,
}

impl KafkaOptions {
    /// A broker for tests, from this directory of jars.
    pub fn new(jars: impl Into<PathBuf>) -> Self {
        let jars = jars.into();
        let heap = "512m".to_owned();
        Self {
            jars,
            properties: Vec::new(),
            quick_start: true,
            heap,
            restricted_listener: false,
            proxy: None,
            cluster_id: None,
            node: 1,
            joins: None,
            disk: None,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Ports {
    open: u16,
    restricted: u16,
    proxied: u16,
    controller: u16,
}

/// A Kafka broker of our own on 127.0.0.1.
#[derive(Debug)]
pub struct PrivateKafka {
    // Declared before the directory: the server is gone before its files are.
    process: Mutex<Option<Process>>,
    ports: Ports,
    java: PathBuf,
    options: KafkaOptions,
    directory: ServerDirectory,
}

impl PrivateKafka {
    /// Formats a data directory and starts a broker on free ports; returns when it takes requests.
    pub fn start(mut options: KafkaOptions) -> Result<Self, ServerError> {
        // The broker works in a directory of its own.
        options.jars = std::path::absolute(&options.jars).map_err(ServerError::system("find the jars"))?;
        if !has_broker(&options.jars) {
            return Err(ServerError::Missing {
                part: format!("Apache Kafka's jars in {}", options.jars.display()),
            });
        }
        let java = java()?;
        // Kafka runs as whoever we are: another user might not be allowed to read the jars.
        let directory = ServerDirectory::create("kafka", None)?;
        let ports = Ports::default();
        let mut server = Self { process: Mutex::new(None), ports, java, options, directory };
        server.write("log4j2.properties", LOGGING)?;
        if let Some(bytes) = server.options.disk {
            server.directory.mount_disk(bytes, None)?;
        }
        let mut is_formatted = false;
        server.process = on_free_ports(|| {
            server.choose_ports()?;
            if !std::mem::replace(&mut is_formatted, true) {
                server.format()?;
            }
            server.launch()
        })?;
        Ok(server)
    }

    /// `host:port` for clients that may do everything; it stays the same over restarts.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.open)
    }

    /// `host:port` of the restricted listener. Panics when the options do not ask for it.
    pub fn restricted_brokers(&self) -> String {
        assert!(self.options.restricted_listener, "this broker was started without its restricted listener");
        format!("127.0.0.1:{}", self.ports.restricted)
    }

    /// The port to which the proxy of the options has to connect.
    pub fn proxied_port(&self) -> u16 {
        self.ports.proxied
    }

    /// The id this cluster was formatted with.
    pub fn cluster_id(&self) -> &str {
        self.options.cluster_id.as_deref().unwrap_or(CLUSTER_ID)
    }

    /// Where further brokers find this cluster.
    pub fn controller(&self) -> u16 {
        self.ports.controller
    }

    /// The process id, or None while the broker is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(Process::pid)
    }

    /// The broker's log: its warnings and the line that says it has started.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("kafka.log")
    }

    /// Where the records are.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Whether the broker has ended, by itself or because it was told to.
    pub fn has_ended(&self) -> bool {
        self.running().as_ref().is_none_or(|process| process.exited().is_some())
    }

    /// Stops the broker as an operator does.
    pub fn stop(&self) -> Result<(), ServerError> {
        let Some(process) = self.running().take() else { return Ok(()) };
        process.signal(Signal::TERM);
        if process.wait(STOP_DEADLINE).is_some() {
            return Ok(());
        }
        process.kill();
        let trouble = format!("did not stop within {} s and was killed", STOP_DEADLINE.as_secs());
        Err(ServerError::Refused { server: "kafka", trouble, log: log_tail(&self.log()) })
    }

    /// SIGKILL. What the broker has confirmed is in the machine's page cache and survives.
    pub fn kill(&self) {
        if let Some(process) = self.running().take() {
            process.kill();
        }
    }

    /// Freezes the broker: connections stay, answers do not come.
    pub fn freeze(&self) -> bool {
        self.running().as_ref().is_some_and(|process| process.signal(Signal::STOP))
    }

    /// Lets a frozen broker go on.
    pub fn thaw(&self) -> bool {
        self.running().as_ref().is_some_and(|process| process.signal(Signal::CONT))
    }

    /// Starts a broker again that was stopped or killed, or has ended by itself, with the same ports and data.
    pub fn start_again(&self) -> Result<(), ServerError> {
        let mut running = self.running();
        if running.as_ref().is_none_or(|process| process.exited().is_some()) {
            *running = Some(self.launch()?);
        }
        Ok(())
    }

    /// Forbids [`RELAY_USER`] to write to a topic; the topic stays visible to it. Takes about two seconds.
    pub fn forbid_writes(&self, topic: &str) -> Result<(), ServerError> {
        let user = format!("User:{RELAY_USER}");
        // Once a topic has an ACL, what none of them allows is forbidden: without the first one the relay would not
        // even see the topic.
        self.acl(topic, &["--add", "--allow-principal", "User:*", "--operation", "Describe"])?;
        self.acl(topic, &["--add", "--deny-principal", &user, "--operation", "Write"])
    }

    /// Lets [`RELAY_USER`] write to a topic and not read its configuration. Takes about a second.
    pub fn hide_configuration(&self, topic: &str) -> Result<(), ServerError> {
        let user = format!("User:{RELAY_USER}");
        // Once a topic has an ACL, what none of them allows is forbidden.
        self.acl(
            topic,
            &["--add", "--allow-principal", &user, "--operation", "Describe", "--operation", "Write"],
        )
    }

    /// Takes back what [`Self::forbid_writes`] did.
    pub fn allow_writes(&self, topic: &str) -> Result<(), ServerError> {
        self.acl(topic, &["--remove", "--force"])
    }

    /// Holds producers of this client id to so many bytes per second; None lifts the quota. Takes about two seconds.
    pub fn set_producer_quota(
        &self,
        client_id: &str,
        bytes_per_second: Option<u32>,
    ) -> Result<(), ServerError> {
        let brokers = self.brokers();
        let client = [
            "--bootstrap-server",
            &brokers,
            "--alter",
            "--entity-type",
            "clients",
            "--entity-name",
            client_id,
        ];
        let quota = bytes_per_second.map(|bytes| format!("producer_byte_rate={bytes}"));
        let change = match &quota {
            Some(quota) => ["--add-config", quota],
            None => ["--delete-config", "producer_byte_rate"],
        };
        self.admin_tool(CONFIG_COMMAND, &[&client[..], &change].concat())
    }

    fn acl(&self, topic: &str, change: &[&str]) -> Result<(), ServerError> {
        assert!(self.options.restricted_listener, "ACLs hold on the restricted listener only");
        let brokers = self.brokers();
        let target = ["--bootstrap-server", &brokers, "--topic", topic];
        self.admin_tool(ACL_COMMAND, &[&target, change].concat())
    }

    fn format(&self) -> Result<(), ServerError> {
        let properties = self.properties_file().display().to_string();
        let arguments = ["format", "--cluster-id", self.cluster_id(), "--config", &properties];
        self.tool("kafka.tools.StorageTool", &arguments)
    }

    /// Runs a tool that is found under one name or the other, as the release has it.
    fn admin_tool(&self, [newer, older]: [&'static str; 2], arguments: &[&str]) -> Result<(), ServerError> {
        match self.tool(newer, arguments) {
            Err(ServerError::Refused { log, .. }) if log.contains(NO_SUCH_CLASS) => {
                self.tool(older, arguments)
            }
            done => done,
        }
    }

    /// Runs one of Kafka's own tools to its end.
    fn tool(&self, class: &'static str, arguments: &[&str]) -> Result<(), ServerError> {
        let mut java = self.java();
        java.command().arg(class).args(arguments);
        let output = java.output().map_err(ServerError::system("start java through setpriv"))?;
        if output.status.success() {
            return Ok(());
        }
        let log = [output.stdout, output.stderr].concat();
        let log = last_lines(&String::from_utf8_lossy(&log));
        Err(ServerError::Refused { server: class, trouble: format!("failed ({})", output.status), log })
    }

    fn choose_ports(&mut self) -> Result<(), ServerError> {
        let port = || free_port().map_err(ServerError::system("find a free port"));
        let controller = self.options.joins.map_or_else(port, Ok)?;
        self.ports = Ports { open: port()?, restricted: port()?, proxied: port()?, controller };
        let lines: Vec<String> =
            self.properties().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        self.write("server.properties", &lines.concat())
    }

    fn launch(&self) -> Result<Process, ServerError> {
        let mut kafka = self.java();
        kafka.command().arg("kafka.Kafka").arg(self.properties_file());
        // The broker listens earlier; it says this line when it is registered and takes requests.
        start_server("kafka", kafka, &self.log(), START_DEADLINE, |_, log| {
            log.contains("Kafka Server started")
        })
    }

    fn java(&self) -> BoundCommand {
        let mut java = BoundCommand::new(&self.java, "KILL", None);
        let logging = self.directory.path().join("log4j2.properties");
        let command = java.command().current_dir(self.directory.path());
        command.args(["-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto"]);
        command.arg(format!("-Xmx{}", self.options.heap));
        command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        if self.options.quick_start {
            command.arg("-XX:TieredStopAtLevel=1");
        }
        command.arg("-cp").arg(self.options.jars.join("*"));
        java
    }

    fn properties(&self) -> Vec<(String, String)> {
        let Ports { open, restricted, proxied, controller } = self.ports;
        let local = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
        let mut clients = local("PLAINTEXT", open);
        if self.options.restricted_listener {
            clients = format!("{clients},{}", local("SASL_PLAINTEXT", restricted));
        }
        let mut advertised = clients.clone();
        if let Some(port) = self.options.proxy {
            clients = format!("{clients},{}", local("PROXIED", proxied));
            advertised = format!("{advertised},{}", local("PROXIED", port));
        }
        let protocols =
            "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT";
        let alone = self.options.joins.is_none();
        let listeners =
            if alone { format!("{clients},{}", local("CONTROLLER", controller)) } else { clients.clone() };
        let ours = [
            ("process.roles", if alone { "broker,controller" } else { "broker" }.to_owned()),
            ("node.id", self.options.node.to_string()),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            ("listeners", listeners),
            ("advertised.listeners", advertised),
            ("listener.security.protocol.map", protocols.into()),
            ("controller.listener.names", "CONTROLLER".into()),
            ("inter.broker.listener.name", "PLAINTEXT".into()),
            ("log.dirs", self.data_directory().display().to_string()),
            // A misspelt topic must be missing, not made.
            ("auto.create.topics.enable", "false".into()),
            ("num.partitions", "1".into()),
            ("offsets.topic.replication.factor", "1".into()),
            ("offsets.topic.num.partitions", "1".into()),
            ("transaction.state.log.replication.factor", "1".into()),
            ("transaction.state.log.min.isr", "1".into()),
            ("transaction.state.log.num.partitions", "1".into()),
            ("group.initial.rebalance.delay.ms", "0".into()),
            // A killed broker may register again only when its old session is over: nine seconds by default.
            ("broker.session.timeout.ms", "2000".into()),
            ("broker.heartbeat.interval.ms", "400".into()),
        ];
        let restrictions = [
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
            ("allow.everyone.if.no.acl.found", "true".into()),
            ("super.users", "User:ANONYMOUS".into()),
            ("sasl.enabled.mechanisms", "PLAIN".into()),
            (
                "listener.name.sasl_plaintext.plain.sasl.jaas.config",
                format!(
                    "org.apache.kafka.common.security.plain.PlainLoginModule required \
                     user_{RELAY_USER}=\"{RELAY_USER}\";"
                ),
            ),
        ];
        let restrictions = restrictions.into_iter().filter(|_| self.options.restricted_listener);
        let ours = ours.into_iter().chain(restrictions).map(|(name, value)| (name.to_owned(), value));
        // Of a property that is given twice, Java takes the last.
        ours.chain(self.options.properties.iter().cloned()).collect()
    }

    fn properties_file(&self) -> PathBuf {
        self.directory.path().join("server.properties")
    }

    fn write(&self, name: &str, text: &str) -> Result<(), ServerError> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).map_err(ServerError::system(format!("write {}", path.display())))
    }

    fn running(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for PrivateKafka {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Warnings, and the one line by which we know that the broker is up: a configuration of log4j 2.
pub const LOGGING: &str = "\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
logger.started.name=kafka.server.KafkaRaftServer
logger.started.level=info
";

fn has_broker(jars: &Path) -> bool {
    let files = std::fs::read_dir(jars).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("kafka_2.13-"))
}

/// `$JAVA_HOME/bin/java`, else the one on PATH.
fn java() -> Result<PathBuf, ServerError> {
    let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = home.into_iter().chain(std::env::split_paths(&path));
    let java = directories.find_map(|directory| Some(directory.join("java")).filter(|java| java.is_file()));
    java.ok_or_else(|| ServerError::Missing { part: "java (17 or newer)".into() })
}
