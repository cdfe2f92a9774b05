//! A private Postgres server from the installed binaries.
//!
//! Owns the choice of binaries, the data directory, start and stop. It must not know a schema or open a connection:
//! whether the server answers is read from its pid file, as `pg_ctl` does.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::directory::ServerDirectory;
use super::process::{BoundCommand, Process, Signal, User};
use super::{ServerError, free_port, log_tail, on_free_ports, start_server};

/// Names the directory with `postgres` and `initdb` when the newest installed version is not the wanted one.
pub const POSTGRES_BIN: &str = "OUTBOX_RELAY_POSTGRES_BIN";

/// Recovery after an immediate stop under load takes seconds on two busy cores.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How a private Postgres differs from a plain one.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Whether commits reach the disk. Off is right for tests: killing the server loses nothing, only a crash of the
    /// machine would. On is right for measurements.
    pub fsync: bool,
    /// Connections at the same time.
    pub max_connections: u32,
    /// Further settings, as after `-c`; they win over ours.
    pub settings: Vec<(String, String)>,
    /// The data lie on a disk of their own of so many bytes, which can be full. Takes root.
    pub disk: Option<u64>,
    /// Variables of the server's environment.
    pub environment: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        let (settings, environment) = (Vec::new(), Vec::new());
        Self { fsync: false, max_connections: 300, settings, disk: None, environment }
    }
}

/// A Postgres server of our own on 127.0.0.1. The superuser is `postgres`, nobody needs a password.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Declared before the directory: the server is gone before its files are.
    process: Mutex<Option<Process>>,
    port: u16,
    binaries: PathBuf,
    user: Option<User>,
    options: PostgresOptions,
    directory: ServerDirectory,
}

impl PrivatePostgres {
    /// Makes a data directory and starts a server on a free port; returns when it accepts connections.
    pub fn start(options: PostgresOptions) -> Result<Self, ServerError> {
        let binaries = binaries()?;
        // Postgres refuses to run as root.
        let user = User::instead_of_root(&["postgres", "nobody"]);
        let directory = ServerDirectory::create("postgres", user)?;
        let mut server = Self { process: Mutex::new(None), port: 0, binaries, user, options, directory };
        if let Some(bytes) = server.options.disk {
            server.directory.mount_disk(bytes, user)?;
        }
        server.initialize()?;
        server.process = on_free_ports(|| {
            server.port = free_port().map_err(ServerError::system("find a free port"))?;
            server.launch()
        })?;
        Ok(server)
    }

