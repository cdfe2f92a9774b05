//! The commands of operators: what they take. It decides nothing.

use std::fmt;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

/// How a command shows what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns, for people
    Text,
    /// One JSON document, for programs
    Json,
}

/// Of every command that reads.
#[derive(Debug, Clone, Copy, Args)]
#[group(skip)]
pub struct Show {
    /// How to print it
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Which dead letters are meant. All conditions hold together.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// The letter of this id; may be given several times
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub id: Vec<i64>,
    /// Letters of one cause: a fingerprint of `dlq groups`
    #[arg(long, value_name = "FINGERPRINT")]
    pub group: Option<String>,
    /// Letters of a topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Letters of a key, which is text
    #[arg(long, conflicts_with = "key_base64")]
    pub key: Option<String>,
    /// Letters of a key, in base64
    #[arg(long, value_name = "BASE64")]
    pub key_base64: Option<String>,
    /// Died at this time or later: 2026-01-31T12:00:00Z, or a duration ago such as 2h
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Died at this time or before
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// Of every command that changes something.
#[derive(Debug, Clone, Args)]
pub struct Change {
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
    /// For whoever reads the audit trail
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

/// Which message `message` tells about.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct MessageOptions {
    /// Its id (the outbox-seq header of its record) or its event id
    #[arg(value_name = "SEQ|EVENT-ID", required_unless_present = "key", conflicts_with = "key")]
    pub message: Option<String>,
    /// The newest messages of this key instead; needs --topic
    #[arg(long, requires = "topic")]
    pub key: Option<String>,
    /// The topic of the key
    #[arg(long, requires = "key")]
    pub topic: Option<String>,
    /// How far back an event id or a key is looked for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub within: Duration,
    /// How many messages of a key
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,
    /// Read its records back from Kafka and compare them with the row; exit code 1 if something else is there
    #[arg(long)]
    pub verify: bool,
    /// Payload, headers and trace id as well; outbox.request keeps who read them
    #[arg(long)]
    pub show_payload: bool,
    /// How.
    #[command(flatten)]
    pub show: Show,
}

/// What is compared.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct ReconcileOptions {
    /// Messages from this id on
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(i64).range(1..), conflicts_with = "from")]
    pub from_id: Option<i64>,
    /// Messages up to this id
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(i64).range(1..), conflicts_with = "until")]
    pub until_id: Option<i64>,
    /// Written at this time or later: 2026-01-31T12:00:00Z, or a duration ago such as 2h [default: 1h]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Written at this time or before
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Everything that retention has left
    #[arg(long, conflicts_with_all = ["from_id", "from"])]
    pub all: bool,
    /// Publish what is missing, after asking
    #[arg(long)]
    pub repair: bool,
    /// With --repair: show what would be published, and do nothing
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    /// With --repair: do not ask
    #[arg(long, requires = "repair")]
    pub yes: bool,
    /// Said by the leader, who starts this command after trouble
    #[arg(long, hide = true, value_parser = ["takeover", "promotion", "producer"])]
    pub cause: Option<String>,
    /// How.
    #[command(flatten)]
    pub show: Show,
}

/// Which published messages are sent again. All conditions hold together.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct ReplayOptions {
    /// The message of this id (its outbox-seq header); may be given several times
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(i64).range(1..))]
    pub id: Vec<i64>,
    /// The message of this event id; may be given several times
    #[arg(long, value_name = "UUID")]
    pub event_id: Vec<uuid::Uuid>,
    /// How far back an event id is looked for
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub within: Duration,
    /// Messages from this id on
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(i64).range(1..))]
    pub from_id: Option<i64>,
    /// Messages up to this id
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(i64).range(1..))]
    pub until_id: Option<i64>,
    /// Written at this time or later: 2026-01-31T12:00:00Z, or a duration ago such as 2h
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Written at this time or before
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Messages of a topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Messages of a key, which is text
    #[arg(long, conflicts_with = "key_base64")]
    pub key: Option<String>,
    /// Messages of a key, in base64
    #[arg(long, value_name = "BASE64")]
    pub key_base64: Option<String>,
    /// Everything that retention has left
    #[arg(long)]
    pub all: bool,
    /// To this topic instead of their own
    #[arg(long, value_name = "TOPIC")]
    pub to: Option<String>,
    /// At most so many a second
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Only the first so many, in order of id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub max: Option<i64>,
    /// Also those that are older than consumers.dedupe_window
    #[arg(long)]
    pub beyond_window: bool,
    /// Give up after this time; until then the messages stay, whatever retention.published says
    #[arg(long = "for", value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    pub lasting: Duration,
    /// How to go about it.
    #[command(flatten)]
    pub change: Change,
}

