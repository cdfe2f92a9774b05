//! The label values that metrics may carry, as types: a value that is not listed here cannot be exported.

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// All values, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// The value as it is exported.
    fn as_str(self) -> &'static str;

    /// The place in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$($name::$variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What finally became of an outbox row.
    Outcome {
        /// Confirmed by Kafka.
        Delivered = "delivered",
        /// Put aside for a human.
        DeadLettered = "dead_lettered",
        /// Given up under at-most-once delivery.
        Dropped = "dropped",
        /// Its `expires_at` passed.
        Expired = "expired",
        /// Discarded by an operator.
        Discarded = "discarded",
    }
}

label! {
    /// What one attempt to send a row came to.
    AttemptResult {
        /// Kafka confirmed it.
        Ack = "ack",
        /// Kafka refused it.
        Rejected = "rejected",
        /// A quota held it back.
        Throttled = "throttled",
        /// Nobody knows.
        Unknown = "unknown",
    }
}

label! {
    /// Why a row may have been sent again.
    RedeliveryCause {
        /// Another leader had it in flight.
        Takeover = "takeover",
        /// The relay or Postgres crashed with it in flight.
        Crash = "crash",
        /// Its producer ended.
        ProducerReplaced = "producer_replaced",
        /// A dead letter was requeued.
        Requeue = "requeue",
        /// An operator asked for a replay.
        Replay = "replay",
    }
}

label! {
    /// Why a row was passed over for now.
    DeferReason {
        /// Kafka refused it; it is tried again.
        Retry = "retry",
        /// An earlier row of its key waits.
        Behind = "behind",
        /// Its `deliver_after` has not come.
        Scheduled = "scheduled",
    }
}

label! {
    /// Where rows that are not yet published stand.
    BacklogState {
        /// Not yet read: sequence minus position, an upper bound that is exact at zero.
        Ready = "ready",
        /// Deferred after a refusal.
        Retrying = "retrying",
        /// Deferred behind a row of their key.
        Blocked = "blocked",
        /// Deferred until their time.
        Scheduled = "scheduled",
        /// In a lane of their topic.
        Laned = "laned",
    }
}

label! {
    /// Why a row became a dead letter.
    DeadReason {
        /// Too large for its topic or for the relay.
        TooLarge = "too_large",
        /// Kafka will not take it.
        Refused = "refused",
        /// Its time was over, and its policy keeps such rows.
        Expired = "expired",
        /// Anything else.
        Other = "other",
    }
}

impl DeadReason {
    /// The reason with this name; what is not known is something else.
    pub fn named(name: &str) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name).unwrap_or(Self::Other)
    }
}

label! {
    /// Why nothing is read.
    StopCause {
        /// As many rows are deferred as `retry.deferred_max` allows.
        DeferredLimit = "deferred_limit",
        /// As much is in flight as the window takes; normal under load, an outage when it lasts.
        WindowFull = "window_full",
    }
}

label! {
    /// The tables that grow.
    Table {
        /// outbox.message.
        Message = "message",
        /// outbox.ledger.
        Ledger = "ledger",
        /// outbox.attempt.
        Attempt = "attempt",
        /// outbox.deferred.
        Deferred = "deferred",
        /// outbox.dead_letter.
        DeadLetter = "dead_letter",
    }
}

label! {
    /// What is set of a topic, and can change behind the relay's back.
    TopicSetting {
        /// The number of its partitions.
        Partitions = "partitions",
        /// How many copies there are of each.
        Replicas = "replicas",
        /// How many of them have to have a record before it is confirmed.
        MinInsyncReplicas = "min_insync_replicas",
        /// The largest batch that it takes.
        MaxMessageBytes = "max_message_bytes",
        /// Whether old records are deleted, compacted, or both.
        CleanupPolicy = "cleanup_policy",
        /// How long records stay.
        RetentionMs = "retention_ms",
        /// How many bytes of them stay in each partition.
        RetentionBytes = "retention_bytes",
        /// Whether a replica that lacks records may lead.
        UncleanElection = "unclean_leader_election",
    }
}

label! {
    /// What the relay cannot work without.
    Dependency {
        /// The outbox's database.
        Postgres = "postgres",
        /// The brokers.
        Kafka = "kafka",
    }
}

label! {
    /// Where the connections to brokers stand.
    BrokerLink {
        /// Connected.
        Up = "up",
        /// Wanted, and not there.
        Down = "down",
        /// Not wanted: nothing goes to that broker.
        Idle = "idle",
    }
}

label! {
    /// What kind of error Kafka or librdkafka reported.
    KafkaErrorClass {
        /// No broker answers, or too slowly.
        Unreachable = "unreachable",
        /// A quota.
        Throttled = "throttled",
        /// The topic is missing, forbidden or refuses timestamps.
        Topic = "topic",
        /// The record's own fault.
        Record = "record",
        /// Wrong credentials or certificates.
        Authentication = "authentication",
        /// Right credentials without the right.
        Authorization = "authorization",
        /// The producer is dead.
        Fatal = "fatal",
        /// Anything else.
        Other = "other",
    }
}

impl KafkaErrorClass {
    /// The class with this name; what is not known is something else.
    pub fn named(name: &str) -> Self {
        Self::ALL.iter().copied().find(|class| class.as_str() == name).unwrap_or(Self::Other)
    }
}

label! {
    /// What became of a span.
    SpanFate {
        /// The collector has it.
        Exported = "exported",
        /// The queue was full, or the collector did not take it.
        Dropped = "dropped",
    }
}

label! {
    /// What was asked of Postgres.
    Operation {
        /// Opening a connection and checking who answers.
        Connect = "connect",
        /// Reading the next page.
        Poll = "poll",
        /// Paging through many late rows.
        PollLate = "poll_late",
        /// Making a visible commit durable before it is published.
        Flush = "flush",
        /// Writing a settlement.
        Settle = "settle",
        /// Raising the leader's beat.
        Beat = "beat",
        /// Watching the beat, taking over and resigning.
        Lease = "lease",
        /// Reading deferred rows that are due.
        Deferred = "deferred",
        /// Reading requests and reporting on them.
        Requests = "requests",
        /// Sweeping and emptying slots.
        Clean = "clean",
        /// Writing a heartbeat row.
        Heartbeat = "heartbeat",
        /// Looking what has to be compared with the topics.
        Reconcile = "reconcile",
        /// Sampling gauges.
        Sample = "sample",
    }
}
