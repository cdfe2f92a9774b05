//! The command line: what can be asked of the binary, and the help that a newcomer reads first. It decides nothing.

pub mod bench;
pub mod bundle;
pub mod check;
pub mod examples;
pub mod operate;
pub mod watch;

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use self::bench::BenchOptions;
use self::bundle::DebugCommand;
use self::check::CheckOptions;
use self::operate::{
    DlqCommand, KeysCommand, LeaseCommand, MaintenanceCommand, MessageOptions, ReconcileOptions,
    ReplayOptions, RequestsCommand, Show, TopicsCommand,
};
use self::watch::{TapOptions, TopOptions};

const EXAMPLES: &str = "\
Examples:
  outbox-relay demo                           watch it work; needs only a Postgres installation
  outbox-relay migrate                        create the schema `outbox` in your database
  outbox-relay check                          is everything there that a relay needs? what to do if not
  outbox-relay run                            relay, until SIGTERM or SIGINT
  outbox-relay config show                    every setting, its value and where it came from
  outbox-relay status                         who leads, what waits, what needs a human
  outbox-relay top                            the same live, with rates
  outbox-relay tap --topic 'orders.*'         watch messages being published
  outbox-relay message 4711                   what became of the message with this outbox-seq
  outbox-relay dlq groups                     what messages died of, and how many
  outbox-relay dlq requeue --topic orders     send the dead letters of a topic again
  outbox-relay topics pause orders --for 30m  let a topic stand still for a while
  outbox-relay reconcile --from 2h            is everything of the last two hours in Kafka?
  outbox-relay replay --topic orders --from 2h  send what was written in the last two hours again
  outbox-relay bench --dry-run                how many messages a second would go through here?";

/// What it is, how it is used by example, then what there is.
const HELP: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

const AFTER: &str = "\
Environment:
  DATABASE_URL                                postgres://user:password@host/database
  KAFKA_BROKERS                               host:9092,host:9092
  OUTBOX_RELAY__SECTION__KEY                  any setting, such as OUTBOX_RELAY__RELAY__POLL_MIN=5ms
  OUTBOX_RELAY_CONFIG                         the same as --config
  OUTBOX_RELAY__… wins over DATABASE_URL and KAFKA_BROKERS, these win over the file. Empty counts as not set.

Exit codes:
  0  done    1  failed    2  bad configuration or usage, nothing was connected
  3  asked, and not over yet: outbox-relay requests show tells what becomes of it
  4  reconcile found messages that are missing, unaccounted for or altered
  70 an internal task ended unexpectedly: the last line says which; a restart helps, a report as well";

/// Publishes the rows of a Postgres outbox table to Kafka.
///
/// Services write business rows and outbox rows in one transaction; outbox-relay sends every committed outbox row to
/// Kafka, in order per key, and nothing that was rolled back. Start as many as you like: one leads, the others stand by.
///
/// `run` needs DATABASE_URL and KAFKA_BROKERS, or a file with [postgres] url and [kafka] brokers.
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, before_help = EXAMPLES, after_help = AFTER, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file (TOML) [default: outbox-relay.toml in the working directory, if there is one]
    #[arg(long, global = true, value_name = "FILE", env = "OUTBOX_RELAY_CONFIG", hide_env = true, value_parser = path_or_empty())]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The process's arguments; on a mistake says so and ends with exit code 2. An empty variable counts as not set.
    pub fn from_arguments() -> Cli {
        // clap's own errors and its help end the process.
        let mut cli = Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
        let not_empty = |path: &PathBuf| !path.as_os_str().is_empty();
        cli.config = cli.config.filter(not_empty);
        if let Command::Demo(options) = &mut cli.command {
            options.database_url.take_if(|text| text.is_empty());
            options.kafka_brokers.take_if(|text| text.is_empty());
            options.kafka_jars.take_if(|path| path.as_os_str().is_empty());
        }
        cli
    }
}

/// The whole command line, with examples first in every help.
pub fn command() -> clap::Command {
    examples::first(undecorated().help_template(HELP))
}

/// The same with examples where manual pages have them.
pub fn for_manual() -> clap::Command {
    examples::last(undecorated()).before_help(None).after_help(format!("{EXAMPLES}\n\n{AFTER}"))
}