/// Dead letters: messages that need a human.
#[derive(Debug, Clone, Subcommand)]
pub enum DlqCommand {
    /// What they died of: causes, how many, since when, one sample of each
    Groups {
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// List them, without payloads
    List {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Also those that were requeued or discarded
        #[arg(long)]
        all: bool,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Everything about one
    Show {
        /// Its id, or the outbox-seq header of its message.
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// Payload and headers as well; outbox.request keeps who read them
        #[arg(long)]
        show_payload: bool,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Send them again, in order within each key and before later messages of it
    Requeue {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Every open one
        #[arg(long)]
        all: bool,
        /// At most so many a second
        #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        /// Only the first so many, in order of id
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
        /// Also those that are older than consumers.dedupe_window; they get the header outbox-replay
        #[arg(long)]
        beyond_window: bool,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
    /// Give them up. They stay in outbox.dead_letter, where only its owner can delete them
    Discard {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Every open one
        #[arg(long)]
        all: bool,
        /// Why nobody needs them
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Only the first so many, in order of id
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
        /// Show what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Do not wait until it is done
        #[arg(long)]
        no_wait: bool,
    },
    /// Print them as JSON lines, in order of id
    Export {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Also those that were requeued or discarded
        #[arg(long)]
        all: bool,
        /// Payload and headers as well; outbox.request keeps who read them
        #[arg(long)]
        show_payload: bool,
    },
}

/// Keys whose messages wait behind one that failed.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// List them, the longest blocked first
    List {
        /// Only those of a topic
        #[arg(long)]
        topic: Option<String>,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Try what waits for its next try now: of a topic, or of one of its keys
    RetryNow {
        /// Which.
        #[command(flatten)]
        of: OfTopic,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
    /// Send the message that a key waits for to the dead letters, so that the others go on
    SkipHead {
        /// Which.
        #[command(flatten)]
        of: OfKey,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
    /// Let the other messages of a key pass the one that they wait for, which is tried on: their order is given up
    Release {
        /// Which.
        #[command(flatten)]
        of: OfKey,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
}

/// A topic, or a key of it.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct OfTopic {
    /// The topic.
    pub topic: String,
    /// The key, which is text
    #[arg(conflicts_with = "key_base64")]
    pub key: Option<String>,
    /// The key, in base64
    #[arg(long, value_name = "BASE64")]
    pub key_base64: Option<String>,
}

/// A key of a topic.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct OfKey {
    /// The topic.
    pub topic: String,
    /// The key, which is text
    #[arg(required_unless_present = "key_base64", conflicts_with = "key_base64")]
    pub key: Option<String>,
    /// The key, in base64
    #[arg(long, value_name = "BASE64")]
    pub key_base64: Option<String>,
}

impl fmt::Display for OfKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().or(self.key_base64.as_ref()).map_or("", String::as_str);
        write!(f, "key {key} of topic {}", self.topic)
    }
}

/// Topics.
#[derive(Debug, Clone, Subcommand)]
pub enum TopicsCommand {
    /// Topics of which something waits, and what operators have set
    List {
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Let a topic stand still; the others go on
    Pause {
        /// Its name.
        topic: String,
        /// Resume by itself after this time, such as 30m
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasting: Option<Duration>,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
    /// Let a paused topic go on
    Resume {
        /// Its name.
        topic: String,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
    /// Change the rate or the policy of topics
    Set {
        /// A topic or a pattern such as orders.*
        topics: String,
        /// Records a second, or none to take the limit away
        #[arg(long, value_name = "N|none", required_unless_present_any = ["policy", "quota"], conflicts_with_all = ["policy", "quota"])]
        rate: Option<String>,
        /// Keys of a [[topic]] section as JSON, such as '{"attempts": 30}'
        #[arg(long, value_name = "JSON", conflicts_with = "quota")]
        policy: Option<String>,
        /// Messages that may wait at most, before outbox.publish refuses more, or none to take the quota away; of one topic
        #[arg(long, value_name = "N|none", conflicts_with = "lasting")]
        quota: Option<String>,
        /// Back to the configuration after this time, such as 30m
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasting: Option<Duration>,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
}

/// The right to relay.
#[derive(Debug, Clone, Subcommand)]
pub enum LeaseCommand {
    /// Who leads, since when, and who led before
    Show {
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Let another relay lead: the leader settles what is on its way and steps down
    ///
    /// It leaves the lease alone for two lease.ttl; if there is no other relay it leads again after that.
    Resign {
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
}

/// Planned work that stops something.
#[derive(Debug, Clone, Subcommand)]
pub enum MaintenanceCommand {
    /// Hold alerts about what stands still back for a while, a day at most; those about loss and a full volume go on
    ///
    /// It stops nothing: pause topics, or stop servers, beside it. A later one takes its place, to go on or to end earlier. When its
    /// time is over alerts are on again; if a topic is still paused by then, it counts as overdue until the topic is resumed or
    /// somebody says `maintenance end`.
    Start {
        /// Until then, with the time that a backlog takes to drain
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasting: Duration,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
    /// The work is done: alerts are on again. What is paused stays so
    End {
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
}

/// What operators asked for: the audit trail.
#[derive(Debug, Clone, Subcommand)]
pub enum RequestsCommand {
    /// The newest first
    List {
        /// Only what is not over
        #[arg(long)]
        open: bool,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// One of them
    Show {
        /// Its number.
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// End one: a requeue or discard goes no further, anything else is no longer in effect
    Cancel {
        /// Its number.
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// How to go about it.
        #[command(flatten)]
        change: Change,
    },
}
