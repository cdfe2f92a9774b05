//! The operator's commands, one a file. What changes something writes a request and follows it (`carry_out`).

mod carry_out;
pub mod check;
pub mod dlq;
pub mod keys;
pub mod lease;
pub mod message;
pub mod migrate;
pub mod print;
pub mod requests;
pub mod status;
mod table;
mod talk;
pub mod topics;

use std::process::ExitCode;

use crate::cli::Command;
use crate::config::Config;
use crate::store::{Server, Session};

/// Connects and does what was asked for.
pub async fn run(config: Config, command: Command) -> anyhow::Result<ExitCode> {
    let mut session = connect(&config).await?;
    let ended = match command {
        Command::Status(show) => status::run(&mut session, show).await,
        Command::Message(options) => message::run(&mut session, options).await,
        Command::Dlq(command) => dlq::run(&mut session, command).await,
        Command::Keys(command) => keys::run(&mut session, command).await,
        Command::Topics(command) => topics::run(&mut session, command).await,
        Command::Lease(command) => lease::run(&mut session, command).await,
        Command::Requests(command) => requests::run(&mut session, command).await,
        Command::Run | Command::Demo(_) | Command::Migrate(_) | Command::Config(_) | Command::Check(_) => {
            unreachable!("main has commands of its own for these")
        }
    };
    session.close().await;
    ended
}

async fn connect(config: &Config) -> anyhow::Result<Session> {
    let hosts = config.postgres.host_urls();
    let server = Server::new(hosts.iter().map(|host| host.expose()))?.behind_pooler(config.postgres.pooler);
    let mut session = server.connect("operator").await?;
    session.check_schema().await?;
    Ok(session)
}