    /// Copies a running server and follows it through this port of 127.0.0.1 (the primary's own, or that of a proxy before it):
    /// a streaming standby under this name.
    pub fn start_standby(primary: &PrivatePostgres, name: &str, port: u16) -> Result<Self, ServerError> {
        let (binaries, user, options) = (primary.binaries.clone(), primary.user, primary.options.clone());
        let directory = ServerDirectory::create("postgres", user)?;
        let mut server = Self { process: Mutex::new(None), port: 0, binaries, user, options, directory };
        let source = format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
        let mut copy = BoundCommand::new(server.binaries.join("pg_basebackup"), "KILL", user);
        let command = copy.command().args([
            "--checkpoint=fast",
            "--wal-method=stream",
            "--write-recovery-conf",
            "--no-sync",
        ]);
        command
            .arg("-d")
            .arg(source)
            .arg("-D")
            .arg(server.data_directory())
            .current_dir(server.directory.path());
        let output = copy.output().map_err(ServerError::system("start pg_basebackup through setpriv"))?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            let trouble = format!("failed ({})", output.status);
            return Err(ServerError::Refused { server: "pg_basebackup", trouble, log });
        }
        server.process = on_free_ports(|| {
            server.port = free_port().map_err(ServerError::system("find a free port"))?;
            server.launch()
        })?;
        Ok(server)
    }

    /// The URL of a database for the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// The URL of a database for a login role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster, or None while the server is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(Process::pid)
    }

    /// The data directory; a `standby.signal` in it makes the next start a replica.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("postgres.log")
    }

    /// Stops the server as an operator does: open transactions are rolled back, connections closed, data written.
    pub fn stop_fast(&self) -> Result<(), ServerError> {
        self.stop(Signal::INT)
    }

    /// Stops the server without a checkpoint: the next start recovers from the write-ahead log.
    pub fn stop_immediate(&self) -> Result<(), ServerError> {
        self.stop(Signal::QUIT)
    }

    /// Starts a server again that was stopped or has ended by itself, with the same port and data.
    pub fn start_again(&self) -> Result<(), ServerError> {
        let mut running = self.running();
        if running.as_ref().is_none_or(|process| process.exited().is_some()) {
            *running = Some(self.launch()?);
        }
        Ok(())
    }

    fn initialize(&self) -> Result<(), ServerError> {
        let mut initdb = BoundCommand::new(self.binaries.join("initdb"), "KILL", self.user);
        let fixed = ["--username=postgres", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync"];
        initdb.command().arg("-D").arg(self.data_directory()).args(fixed).current_dir(self.directory.path());
        let output = initdb.output().map_err(ServerError::system("start initdb through setpriv"))?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ServerError::Refused { server: "initdb", trouble: format!("failed ({})", output.status), log })
    }

    /// Starts the postmaster on `self.port` and waits until it accepts connections.
    fn launch(&self) -> Result<Process, ServerError> {
        // SIGQUIT is Postgres' order to end at once: the postmaster takes its children along.
        let mut postgres = BoundCommand::new(self.binaries.join("postgres"), "QUIT", self.user);
        let command =
            postgres.command().arg("-D").arg(self.data_directory()).current_dir(self.directory.path());
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        for (name, value) in self.settings() {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let data = self.data_directory();
        start_server("postgres", postgres, &self.log(), START_DEADLINE, |process, _| {
            accepts_connections(&data, process.pid())
        })
    }

    fn settings(&self) -> Vec<(String, String)> {
        let on = |yes: bool| if yes { "on" } else { "off" };
        let ours = [
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", String::new()),
            ("max_connections", self.options.max_connections.to_string()),
            ("fsync", on(self.options.fsync).into()),
            // Torn pages come from crashes of the machine; without fsync nothing guards against those anyway.
            ("full_page_writes", on(self.options.fsync).into()),
            ("logging_collector", "off".into()),
            ("log_line_prefix", "%m [%p] %u@%d ".into()),
        ];
        let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), value));
        ours.chain(self.options.settings.iter().cloned()).collect()
    }

    fn stop(&self, signal: Signal) -> Result<(), ServerError> {
        let Some(process) = self.running().take() else { return Ok(()) };
        process.signal(signal);
        if process.wait(STOP_DEADLINE).is_some() {
            return Ok(());
        }
        process.kill();
        let trouble = format!("did not stop within {} s and was killed", STOP_DEADLINE.as_secs());
        Err(ServerError::Refused { server: "postgres", trouble, log: log_tail(&self.log()) })
    }

    fn running(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // Nobody is left to read the answer, and a killed postmaster's children leave by themselves.
        self.stop_immediate().ok();
    }
}

/// The directory with `postgres` and `initdb`: the named one, else the newest of Debian's, else the one on PATH.
fn binaries() -> Result<PathBuf, ServerError> {
    let complete =
        |directory: &Path| ["postgres", "initdb"].iter().all(|name| directory.join(name).is_file());
    if let Some(named) = std::env::var_os(POSTGRES_BIN) {
        let named = PathBuf::from(named);
        let part = format!("a Postgres server in {} (from {POSTGRES_BIN})", named.display());
        return if complete(&named) { Ok(named) } else { Err(ServerError::Missing { part }) };
    }
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut versions: Vec<u32> = versions.collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let debian = versions.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The tools look for each other beside the real file, not beside a link to it.
    let on_path = std::env::split_paths(&path).filter_map(|directory| {
        Some(directory.join("postgres").canonicalize().ok()?.parent()?.to_path_buf())
    });
    let missing = || ServerError::Missing { part: "a Postgres server (postgres, initdb)".into() };
    debian.chain(on_path).find(|directory| complete(directory)).ok_or_else(missing)
}

/// Whether the pid file says that this postmaster is ready: its id on line 1, its state on line 8.
fn accepts_connections(data: &Path, pid: u32) -> bool {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let mut lines = file.lines();
    let state = lines.next().filter(|first| *first == pid.to_string()).and_then(|_| lines.nth(6));
    // A replica says "standby" once it can be read.
    state.is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
}
