//! Every line that the relay logs by itself, at information and above: its stable name, its text, what it means, and what to do.
//!
//! docs/logs.md is made of this list, and a test compares the list with the code. Text is constant: what varies is in the fields. Each
//! line of warning or error has a counter, `event` being its name here. What libraries log is not listed; it counts as [`OTHER`].

use tracing::Level;

/// One kind of line.
#[derive(Debug, Clone, Copy)]
pub struct LogEvent {
    /// For metrics and alerts.
    pub name: &'static str,
    /// How loud it is.
    pub level: Level,
    /// The line's `message`.
    pub message: &'static str,
    /// Its fields, in the order of the page.
    pub fields: &'static [&'static str],
    /// What has happened.
    pub meaning: &'static str,
    /// What whoever reads it does.
    pub action: &'static str,
}

/// The name under which lines are counted that are in no list: those of libraries.
pub const OTHER: &str = "other";

const fn error(
    name: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    meaning: &'static str,
    action: &'static str,
) -> LogEvent {
    LogEvent { name, level: Level::ERROR, message, fields, meaning, action }
}

const fn warn(
    name: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    meaning: &'static str,
    action: &'static str,
) -> LogEvent {
    LogEvent { name, level: Level::WARN, message, fields, meaning, action }
}

const fn info(
    name: &'static str,
    message: &'static str,
    fields: &'static [&'static str],
    meaning: &'static str,
    action: &'static str,
) -> LogEvent {
    LogEvent { name, level: Level::INFO, message, fields, meaning, action }
}

/// Nothing is to be done.
const NONE: &str = "";

