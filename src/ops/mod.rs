//! The operator's commands, one a file. What changes something writes a request and follows it (`carry_out`).

pub mod bench;
pub mod bundle;
mod carry_out;
pub mod check;
pub mod dlq;
mod http;
pub mod keys;
pub mod lease;
pub mod maintenance;
pub mod manual;
pub mod message;
pub mod migrate;
pub mod print;
mod progress;
pub mod reconcile;
pub mod replay;
pub mod requests;
pub mod status;
mod table;
mod talk;
pub mod tap;
pub mod top;
pub mod topics;

use std::process::ExitCode;

use crate::cli::Command;
use crate::cli::bundle::DebugCommand;
use crate::config::Config;
use crate::store::{Server, Session};

/// Connects and does what was asked for.
pub async fn run(config: Config, command: Command) -> anyhow::Result<ExitCode> {
    let command = match command {
        // It connects anew when a connection is lost.
        Command::Top(options) => return top::run(&config, options).await,
        // It makes the best of what does not work.
        Command::Debug(DebugCommand::Bundle(options)) => return bundle::run(&config, options).await,
        command => command,
    };
    let mut session = connect(&config).await?;
    let ended = match command {
        Command::Bench(options) => bench::run(&mut session, &config, options).await,
        Command::Reconcile(options) => reconcile::run(&mut session, &config, options).await,
        Command::Replay(options) => replay::run(&mut session, &config.consumers, options).await,
        Command::Dlq(command) => dlq::run(&mut session, &config.consumers, command).await,
        Command::Status(show) => status::run(&mut session, show, config.lease.ttl).await,
        Command::Tap(options) => tap::run(&mut session, options).await,
        Command::Message(options) => message::run(&mut session, &config, options).await,
        Command::Keys(command) => keys::run(&mut session, command).await,
        Command::Topics(command) => topics::run(&mut session, command).await,
        Command::Lease(command) => lease::run(&mut session, command).await,
        Command::Maintenance(command) => maintenance::run(&mut session, command).await,
        Command::Requests(command) => requests::run(&mut session, command).await,
        Command::Completions { .. } | Command::Man { .. } => {
            unreachable!("main has commands of its own for these")
        }
        Command::Run
        | Command::Demo(_)
        | Command::Top(_)
        | Command::Debug(_)
        | Command::Check(_)
        | Command::Migrate(_)
        | Command::Config(_) => {
            unreachable!("main has commands of its own for these")
        }
    };
    session.close().await;
    ended
}

async fn connect(config: &Config) -> anyhow::Result<Session> {
    let mut session = connect_unchecked(config).await?;
    session.check_schema().await?;
    Ok(session)
}

/// Whatever the schema is like.
async fn connect_unchecked(config: &Config) -> anyhow::Result<Session> {
    let hosts = config.postgres.host_urls();
    let server = Server::new(hosts.iter().map(|host| host.expose()))?.behind_pooler(config.postgres.pooler);
    Ok(server.connect("operator").await?)
}
