//! The binary: arguments, configuration, logging, runtime, then one match on the command.
//! A bad configuration ends with exit code 2 before any socket is opened.

use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use outbox_relay::cli::{Cli, Command, ConfigCommand};
use outbox_relay::config::{self, Config, ConfigError, LogConfig, LogFormat};
use outbox_relay::ops::{self, print};
use outbox_relay::{daemon, demo, task, telemetry};
use tracing_subscriber::filter::{LevelFilter, Targets};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match execute(Cli::from_arguments()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell if stderr is closed; the exit code still says it.
            let _ = writeln!(io::stderr(), "outbox-relay: {error:#}");
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli.config.as_deref();
    match cli.command {
        Command::Run => {
            let config = load(file)?;
            telemetry::start(&config.log)?;
            task::end_process_on_panic();
            block_on(spawned(daemon::run(config))).or_else(|error| {
                tracing::error!(error = telemetry::chain(error.as_ref()), "relay ended");
                Ok(ExitCode::FAILURE)
            })
        }
        Command::Demo(options) => {
            // The demo has a screen of its own; only what went wrong may interrupt it.
            let level = Targets::new().with_default(LevelFilter::WARN);
            telemetry::start(&LogConfig { format: LogFormat::Text, level })?;
            block_on(demo::run(options))
        }
        Command::Migrate(options) => {
            let config = Config::load_without_kafka(file, config::environment())?;
            telemetry::start(&config.log)?;
            block_on(ops::migrate::run(config, options))
        }
        Command::Check(options) => {
            // What librdkafka says of its connections is in the lines of the report.
            let level =
                Targets::new().with_default(LevelFilter::ERROR).with_target("librdkafka", LevelFilter::OFF);
            telemetry::start(&LogConfig { format: LogFormat::Text, level })?;
            block_on(ops::check::run(file, options))
        }
        command @ (Command::Status(_)
        | Command::Message(_)
        | Command::Replay(_)
        | Command::Top(_)
        | Command::Tap(_)
        | Command::Debug(_)
        | Command::Dlq(_)
        | Command::Keys(_)
        | Command::Topics(_)
        | Command::Lease(_)
        | Command::Maintenance(_)
        | Command::Requests(_)) => {
            let config = Config::load_without_kafka(file, config::environment())?;
            // Only what went wrong may stand between a command's own lines.
            let level = Targets::new().with_default(LevelFilter::WARN);
            telemetry::start(&LogConfig { format: LogFormat::Text, level })?;
            block_on(ops::run(config, command))
        }
        command @ (Command::Reconcile(_) | Command::Bench(_)) => {
            let config = load(file)?;
            let level = Targets::new().with_default(LevelFilter::WARN);
            telemetry::start(&LogConfig { format: LogFormat::Text, level })?;
            block_on(ops::run(config, command))
        }
        Command::Completions { shell } => ops::manual::completions(shell),
        Command::Man { directory } => ops::manual::man(directory.as_deref()),
        Command::Config(command) => {
            let config = load(file)?;
            print::data(&match command {
                ConfigCommand::Show => config.show(),
                ConfigCommand::Validate { .. } => "the configuration is valid\n".to_owned(),
            })?;
            match command {
                ConfigCommand::Validate { no_connect: false } => block_on(ops::check::reach(&config)),
                _ => Ok(ExitCode::SUCCESS),
            }
        }
    }
}

fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let config = Config::load(file, config::environment())?;
    daemon::check(&config)?;
    Ok(config)
}

/// Runs on a worker of the runtime: on the main thread every answer of Postgres would have to cross to another one, and
/// an idle relay would spend most of its time on that.
async fn spawned(
    command: impl Future<Output = anyhow::Result<ExitCode>> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    tokio::spawn(task::named("daemon", command)).await.context("the relay ended unexpectedly")?
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let ended = runtime.block_on(command);
    // A question to a broker that does not answer blocks a thread for seconds; nobody waits for it any more.
    runtime.shutdown_background();
    ended
}