/// All of them, loudest first.
pub const EVENTS: &[LogEvent] = &[
    error(
        "dead_letter",
        "outbox row is a dead letter, somebody has to decide about it",
        &["id", "topic", "reason", "error", "attempts", "alike"],
        "A row was tried as often or as long as its policy allows. `alike` were not told since the last such line of this topic.",
        "`dlq groups`, then requeue or discard; runbook OutboxDeadLettersNew.",
    ),
    error(
        "row_refused",
        "outbox row is refused, it is tried again",
        &["id", "topic", "reason", "alike"],
        "Kafka will not take the row, for certain.",
        "Repair the row's topic (its limits, say), or wait for its dead letter.",
    ),
    error(
        "topic_dying",
        "rows of this topic die too fast, it stands still for the rest of the minute",
        &["topic", "dead_per_minute"],
        "More rows died in a minute than `retry.dead_per_minute` allows: the topic has another problem than its rows.",
        "`dlq groups` tells the cause; repair the topic.",
    ),
    error(
        "topic_sick",
        "topic cannot be published to, its rows wait for it",
        &["topic", "reason"],
        "The topic is missing, forbidden, stalled or refuses timestamps. The others go on.",
        "`check` names the command that mends it; runbook OutboxTopicSick.",
    ),
    error(
        "copy_refused",
        "copy of a dead letter is refused, the letter itself stays in outbox.dead_letter",
        &["id", "topic", "reason", "alike"],
        "The topic for copies of dead letters will not take this one.",
        "Raise the limits of that topic; nothing is lost.",
    ),
    error(
        "reading_stopped",
        "reading stopped because the cap of deferred rows is reached",
        &["deferred_max"],
        "As many rows are deferred as `retry.deferred_max` allows.",
        "`keys list`; runbook OutboxReadingStopped.",
    ),
    error(
        "rows_unaccounted",
        "rows were passed by and no settlement accounts for them: somebody wrote a foreign txid or id, or the ledger was changed",
        &["slot", "rows", "first_id", "publishes"],
        "A loss incident: the sweep found rows that nobody has dealt with. With `publishes` they are published now.",
        "Runbook OutboxUnaccountedMessages.",
    ),
    error(
        "records_missing",
        "records are missing in kafka; outbox-relay reconcile with these ids and --repair publishes them",
        &["cause", "from_id", "until_id", "missing", "unaccounted", "altered", "first_id"],
        "Receipts around a takeover, a promotion or a fatal producer error have no record in their topic.",
        "`reconcile --from-id … --until-id … --repair`; runbook OutboxReconcileFoundLoss.",
    ),
    error(
        "postgres_refused",
        "postgres refused, trying again",
        &["doing", "error"],
        "The server refuses a statement of the relay, which will not go away by itself.",
        "`check` looks at rights and schema.",
    ),
    error(
        "relay_ended",
        "relay ended",
        &["error"],
        "The process ends because of this error.",
        "Mend what it says; a supervisor starts it again.",
    ),
    error(
        "task_ended",
        "internal task ended unexpectedly",
        &["task", "place", "thread", "reason", "exit_code"],
        "An error of this program; the process ends with code 70, and another relay takes over.",
        "Report it, with the lines before it (`debug bundle`).",
    ),
    error(
        "http_panicked",
        "http thread panicked",
        &[],
        "An error of this program, while it stopped.",
        "Report it.",
    ),
    warn(
        "stepped_down",
        "stepped down, everything of this lease is forgotten",
        &["epoch", "error"],
        "The lease, the trust in it or the server's memory was lost. Whoever leads next sends the window again.",
        "Once: nothing. Often: runbook OutboxLeaderFlapping.",
    ),
    warn(
        "cannot_lead",
        "cannot lead yet, trying again",
        &["error"],
        "Postgres or Kafka does not answer, or the outbox belongs elsewhere. Said every ten seconds while it lasts.",
        "`check`; runbooks OutboxNoLeader and OutboxDependencyDown.",
    ),
    warn(
        "beat_failed",
        "the beat could not be raised, trying again",
        &["error"],
        "Postgres did not take the leader's sign of life in time.",
        "Look at Postgres if it repeats; the lease is lost after `lease.ttl`.",
    ),
    warn(
        "resign_failed",
        "the lease could not be resigned, it runs out",
        &["epoch", "error"],
        "A stopping leader could not tell so; the next one waits for `lease.ttl`.",
        NONE,
    ),
    warn(
        "resign_late",
        "the lease could not be resigned in time, it runs out",
        &["epoch"],
        "As before; Postgres did not answer within five seconds.",
        NONE,
    ),
    warn(
        "drain_incomplete",
        "drain_timeout passed, what is in flight will be sent again by the next leader",
        &[],
        "A stop did not end within `relay.drain_timeout`: up to one window is sent twice.",
        "Raise `relay.drain_timeout` if Kafka is merely slow.",
    ),
    warn(
        "deposed",
        "deposed leader settled nothing, another relay holds the lease",
        &["epoch"],
        "The fence has held: another relay had taken over.",
        "Often: runbook OutboxLeaderFlapping.",
    ),
    warn(
        "postgres_failed",
        "postgres failed, trying again",
        &["doing", "error"],
        "A statement did not get an answer. Each loop tries again, ever more slowly, up to every two seconds.",
        "Runbook OutboxDependencyDown if it lasts.",
    ),
    warn(
        "rows_changed_by_hand",
        "rows were changed or deleted by somebody else, the settlement went on without them",
        &["rows", "first_id"],
        "Somebody has changed rows of `outbox.deferred` or `outbox.dead_letter` by SQL.",
        "Use `dlq` and `keys` instead.",
    ),
    warn(
        "circuit_open",
        "kafka makes no progress, the circuit is open: nothing more is handed over and no row is charged",
        &["because", "in_flight"],
        "Nothing was confirmed for `kafka.stall_after`, or all brokers are away.",
        "Runbook OutboxCircuitOpen.",
    ),
    warn(
        "kafka_error",
        "kafka reports an error",
        &["producer", "class", "reason"],
        "librdkafka's own report, once in a while for each class.",
        "`class=authentication`: runbook OutboxAuthenticationFailing. Else see what else is said.",
    ),
    warn(
        "kafka_throttles",
        "kafka holds this relay back by a quota",
        &["producer"],
        "The brokers' quota is used up.",
        "Raise the quota, or set `relay.rate` below it.",
    ),
    warn(
        "kafka_silent",
        "kafka did not answer, asking again",
        &["error"],
        "A question about a topic was not answered.",
        NONE,
    ),
    warn(
        "producer_replaced",
        "kafka producer replaced, innocent rows go out again",
        &["again", "possibly_written"],
        "A record was refused, or a topic cut loose; what was behind it goes again in order.",
        "See the line before it. `possibly_written` bounds the duplicates.",
    ),
    warn(
        "second_producer_replaced",
        "second kafka producer replaced, what it had is put off",
        &["put_off"],
        "The producer of retried rows had a fatal error.",
        NONE,
    ),
    warn(
        "row_suspect",
        "outbox row is suspect, it goes alone",
        &["id", "topic", "reason", "alike"],
        "A batch with this row was refused; nobody knows yet whose fault it was.",
        NONE,
    ),
    warn(
        "row_failed_again",
        "deferred row failed again",
        &["id", "topic", "tries", "class", "reason", "delay_ms", "alike"],
        "A row that was put off has failed once more.",
        "`message <id>` tells its whole story; runbook OutboxBlockedKeysOld.",
    ),
    warn(
        "topic_narrow",
        "topic refuses the smallest batches, its rows go alone",
        &["topic"],
        "The topic's limit may not be read and is very low.",
        "Let the relay describe the topic's configuration, or raise `max.message.bytes`.",
    ),
    warn(
        "topic_drift",
        "a topic is not as it was, or can lose records; see outbox-relay check",
        &["topic", "setting", "first", "now"],
        "A setting of a topic has changed, or is one that can lose records.",
        "Runbook OutboxTopicSettingsDrifted.",
    ),
    warn(
        "copy_failed",
        "copy of a dead letter failed, it is tried again",
        &["id", "topic", "reason", "alike"],
        "The topic for copies of dead letters cannot be written to now.",
        "`check`; nothing is lost.",
    ),
    warn(
        "once_lost_at_takeover",
        "rows of at-most-once topics were on their way when the last leader ended",
        &["lost"],
        "They are never sent again, and are counted as dropped.",
        NONE,
    ),
    warn(
        "once_oversize",
        "row of an at-most-once topic is above relay.max_row_bytes",
        &["id", "topic", "alike"],
        "It is lost, and counted as dropped.",
        "Raise `relay.max_row_bytes`, or write smaller rows.",
    ),
    warn(
        "once_lost",
        "rows of an at-most-once topic are lost",
        &["lost", "of", "topic", "alike"],
        "Kafka did not confirm their only try. `alike` further batches were not told since the last such line.",
        "Runbook OutboxAtMostOnceLoss.",
    ),
    warn(
        "not_compared",
        "records could not be compared with their receipts; outbox-relay reconcile does it with a login that may read the topics",
        &["from_id", "until_id", "cause", "error"],
        "The comparison after a takeover could not be made.",
        "`reconcile` with these ids.",
    ),
    warn(
        "unsafe_property",
        "kafka.unsafe lets this property break a promise",
        &["property"],
        "Said at every start, because somebody wanted it so.",
        NONE,
    ),
    warn(
        "spans_dropped",
        "spans cannot be exported, they are dropped",
        &["dropped", "reason"],
        "The collector does not answer, or more spans come than it takes. Said once a minute at most.",
        "Look at the collector; rows go on.",
    ),
    warn(
        "spans_given_up",
        "spans were still on their way, they are given up",
        &[],
        "The collector did not take the last spans of a stopping relay in time.",
        NONE,
    ),
    info("started", "relay started", &["version", "holder_name"], "The process begins.", NONE),
    info("listening", "listening", &["address"], "Where metrics, probes and the status page are.", NONE),
    info(
        "lease_taken",
        "lease taken",
        &["epoch", "why", "from"],
        "This relay leads from now on. `why`: nobody held it, it was ours, or its holder fell silent.",
        NONE,
    ),
    info("leading", "leading", &["epoch", "high"], "Reading goes on behind this id.", NONE),
    info("stopping", "stopping, the window is being drained", &[], "SIGTERM or SIGINT.", NONE),
    info(
        "stepping_down",
        "stepping down, as an operator asked; the window is being drained",
        &[],
        "`lease resign`.",
        NONE,
    ),
    info("resigned", "lease resigned", &["epoch"], "Another relay takes over at once.", NONE),
    info(
        "not_ours",
        "the lease was not ours any more",
        &["epoch"],
        "Somebody else had taken it before it could be resigned.",
        NONE,
    ),
    info("stopped", "relay stopped", &[], "The process ends.", NONE),
    info(
        "circuit_closed",
        "kafka makes progress again, the circuit is closed",
        &["after"],
        "The outage is over.",
        NONE,
    ),
    info("reading_again", "reading goes on below the cap of deferred rows", &[], "As it says.", NONE),
    info(
        "batch_size_lowered",
        "a topic's limit lowers the batch size",
        &["batch_size"],
        "Batches of all topics stay below the lowest limit of a topic in use.",
        NONE,
    ),
    info(
        "lane_opened",
        "topic is read on its own, the others go on",
        &["topic", "cause"],
        "It is missing, stalled, paused, paced or flooding, as `cause` says.",
        NONE,
    ),
    info("lane_closed", "topic is read with the others again", &["topic"], "As it says.", NONE),
    info("topic_usable", "topic is usable again", &["topic"], "Its rows go out now.", NONE),
    info(
        "topic_there",
        "topic is there, nothing waits for it",
        &["topic"],
        "It was sick, and no row waited.",
        NONE,
    ),
    info(
        "topic_as_it_was",
        "a topic is again as it was",
        &["topic", "setting", "now"],
        "The drift is over.",
        NONE,
    ),
    info(
        "slot_emptied",
        "slot of old rows is empty again",
        &["ring", "slot"],
        "Retention: everything in it was accounted for and is old.",
        NONE,
    ),
    info(
        "compared",
        "receipts compared with kafka, nothing is missing",
        &["cause", "from_id", "until_id", "verified", "duplicates"],
        "The comparison after a takeover.",
        NONE,
    ),
    info(
        "request",
        "request",
        &["request", "kind", "topic", "progress", "error"],
        "What an operator asked for is in effect, has ended, or was refused.",
        NONE,
    ),
    info("request_refused", "request is refused", &["request", "kind", "error"], "It says why.", NONE),
    info(
        "request_done",
        "request is done",
        &["request", "kind", "done"],
        "How many rows it was about.",
        NONE,
    ),
    info(
        "request_cancelled",
        "request is cancelled",
        &["request", "ended", "found"],
        "As an operator asked.",
        NONE,
    ),
    info(
        "out_of_the_way",
        "row gets out of the way of its key, as an operator asked",
        &["id", "topic", "way"],
        "`keys skip-head` or `keys release`.",
        NONE,
    ),
];

/// Level and name of every line that is counted, in the order of the counters: warnings and errors, and then all that are not listed.
pub fn counted() -> impl Iterator<Item = (Level, &'static str)> {
    let listed =
        EVENTS.iter().filter(|event| is_counted(&event.level)).map(|event| (event.level, event.name));
    listed.chain([(Level::ERROR, OTHER), (Level::WARN, OTHER)])
}

/// The place of a line's counter, if it has one.
pub(super) fn place(level: &Level, message: &str) -> Option<usize> {
    if !is_counted(level) {
        return None;
    }
    let listed = EVENTS.iter().filter(|event| is_counted(&event.level));
    let listed = listed.map(|event| event.level == *level && event.message == message);
    listed
        .clone()
        .position(|is_it| is_it)
        .or_else(|| counted().position(|(of, name)| of == *level && name == OTHER))
}

/// Errors are below warnings, as tracing orders them.
fn is_counted(level: &Level) -> bool {
    *level <= Level::WARN
}
