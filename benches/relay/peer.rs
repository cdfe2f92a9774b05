//! Debezium's outbox router on Kafka Connect, standalone: measured where `make debezium` has fetched it, with a Postgres of its own,
//! because it needs logical decoding.
//!
//! Tuned: large batches and queues, 10 ms between polls, 5 ms linger, payloads passed on as they are, no tombstones, one header.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use outbox_relay::servers::free_port;
use outbox_relay::servers::process::{BoundCommand, Process};
use sqlx::PgPool;

use crate::latency::Way;
use crate::workload::Workload;

/// Its usual table.
const TABLE: &str = "
    create table public.outbox_event (
        id uuid primary key default gen_random_uuid(), aggregatetype text not null, aggregateid text, type text not null default 't',
        payload text)";
/// One row of it, and what becomes of its id.
pub const WAY: Way = Way {
    insert: "insert into public.outbox_event (aggregatetype, aggregateid, payload)
             values ($1, 'k', convert_from($2, 'UTF8')) returning id",
    header: "id",
};

/// The directory of its jars, if they are there.
pub fn jars() -> Option<PathBuf> {
    let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debezium/lib");
    let mut files = std::fs::read_dir(&jars).ok()?.flatten();
    files
        .any(|file| file.file_name().to_string_lossy().starts_with("debezium-connector-postgres"))
        .then_some(jars)
}

/// The same rows as in the outbox, without headers of their own.
pub fn insert(workload: &Workload) -> String {
    let [topic, key, payload] = workload.expressions();
    format!(
        "insert into public.outbox_event (aggregatetype, aggregateid, payload)
         select {topic}, {key}, {payload} from generate_series($2::bigint, $3::bigint) n"
    )
}

/// A Connect that runs.
pub struct Connect {
    process: Process,
    rest: String,
    directory: tempfile::TempDir,
}

impl Connect {
    /// Makes the table and starts Connect with one connector; returns when that runs.
    pub async fn start(jars: &Path, pool: &PgPool, (port, database): (u16, &str), brokers: &str) -> Connect {
        sqlx::raw_sql(TABLE).execute(pool).await.expect("make the table");
        let directory = tempfile::tempdir().expect("a directory");
        let rest = format!("127.0.0.1:{}", free_port().expect("a free port"));
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("the file can be written");
            path
        };
        let worker = file("worker.properties", worker(brokers, &rest, directory.path()));
        let connector = file("connector.properties", connector(port, database));
        let logging = file("log4j2.properties", outbox_relay::servers::kafka::LOGGING.to_owned());
        let log =
            std::fs::File::create(directory.path().join("connect.log")).expect("the log can be written");
        let mut command = BoundCommand::new("java", "KILL", None);
        command
            .command()
            .args(["-Xms512m", "-Xmx2g"])
            .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
            .arg("-cp")
            .arg(jars.join("*"))
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .args([worker, connector])
            .stdout(Stdio::from(log.try_clone().expect("the log is shared")))
            .stderr(Stdio::from(log));
        let connect = Connect { process: command.spawn().expect("start java"), rest, directory };
        connect.until("\"RUNNING\"").await;
        connect
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its task stands still; the process, and what it has compiled, stays.
    pub async fn pause(&self) {
        self.ask("PUT", "/connectors/outbox/pause");
        self.until("\"PAUSED\"").await;
    }

    /// It goes on where it was.
    pub fn resume(&self) {
        self.ask("PUT", "/connectors/outbox/resume");
    }

    async fn until(&self, state: &str) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let status = self.ask("GET", "/connectors/outbox/status");
            let task = status.split("\"tasks\":[").nth(1).unwrap_or_default();
            if task.contains(state) {
                return;
            }
            let gone = self.process.exited();
            assert!(
                gone.is_none() && !task.contains("\"FAILED\"") && Instant::now() < deadline,
                "Connect is not {state}: {gone:?} {status}\n{}",
                std::fs::read_to_string(self.directory.path().join("connect.log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The answer, or nothing while nobody answers.
    fn ask(&self, verb: &str, path: &str) -> String {
        let asked = || {
            let mut stream = TcpStream::connect(&self.rest)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "{verb} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                self.rest
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            std::io::Result::Ok(text)
        };
        asked().unwrap_or_default()
    }
}

fn worker(brokers: &str, rest: &str, directory: &Path) -> String {
    format!(
        "bootstrap.servers={brokers}\n\
         listeners=http://{rest}\n\
         offset.storage.file.filename={}\n\
         offset.flush.interval.ms=1000\n\
         plugin.discovery=hybrid_warn\n\
         connector.client.config.override.policy=All\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\n",
        directory.join("offsets").display()
    )
}

fn connector(port: u16, database: &str) -> String {
    format!(
        "name=outbox\n\
         connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
         tasks.max=1\n\
         database.hostname=127.0.0.1\n\
         database.port={port}\n\
         database.user=postgres\n\
         database.password=none\n\
         database.dbname={database}\n\
         topic.prefix=peer\n\
         plugin.name=pgoutput\n\
         slot.name=peer\n\
         publication.autocreate.mode=filtered\n\
         table.include.list=public.outbox_event\n\
         snapshot.mode=no_data\n\
         tombstones.on.delete=false\n\
         max.batch.size=20480\n\
         max.queue.size=81920\n\
         poll.interval.ms=10\n\
         heartbeat.interval.ms=0\n\
         transforms=outbox\n\
         transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
         transforms.outbox.route.topic.replacement=${{routedByValue}}\n\
         producer.override.linger.ms=5\n\
         producer.override.batch.size=524288\n\
         producer.override.buffer.memory=134217728\n\
         producer.override.acks=all\n\
         producer.override.enable.idempotence=true\n"
    )
}
