//! `outbox-relay migrate`: brings the schema up to date, shows where it stands, takes it down, or rebases it.
//!
//! What was asked for goes to stdout (the script, the list, the statements for an administrator), talk to stderr.
//! Decides nothing about the schema; `store::migrate` and `store::rebase` do.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::bail;

use super::print;
use super::talk::{agreed, say};
use crate::cli::{MigrateOptions, Pending};
use crate::config::Config;
use crate::store::migrate::{self, Losses};
use crate::store::migration::{self, MigrationStatus};
use crate::store::rebase::{self, RebaseReport};

/// Does what the options say. Changes nothing with `--dry-run` or `--status`.
pub async fn run(config: Config, options: MigrateOptions) -> anyhow::Result<ExitCode> {
    if config.postgres.pooler {
        // A transaction of many messages, one of which may take hours, is what a pooler is not for.
        bail!(
            "migrate needs a direct connection: give the URL of Postgres itself in DATABASE_URL, and \
             OUTBOX_RELAY__POSTGRES__POOLER=false"
        );
    }
    let hosts = config.postgres.host_urls();
    let mut connection =
        migrate::connect(&hosts.iter().map(|host| host.expose()).collect::<Vec<_>>()).await?;
    if options.status {
        print::data(&list(&migration::status(&mut connection).await?))?;
    } else if options.down {
        let lost = migrate::losses(&mut connection).await?;
        say(&format!("schema outbox would be dropped, and with it {}", losses(lost)))?;
        if options.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        if !options.yes && !agreed("Drop it?")? {
            bail!("nothing was changed; say --yes to drop schema outbox");
        }
        let lost = migrate::down(&mut connection).await?;
        say(&format!("dropped schema outbox, and with it {}; the roles stay", losses(lost)))?;
    } else if options.rebase {
        let pending = options.pending.map(|what| match what {
            Pending::Publish => rebase::Pending::Publish,
            Pending::Skip => rebase::Pending::Skip,
        });
        let would = rebase::rebase(&mut connection, pending, true).await?;
        say(&format!("rebase: {}", rebased(would, options.pending)))?;
        if options.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        if !options.yes && io::stdin().is_terminal() && !agreed("Rebase this database?")? {
            bail!("nothing was changed");
        }
        let done = rebase::rebase(&mut connection, pending, false).await?;
        say(&format!("rebased: {}; any relay may lead from here now", rebased(done, options.pending)))?;
    } else if options.dry_run {
        let plan = migrate::plan(&mut connection).await?;
        print::data(&plan.script)?;
        say(&match plan.pending.len() {
            0 => "schema outbox is up to date; only roles and rights would be repeated".to_owned(),
            pending => format!("{pending} migrations would be applied; nothing was changed"),
        })?;
    } else {
        apply(&mut connection).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn apply(connection: &mut migrate::PgConnection) -> anyhow::Result<()> {
    let report = migrate::migrate(connection).await?;
    for migration in &report.applied {
        say(&format!("applied {} ({})", migration.version, migration.name))?;
    }
    say(if report.applied.is_empty() { "schema outbox is up to date" } else { "schema outbox is ready" })?;
    if let Some(sql) = report.administrator_sql {
        say(
            "this login may not make all roles or hand the schema to outbox_owner; an administrator has to run:",
        )?;
        print::data(&sql)?;
        say("run outbox-relay migrate again after that to complete the rights")?;
    }
    Ok(())
}

fn list(migrations: &[MigrationStatus]) -> String {
    let mut text = format!("{:<8} {:<12} {:<14} STATE\n", "VERSION", "NAME", "OLDEST BINARY");
    for row in migrations {
        let state = match &row.applied_at {
            None => "pending".to_owned(),
            Some(at) if row.edited => format!("applied {at} with another text than this binary carries"),
            Some(at) if !row.known => format!("applied {at} by a newer binary"),
            Some(at) => format!("applied {at}"),
        };
        let _ = writeln!(text, "{:<8} {:<12} {:<14} {state}", row.version, row.name, row.oldest_binary);
    }
    text
}

fn losses(lost: Losses) -> String {
    let Losses { unread, deferred, dead_letters } = lost;
    format!(
        "{unread} unread and {deferred} deferred messages that Kafka does not have, {dead_letters} open dead letters, \
         and the record of what was published"
    )
}

fn rebased(report: RebaseReport, pending: Option<Pending>) -> String {
    let RebaseReport { epoch, unread, deferred, renumbered, .. } = report;
    let fate = match pending {
        Some(Pending::Skip) => "skipped",
        _ => "to be published from here",
    };
    format!(
        "{unread} unread and {deferred} deferred messages {fate}, {renumbered} rows renumbered, epoch {epoch}"
    )
}