/// The same as clap has it.
pub fn undecorated() -> clap::Command {
    <Cli as CommandFactory>::command()
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Relay committed rows to Kafka until told to stop
    ///
    /// Starts with Postgres or Kafka down and waits for them, saying so. On SIGTERM or SIGINT it reads nothing new,
    /// settles what Kafka confirms within relay.drain_timeout, hands the lease over and exits with 0.
    Run,
    /// Show the whole thing at work, break it half-way, and audit the result
    ///
    /// A little order service writes to a private Postgres, two relays publish, the leading one is killed, a consumer
    /// reads the topic. Ends by itself or on Ctrl-C with an audit. Exit code 0 only if nothing was lost, nothing rolled
    /// back appeared and order held.
    Demo(DemoOptions),
    /// Create or upgrade the schema `outbox`
    ///
    /// Repeatable, and safe when two start at once. Touches nothing outside the schema `outbox`.
    Migrate(MigrateOptions),
    /// Is everything there that a relay needs? Each line says what to do if not
    ///
    /// Looks at the configuration, Postgres, Kafka, the lease, the work and the topics, with the settings and the login that the
    /// relay will have, and changes nothing. What hangs on a failure is not checked, so that one cause is one failing line.
    #[command(after_help = check::EXIT_CODES)]
    Check(CheckOptions),
    /// How the relay is: who leads, what waits, what needs a human
    Status(Show),
    /// The same as status and more, live on the terminal: q ends it
    Top(TopOptions),
    /// Watch messages being published: where each went, and how long that took
    Tap(TapOptions),
    /// The life of one message: written, tried, published where, redelivered, dead
    Message(MessageOptions),
    /// Compare what was committed with what is really in Kafka: is anything missing?
    ///
    /// Reads every receipt's record and compares its event id, its key and, if the login may read payloads, its payload. Changes
    /// nothing, and needs no leader; only --repair asks for one. What it found is kept in outbox.reconciliation, which the metrics
    /// outbox_reconcile_… show. Without a window: what was written in the last hour.
    Reconcile(ReconcileOptions),
    /// Send published messages again, to their topic or to another one
    ///
    /// The copies carry their event ids and the header outbox-replay with the number of the request. They go in order within each
    /// key and before later messages of it. What retention.published has removed cannot be sent again.
    Replay(ReplayOptions),
    /// How many messages a second this Postgres, this Kafka and this relay sustain, how fast, and what limits them
    ///
    /// Makes a topic of its own and writes marked messages at rising rates until they no longer arrive as fast as they are written;
    /// then deletes both. The leading relay publishes them; if none leads and nothing waits, one is started for as long as
    /// it takes. Other messages are not touched, but wait behind these while a step is more than the relay can do.
    #[command(after_help = bench::EXIT_CODES)]
    Bench(BenchOptions),
    /// Dead letters: see what failed, send it again, or give it up
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Keys that do not move because their first message failed
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Topics: what waits; pause, resume, pace
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Who leads
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Planned work: announce it with an end, so that nobody is paged for what it stops
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
    /// What operators asked for, and what came of it
    #[command(subcommand)]
    Requests(RequestsCommand),
    /// When somebody else has to look at it
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print what makes a shell complete commands and options
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write manual pages, one for every command, or print the first one
    Man {
        /// Where to; made if it is not there.
        directory: Option<PathBuf>,
    },
    /// Look at the configuration: what is in effect, and is it right?
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// clap's own parser of paths refuses an empty text, and with it an empty variable.
fn path_or_empty() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// What the demo uses and for how long.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Server for a database of the demo's own, which it drops again [default: a private Postgres]
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Kafka to publish to [default: --kafka-jars, else librdkafka's in-process mock cluster]
    #[arg(long, value_name = "HOST:PORT,…", env = "KAFKA_BROKERS")]
    pub kafka_brokers: Option<String>,
    /// Directory with Apache Kafka's jars, from which a private broker is started; needs Java
    #[arg(long, value_name = "DIR", env = "OUTBOX_RELAY_KAFKA_JARS", value_parser = path_or_empty())]
    pub kafka_jars: Option<PathBuf>,
    /// How long orders are written at most
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    pub seconds: u64,
    /// How many orders are written at most
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub orders: u64,
    /// Print a line now and then instead of the live view
    #[arg(long)]
    pub plain: bool,
}

/// What to do with the schema.
#[derive(Debug, Clone, Args)]
pub struct MigrateOptions {
    /// Print the SQL instead of running it
    #[arg(long)]
    pub dry_run: bool,
    /// List the migrations and whether they are applied
    #[arg(long, conflicts_with_all = ["dry_run", "down", "rebase", "yes"])]
    pub status: bool,
    /// Remove the schema `outbox` with everything in it
    #[arg(long, conflicts_with = "rebase")]
    pub down: bool,
    /// Accept this database or Kafka cluster as a new home, after a copy or restore
    ///
    /// The relay stops when the database or the Kafka cluster is another one than before: a copy of production must not
    /// publish production's backlog elsewhere. This says that the difference is intended.
    #[arg(long)]
    pub rebase: bool,
    /// With --rebase: what becomes of the rows that were not yet published
    #[arg(long, value_enum, value_name = "WHAT", requires = "rebase")]
    pub pending: Option<Pending>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// The unpublished rows of a rebased database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pending {
    /// Send them to the Kafka that is configured now
    Publish,
    /// Count them as dealt with
    Skip,
}

/// What to do with the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Print the effective settings as TOML, secrets redacted, each with where it came from
    Show,
    /// List everything that is wrong with it; exit code 2 if anything is
    ///
    /// Then sees whether Postgres and Kafka can be reached and used with it, as check does; exit code 1 if not.
    Validate {
        /// Only read it: open no connection
        #[arg(long)]
        no_connect: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &str, accepted: bool) {
        let parsed = Cli::try_parse_from(["outbox-relay"].into_iter().chain(arguments.split(' ')));
        assert_eq!(parsed.is_ok(), accepted, "{arguments}: {parsed:?}");
    }

    #[test]
    fn commands_are_understood() {
        command().debug_assert();
        check("run", true);
        check("run --config relay.toml", true);
        check("--config relay.toml config show", true);
        check("config validate", true);
        check("config validate --no-connect", true);
        check("demo --kafka-jars target/jars --seconds 5 --plain", true);
        check("demo --seconds 0", false);
        check("migrate --dry-run --down", true);
        check("migrate --rebase --pending skip --yes", true);
        check("migrate --pending skip", false);
        check("migrate --rebase --pending maybe", false);
        check("migrate --status --down", false);
        check("migrate --down --rebase", false);
        check("check --wait 2m --timeout 3s -o json --strict", true);
        check("check --wait soon", false);
        check("maintenance start --for 30m --why upgrade --yes", true);
        check("maintenance start --yes", false);
        check("maintenance end", true);
        check("sprint", false);
    }

    #[test]
    fn help_says_first_what_the_tool_is() {
        let help = command().render_help().to_string();
        assert!(help.starts_with("Publishes the rows of a Postgres outbox table to Kafka"), "{help}");
        for part in ["DATABASE_URL", "Exit codes", "outbox-relay demo"] {
            assert!(help.contains(part), "{part} is missing in\n{help}");
        }
    }
}
