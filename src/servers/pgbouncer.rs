//! A private PgBouncer in transaction mode before a Postgres server, from the installed binary.
//!
//! Owns its configuration, start and stop. It must not open a connection: that it listens is read from its log.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::directory::ServerDirectory;
use super::process::{BoundCommand, Process, Signal, User};
use super::{ServerError, free_port, on_free_ports, start_server};

const START_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How a private PgBouncer differs from a plain one.
#[derive(Debug, Clone)]
pub struct PoolerOptions {
    /// The port of Postgres, or of a proxy before it, on 127.0.0.1.
    pub postgres: u16,
    /// Server connections for each pair of login and database.
    pub pool_size: u32,
    /// Logins that may connect, without a password. The first one may also use the console, the database `pgbouncer`.
    pub logins: Vec<String>,
    /// Further settings; they win over ours.
    pub settings: Vec<(String, String)>,
}

impl PoolerOptions {
    /// Three server connections for each login, so that clients have to share them.
    pub fn new(postgres: u16, logins: &[&str]) -> Self {
        let logins = logins.iter().map(ToString::to_string).collect();
        Self { postgres, pool_size: 3, logins, settings: Vec::new() }
    }
}

/// A PgBouncer of our own on 127.0.0.1.
#[derive(Debug)]
pub struct PrivatePooler {
    // Declared before the directory: the server is gone before its files are.
    process: Mutex<Option<Process>>,
    port: u16,
    /// Where the databases are: the port of the options, until [`Self::turn_to`] says another one.
    target: Mutex<Target>,
    binary: PathBuf,
    user: Option<User>,
    options: PoolerOptions,
    directory: ServerDirectory,
}

/// Where databases are found.
#[derive(Debug, Clone)]
struct Target {
    /// Of Postgres, on 127.0.0.1.
    port: u16,
    /// Databases that are named: one that was in use under `*` keeps its old place.
    named: Vec<String>,
}

impl PrivatePooler {
    /// Starts a pooler on a free port; returns when it accepts connections. Postgres need not be there.
    pub fn start(options: PoolerOptions) -> Result<Self, ServerError> {
        let binary = binary()?;
        // PgBouncer refuses to run as root.
        let user = User::instead_of_root(&["postgres", "nobody"]);
        let directory = ServerDirectory::create("pgbouncer", user)?;
        let target = Mutex::new(Target { port: options.postgres, named: Vec::new() });
        let mut server =
            Self { process: Mutex::new(None), port: 0, target, binary, user, options, directory };
        server.process = on_free_ports(|| {
            server.port = free_port().map_err(ServerError::system("find a free port"))?;
            server.launch()
        })?;
        Ok(server)
    }

    /// The URL of a database for a login role.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The pooler's log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("pgbouncer.log")
    }

    /// SIGKILL: all connections break.
    pub fn kill(&self) {
        if let Some(process) = self.running().take() {
            process.kill();
        }
    }

    /// Starts a killed pooler again, on the same port.
    pub fn start_again(&self) -> Result<(), ServerError> {
        let mut running = self.running();
        if running.is_none() {
            *running = Some(self.launch()?);
        }
        Ok(())
    }

    /// These databases are on another port of 127.0.0.1 from now on. The file is written: whoever uses the pooler says `reload` and
    /// `reconnect` on its console. Connections with clients stay.
    pub fn turn_to(&self, postgres: u16, databases: &[&str]) -> Result<(), ServerError> {
        let named = databases.iter().map(ToString::to_string).collect();
        *self.target() = Target { port: postgres, named };
        self.write("pgbouncer.ini", &self.configuration())
    }

    fn launch(&self) -> Result<Process, ServerError> {
        self.write("logins.txt", &self.logins())?;
        self.write("pgbouncer.ini", &self.configuration())?;
        // SIGTERM ends it at once.
        let mut pooler = BoundCommand::new(&self.binary, "TERM", self.user);
        pooler.command().arg(self.directory.path().join("pgbouncer.ini")).current_dir(self.directory.path());
        start_server("pgbouncer", pooler, &self.log(), START_DEADLINE, |_, log| log.contains("process up"))
    }

    fn logins(&self) -> String {
        self.options.logins.iter().map(|login| format!("\"{login}\" \"\"\n")).collect()
    }

    fn configuration(&self) -> String {
        let PoolerOptions { postgres: _, pool_size, logins, settings } = &self.options;
        let Target { port, named } = self.target().clone();
        let ours = [
            ("listen_addr", "127.0.0.1".to_owned()),
            ("listen_port", self.port.to_string()),
            ("unix_socket_dir", String::new()),
            ("auth_type", "trust".into()),
            ("auth_file", self.directory.path().join("logins.txt").display().to_string()),
            ("admin_users", logins.first().cloned().unwrap_or_default()),
            ("pool_mode", "transaction".into()),
            ("default_pool_size", pool_size.to_string()),
            ("max_client_conn", "500".into()),
            // Postgres is away for seconds at most; the default is to try again after 15 s.
            ("server_login_retry", "1".into()),
        ];
        let ours = ours.into_iter().map(|(name, value)| (name.to_owned(), value));
        let lines: String =
            ours.chain(settings.iter().cloned()).map(|(name, value)| format!("{name} = {value}\n")).collect();
        let named = named.iter().map(String::as_str).chain(["*"]);
        let databases: String = named.map(|name| format!("{name} = host=127.0.0.1 port={port}\n")).collect();
        format!("[databases]\n{databases}[pgbouncer]\n{lines}")
    }

    fn write(&self, name: &str, text: &str) -> Result<(), ServerError> {
        let path = self.directory.path().join(name);
        let wrote = std::fs::write(&path, text);
        wrote.map_err(ServerError::system(format!("write {}", path.display())))
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn running(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for PrivatePooler {
    fn drop(&mut self) {
        if let Some(process) = self.running().take() {
            process.signal(Signal::TERM);
            if process.wait(STOP_DEADLINE).is_none() {
                process.kill();
            }
        }
    }
}

/// Debian puts it where only root's PATH leads.
fn binary() -> Result<PathBuf, ServerError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = directories.map(|directory| directory.join("pgbouncer")).find(|file| file.is_file());
    found.ok_or_else(|| ServerError::Missing { part: "pgbouncer".into() })
}
