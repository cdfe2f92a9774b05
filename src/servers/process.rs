//! Child processes that die with this one.
//!
//! Linux sends a child its death signal when the *thread* that started it ends, so all children are started by one
//! thread that never ends. The signal is set by `setpriv` (util-linux), which also drops root's rights where a server
//! refuses to run as root; thus no unsafe code is needed between fork and exec. Each child leads a process group of
//! its own: Ctrl-C on a terminal reaches us alone, and we stop the others in our order.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// How often a child that should end is looked at.
const WAIT_STEP: Duration = Duration::from_millis(5);

/// A user and its main group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of its main group.
    pub gid: u32,
}

impl User {
    /// The user to whom root hands a server: the first of `names` that this machine knows. None when we are not root.
    pub fn instead_of_root(names: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        names.iter().find_map(|name| Self::find(&users, name))
    }

    fn find(users: &str, name: &str) -> Option<Self> {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2);
        Some(Self { uid: numbers.next()?.parse().ok()?, gid: numbers.next()?.parse().ok()? })
    }
}

/// A command whose process receives a signal when this process ends.
#[derive(Debug)]
pub struct BoundCommand(Command);

impl BoundCommand {
    /// `death_signal` without its SIG: `KILL`, or what the program takes as an order to end at once.
    pub fn new(program: impl AsRef<OsStr>, death_signal: &str, user: Option<User>) -> Self {
        let mut command = Command::new("setpriv");
        if let Some(User { uid, gid }) = user {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.args(["--pdeathsig", death_signal, "--"]).arg(program);
        command.stdin(std::process::Stdio::null()).process_group(0);
        Self(command)
    }

    /// The command, to add arguments, variables and files to.
    pub fn command(&mut self) -> &mut Command {
        &mut self.0
    }

    /// Starts the process. Its id is the program's: `setpriv` replaces itself.
    pub fn spawn(self) -> io::Result<Process> {
        let child = start(self.0)?;
        Ok(Process { pid: child.id(), child: Mutex::new(child) })
    }

    /// Runs the process to its end and returns what it wrote.
    pub fn output(mut self) -> io::Result<Output> {
        self.0.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        start(self.0)?.wait_with_output()
    }
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Has the thread that never ends start the command.
fn start(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        let serve = move || {
            for (mut command, answer) in receiver {
                // The sender may have gone; the child is then the caller's loss and ends with this process.
                answer.send(command.spawn()).ok();
            }
        };
        thread::Builder::new().name("child-starter".into()).spawn(serve).expect("a thread can be started");
        Mutex::new(sender)
    });
    let (answer, started) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts children has ended");
    orders
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .send((command, answer))
        .map_err(|_| gone(()))?;
    started.recv().map_err(|_| gone(()))?
}

/// A running or ended child. Dropping it leaves the process alone; it still dies with us.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    child: Mutex<Child>,
}

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the process writes to standard output, if that was piped; once.
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.child().stdout.take()
    }

    /// What the process writes to standard error, if that was piped; once.
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.child().stderr.take()
    }

    /// How the process ended, or None while it runs.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Sends a signal. False when the process has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        // The lock is held over both calls: an unreaped child keeps its id, so the signal cannot hit a stranger.
        let mut child = self.child();
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Waits for the end; None when it has not come `within` this time.
    pub fn wait(&self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(WAIT_STEP);
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10));
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\npostgresql:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(User::find(users, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(User::find(users, "nobody"), None);
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let asked = thread::spawn(|| {
            let mut sleeper = BoundCommand::new("sleep", "KILL", None);
            sleeper.command().arg("60");
            sleeper.spawn().expect("start sleep")
        });
        let sleeper = asked.join().expect("the thread only starts a child");
        assert_eq!(sleeper.wait(Duration::from_millis(50)), None);
        sleeper.kill();
        assert!(sleeper.exited().is_some_and(|status| !status.success()));
    }
}
