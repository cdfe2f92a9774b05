//! The relay as a process: drains a backlog, or stands there, while its CPU and memory are read from /proc.

use std::process::Stdio;
use std::time::{Duration, Instant};

use outbox_relay::servers::process::{BoundCommand, Process, Signal};
use sqlx::PgPool;

use crate::report::Figures;

/// A relay that leads.
pub struct Relay {
    process: Process,
}

impl Relay {
    /// Starts it.
    pub fn start(url: &str, brokers: String) -> Relay {
        Relay::start_with(url, brokers, &[])
    }

    /// Starts it with other settings.
    pub fn start_with(url: &str, brokers: String, settings: &[(&str, &str)]) -> Relay {
        let mut command = BoundCommand::new(env!("CARGO_BIN_EXE_outbox-relay"), "KILL", None);
        command
            .command()
            .arg("run")
            .env("DATABASE_URL", url)
            .env("KAFKA_BROKERS", brokers)
            .env("OUTBOX_RELAY__HTTP__LISTEN", "127.0.0.1:0")
            .env("OUTBOX_RELAY__LOG__LEVEL", "off")
            .envs(settings.iter().copied())
            .stdout(Stdio::null());
        Relay { process: command.spawn().expect("start the relay") }
    }

    /// Its peak memory.
    pub fn peak_megabytes(&self) -> f64 {
        peak_megabytes(self.process.pid())
    }

    /// Its share of one core while nothing happens.
    pub async fn idle_share(&self, during: Duration) -> f64 {
        let before = cpu_seconds(self.process.pid());
        tokio::time::sleep(during).await;
        (cpu_seconds(self.process.pid()) - before) / during.as_secs_f64()
    }
}

/// It resigns, so that the next one need not wait for its lease.
impl Drop for Relay {
    fn drop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait(Duration::from_secs(30));
    }
}

/// Starts a relay on a backlog of `rows` rows; the time runs from its first settlement's read to its last settlement.
pub async fn drain(url: &str, brokers: String, pool: &PgPool, rows: u64) -> Figures {
    let high = "select high from outbox.ledger order by epoch desc, seq desc limit 1";
    let last: i64 =
        sqlx::query_scalar("select max(id) from outbox.message").fetch_one(pool).await.expect("max id");
    let first = last - rows as i64;
    let relay = Relay::start(url, brokers);
    let mut begun = None;
    let mut every = tokio::time::interval(Duration::from_millis(10));
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        every.tick().await;
        assert!(Instant::now() < deadline, "the backlog is drained within five minutes");
        let now: i64 = sqlx::query_scalar(high).fetch_one(pool).await.expect("the position");
        if now > first && begun.is_none() {
            // What was settled before the first look is not counted.
            begun = Some((Instant::now(), now, cpu_seconds(relay.process.pid())));
        }
        if now == last {
            break;
        }
    }
    let (begun, from, cpu) = begun.expect("rows were settled");
    let measured = (last - from).max(1) as f64;
    Figures {
        rows_per_second: measured / begun.elapsed().as_secs_f64(),
        cpu_seconds_per_million: (cpu_seconds(relay.process.pid()) - cpu) / measured * 1e6,
        peak_megabytes: peak_megabytes(relay.process.pid()),
    }
}

/// User and system time of a process so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    /// USER_HZ is 100 on every Linux that we know.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a command name") + 2..].split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

fn peak_megabytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    peak.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
