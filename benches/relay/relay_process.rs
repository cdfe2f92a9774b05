//! The relay as a process, started with these or those settings.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use outbox_relay::servers::process::{BoundCommand, Process, Signal};

use crate::process::{cpu_seconds, peak_megabytes};

/// A relay that leads, or will.
pub struct Relay {
    process: Process,
    /// Lives as long as the relay that has read it.
    _file: Option<tempfile::NamedTempFile>,
}

impl Relay {
    /// Starts it.
    pub fn start(url: &str, brokers: String) -> Relay {
        Relay::start_with(url, brokers, &[])
    }

    /// Starts it with other settings.
    pub fn start_with(url: &str, brokers: String, settings: &[(&str, &str)]) -> Relay {
        Relay::launch(url, brokers, settings, None)
    }

    /// Starts it with a configuration file that holds this.
    pub fn start_with_file(url: &str, brokers: String, settings: &[(&str, &str)], text: &str) -> Relay {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("the file can be written");
        Relay::launch(url, brokers, settings, Some(file))
    }

    fn launch(
        url: &str,
        brokers: String,
        settings: &[(&str, &str)],
        file: Option<tempfile::NamedTempFile>,
    ) -> Relay {
        let mut command = BoundCommand::new(env!("CARGO_BIN_EXE_outbox-relay"), "KILL", None);
        if let Some(file) = &file {
            command.command().arg("--config").arg(file.path());
        }
        command
            .command()
            .arg("run")
            .env("DATABASE_URL", url)
            .env("KAFKA_BROKERS", brokers)
            .env("OUTBOX_RELAY__HTTP__LISTEN", "127.0.0.1:0")
            .env("OUTBOX_RELAY__LOG__LEVEL", "off")
            .envs(settings.iter().copied())
            .stdout(Stdio::null());
        Relay { process: command.spawn().expect("start the relay"), _file: file }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its peak memory.
    pub fn peak_megabytes(&self) -> f64 {
        peak_megabytes(self.pid())
    }

    /// The share of one core that it took in this time.
    pub async fn cpu_share(&self, during: Duration) -> f64 {
        let before = cpu_seconds(self.pid());
        tokio::time::sleep(during).await;
        (cpu_seconds(self.pid()) - before) / during.as_secs_f64()
    }
}

/// It resigns, so that the next one need not wait for its lease.
impl Drop for Relay {
    fn drop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait(Duration::from_secs(30));
    }
}
