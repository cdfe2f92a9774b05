//! `outbox-relay lease`: who leads, and who led; let another one lead.

use std::process::ExitCode;

use super::carry_out::carry_out;
use super::print;
use super::table::{Table, facts, maybe_time, time};
use crate::cli::operate::LeaseCommand;
use crate::store::Session;
use crate::store::ask::Ask;
use crate::store::inspect;

/// Does what was asked for.
pub async fn run(session: &mut Session, command: LeaseCommand) -> anyhow::Result<ExitCode> {
    let show = match command {
        LeaseCommand::Show { show } => show,
        LeaseCommand::Resign { change } => {
            let what = "have the leader step down, so that another relay leads";
            return carry_out(session, Ask::resign(), &change, what, None).await;
        }
    };
    let lease = inspect::lease(session).await?;
    print::found(show.output, &lease, || {
        let mut text = facts(&[
            ("holder", lease.holder.clone().unwrap_or_else(|| "nobody".to_owned())),
            ("epoch", lease.epoch.to_string()),
            ("since", maybe_time(lease.since.as_ref())),
            ("last beat", time(&lease.last_beat_at)),
        ]);
        let mut table = Table::new(["EPOCH", "FIRST SETTLED", "LAST SETTLED", "SETTLEMENTS"]);
        for term in &lease.history {
            table.row([
                term.epoch.to_string(),
                time(&term.first_settled_at),
                time(&term.last_settled_at),
                term.settlements.to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render("no lease has settled anything yet"));
        text
    })?;
    Ok(ExitCode::SUCCESS)
}
