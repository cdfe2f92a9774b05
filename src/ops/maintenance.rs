//! `outbox-relay maintenance`: announces planned work, so that alerts about what it stops are held back until it is to end.
//!
//! It stops nothing itself: topics are paused beside it, and servers by whoever works on them.

use std::process::ExitCode;

use super::carry_out::carry_out;
use super::talk::say;
use crate::cli::operate::MaintenanceCommand;
use crate::store::Session;
use crate::store::ask::Ask;
use crate::store::inspect;

/// Does what was asked for.
pub async fn run(session: &mut Session, command: MaintenanceCommand) -> anyhow::Result<ExitCode> {
    match command {
        MaintenanceCommand::Start { lasting, change } => {
            let time = humantime::format_duration(lasting);
            let what = format!(
                "hold alerts about what stands still back for {time}; those about loss and a full volume go on"
            );
            carry_out(session, Ask::maintenance(lasting), &change, &what, None).await
        }
        MaintenanceCommand::End { mut change } => {
            let open = inspect::announced(session).await?;
            if open.is_empty() {
                say("no maintenance is announced")?;
                return Ok(ExitCode::SUCCESS);
            }
            // Usually it is one. A second one that no leader has taken up yet must not come to life behind the first.
            let mut ended = ExitCode::SUCCESS;
            for request in open {
                let what =
                    format!("end the maintenance that {} announced, request {}", request.who, request.id);
                ended = carry_out(session, Ask::cancel(request.id), &change, &what, None).await?;
                // Whoever was asked once has agreed.
                change.yes = true;
            }
            Ok(ended)
        }
    }
}
