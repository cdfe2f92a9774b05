//! Every configuration key: its name, its default and what it means. README's table is tested against this one.
//! Adding a key here is half of the work; the other half is the line in `mod.rs` that reads it into its struct.

/// One configuration key as users know it.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.key`, as in the file; `OUTBOX_RELAY__SECTION__KEY` in the environment.
    pub name: &'static str,
    /// The default as one would write it; empty where there is none.
    pub default: &'static str,
    /// Meaning, unit and bounds in one sentence.
    pub meaning: &'static str,
}

/// All keys, in the order in which `config show` and README list them.
pub const KEYS: &[Key] = &[
    Key {
        name: "postgres.url",
        // No default: guessing a database would publish somebody else's outbox.
        default: "",
        meaning: "Where the outbox is, as postgres://user:password@host1:5432,host2/database?sslmode=verify-full; of several hosts the writable one wins.",
    },
    Key {
        name: "postgres.url_file",
        default: "",
        meaning: "A file that holds the URL instead, for mounted secrets; it is read again on every reconnect.",
    },
    Key {
        name: "postgres.pooler",
        // Off: prepared statements cost less.
        default: "false",
        meaning: "Whether the URL leads to a pooler in transaction mode, such as PgBouncer; migrate needs a direct one.",
    },
    Key {
        name: "kafka.brokers",
        // No default either, for the same reason.
        default: "",
        meaning: "Bootstrap brokers as host:port, a list or one text with commas.",
    },
    Key {
        name: "kafka.unsafe",
        // Empty: whoever gives up a promise has to write down which property does it.
        default: "[]",
        meaning: "Names of properties in [kafka.properties] that break a promise and are wanted nevertheless.",
    },
    Key {
        name: "kafka.stall_after",
        // Well above what a rolling restart of a broker takes, well below what a person notices.
        default: "10s",
        meaning: "Without a confirm for so long it is an outage, or a topic that stalls while others are confirmed.",
    },
    Key {
        name: "kafka.properties",
        default: "{}",
        meaning: "librdkafka properties such as security.protocol or compression.type; in the environment one text \"name=value;name=value\".",
    },
    Key {
        name: "kafka.header_event_id",
        default: "event-id",
        meaning: "Name of the header that carries the event id, on which consumers deduplicate.",
    },
    Key {
        name: "kafka.header_seq",
        default: "outbox-seq",
        meaning: "Name of the header that carries the id of the outbox row.",
    },
    Key {
        name: "kafka.header_epoch",
        // Off: only tests and forensics need to know which leader sent a record.
        default: "off",
        meaning: "Name of a header that carries the epoch of the sending leader; off adds none.",
    },
    Key {
        name: "consumers.dedupe_window",
        // Kafka keeps records a week unless told otherwise; whoever remembers event ids rarely does so for longer.
        default: "7d",
        meaning: "How long consumers remember the event ids that they have seen; older messages are sent again only with --beyond-window, and marked.",
    },
    Key {
        name: "relay.poll_min",
        // At 200 rows a second, commit to consumer: p50 3.8 ms, and 5.9 ms with 5 ms [measured]. A poll that finds nothing new touches
        // two buffers.
        default: "2ms",
        meaning: "Pause between polls while rows flow.",
    },
    Key {
        name: "relay.poll_max",
        // Twenty polls a second keep an idle relay far below 1 % of a core and cost the first row after a quiet time 25 ms.
        default: "50ms",
        meaning: "Pause between polls that a quiet outbox backs off to.",
    },
    Key {
        name: "relay.page_rows",
        // A page passes in about 40 ms. With 5,000 a backlog of small rows drained an eighth slower, and took 13 MB less.
        default: "10000",
        meaning: "Rows that one poll returns at most.",
    },
    Key {
        name: "relay.page_bytes",
        // 10,000 rows of 420 B; larger rows make shorter pages. With 8 MiB rows of 1 kB took 105 instead of 91 MB and went no faster.
        default: "4MiB",
        meaning: "Bytes of key, payload and headers that one poll returns at most; at least one row comes.",
    },
    Key {
        name: "relay.window_rows",
        // Five full pages: reading and settling never wait for each other, and a crash repeats no more than this.
        default: "50000",
        meaning: "Rows handed to Kafka and not yet settled at most; what a crash may repeat.",
    },
    Key {
        name: "relay.window_bytes",
        // Every row is held twice (ours and librdkafka's copy). With 24 MiB rows of 1 kB took 95 to 111 MB instead of 89 to 95, and went
        // 2 % faster.
        default: "16MiB",
        meaning: "Bytes handed to Kafka and not yet settled at most; memory use is about twice that.",
    },
    Key {
        name: "relay.max_row_bytes",
        // Kafka's brokers take 1 MiB a batch unless told otherwise.
        default: "1MiB",
        meaning: "A row above this is not sent but judged: it is the row's own fault.",
    },
    Key {
        name: "relay.drain_timeout",
        // Ten seconds below Kubernetes' default grace period of 30 s.
        default: "20s",
        meaning: "How long a stop waits for the window to be confirmed and settled.",
    },
    Key {
        name: "relay.durable_marks",
        // Off: losing marks repeats up to a second of records after a crash of Postgres, and never loses one.
        default: "false",
        meaning: "Whether every settlement waits until Postgres has it on disk.",
    },
    Key {
        name: "relay.rate",
        default: "off",
        meaning: "Records a second for all topics together at most, so that a drain does not flatten consumers; off is no limit.",
    },
    Key {
        name: "lease.ttl",
        // The beat comes every third of it; shorter takes over faster but mistakes a slow disk for a dead leader.
        default: "5s",
        meaning: "How long the leader's beat may stand still before a standby takes over.",
    },
    Key {
        name: "retry.base",
        default: "1s",
        meaning: "Longest wait before the first repetition of a rejected row; it doubles with each one.",
    },
    Key {
        name: "retry.max",
        // Whoever repairs a topic's settings should see the row move within a coffee break.
        default: "5m",
        meaning: "Longest wait between repetitions.",
    },
    Key {
        name: "retry.attempts",
        // With the waits above ten attempts take four minutes on average: enough for a topic's limit to be raised.
        default: "10",
        meaning: "Attempts that fail by a row's own fault until it is a dead letter; outages and sick topics do not count.",
    },
    Key {
        name: "retry.age",
        default: "24h",
        meaning: "Time since the first of them after which the next one makes it a dead letter.",
    },
    Key {
        name: "retry.dead_per_minute",
        // A topic whose every row dies has another problem than its rows.
        default: "100",
        meaning: "Rows of a topic that may become dead letters in a minute; above that it stands still for the rest of it.",
    },
    Key {
        name: "retry.deferred_max",
        // About 400 MB of copies at 1 kB a row; a number that a table serves without tuning.
        default: "400000",
        meaning: "Deferred rows (retrying or waiting behind one) at most; at this number reading stops until some leave.",
    },
    Key {
        name: "retention.published",
        default: "1d",
        meaning: "How long published rows stay, to be inspected and replayed; then their slot is emptied as a whole.",
    },
    Key {
        name: "retention.published_max_bytes",
        default: "off",
        meaning: "Size of outbox.message above which swept slots are emptied before their time, the oldest first; off is no limit.",
    },
    Key {
        name: "retention.receipts",
        default: "published",
        meaning: "How long the ledger stays, never shorter than its rows: published, or a duration.",
    },
    Key {
        name: "retention.dead_letters",
        // Somebody has to decide about them.
        default: "off",
        meaning: "How long dead letters stay; off keeps them until somebody decides.",
    },
    Key {
        name: "retention.every",
        default: "1m",
        meaning: "How often the slots of old rows are looked at, swept and emptied.",
    },
    Key {
        name: "heartbeat.topic",
        // Off: whoever wants it has to make the topic.
        default: "off",
        meaning: "Topic of a small row that the leader writes to its own outbox at a steady pace, so that a quiet outbox shows that the way to Kafka is open; off writes none.",
    },
    Key {
        name: "heartbeat.every",
        // Often enough to be missed within a minute, and a few thousand rows a day.
        default: "10s",
        meaning: "Pause between heartbeat rows; while one of them waits none follows.",
    },
    Key {
        name: "http.listen",
        default: "0.0.0.0:9464",
        meaning: "Address of /metrics, /livez, /readyz and /startupz.",
    },
    Key {
        name: "trace.endpoint",
        default: "off",
        meaning: "Where spans go: a collector's http:// address, by OTLP over HTTP (protobuf), with /v1/traces if it names no path; off makes none.",
    },
    Key {
        name: "trace.sample",
        // Services have decided already what they sample.
        default: "1",
        meaning: "Share of the traces that are followed, of those that the services have sampled, from 0 to 1; retried, failed and repeated rows always have a span.",
    },
    Key {
        name: "trace.mode",
        // A span for thousands of rows costs next to nothing.
        default: "links",
        meaning: "links: a span for each topic of a batch, linked to its rows' contexts; child: a span for each row, the child of its context.",
    },
    Key {
        name: "log.format",
        default: "text",
        meaning: "text for people, json for log collectors; both go to stderr.",
    },
    Key {
        name: "log.level",
        default: "info",
        meaning: "error, warn, info, debug or trace, also per target as in \"info,outbox_relay=debug\".",
    },
];

/// The keys of a `[[topic]]` section, in README's order.
pub const TOPIC_KEYS: &[Key] = &[
    Key { name: "match", default: "", meaning: "The topics: * stands for any characters, ? for one." },
    Key {
        name: "on_failure",
        default: "block",
        meaning: "block: later rows of the key wait for a row that failed; skip: they pass it.",
    },
    Key {
        name: "delivery",
        default: "at_least_once",
        meaning: "at_most_once: settled before it is sent, tried once, lost rather than sent twice.",
    },
    Key {
        name: "on_expiry",
        default: "drop",
        meaning: "What becomes of a row whose expires_at has passed: drop, or dead_letter.",
    },
    Key { name: "attempts", default: "retry.attempts", meaning: "As in [retry]." },
    Key { name: "age", default: "retry.age", meaning: "As in [retry]." },
    Key { name: "base", default: "retry.base", meaning: "As in [retry]." },
    Key { name: "max", default: "retry.max", meaning: "As in [retry]." },
    Key { name: "dead_per_minute", default: "retry.dead_per_minute", meaning: "As in [retry]." },
    Key { name: "rate", default: "", meaning: "Records a second of this topic at most." },
    Key {
        name: "dead_letter_topic",
        default: "",
        meaning: "A topic that gets a copy of each dead letter, with the original's coordinates in headers.",
    },
    Key { name: "owner", default: "", meaning: "Who is asked about the topic; alerts carry it." },
    Key {
        name: "tier",
        default: "standard",
        meaning: "critical, standard or low: how much an alert matters.",
    },
];

/// What a misspelt key of a `[[topic]]` section probably meant.
pub fn suggest_topic_key(name: &str) -> Option<&'static str> {
    let nearest = TOPIC_KEYS.iter().map(|key| key.name).min_by_key(|known| edits(name, known));
    nearest.filter(|known| edits(name, known) <= 3)
}

/// The key of this name, if there is one.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// What a misspelt name probably meant: the same word in another section, or a name at most three edits away.
pub fn suggest(name: &str) -> Option<&'static str> {
    let word = name.rsplit('.').next().unwrap_or(name);
    let names = || KEYS.iter().map(|key| key.name);
    names()
        .find(|known| known.rsplit('.').next() == Some(word))
        .or_else(|| names().min_by_key(|known| edits(name, known)).filter(|known| edits(name, known) <= 3))
}

/// Levenshtein distance in bytes; key names are ASCII.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, meant: Option<&str>) {
        assert_eq!(suggest(name), meant, "{name}");
    }

    #[test]
    fn misspelt_keys_find_their_neighbour() {
        check("relay.page_row", Some("relay.page_rows"));
        check("relay.pol_min", Some("relay.poll_min"));
        check("relay.ttl", Some("lease.ttl"));
        check("kafka.broker", Some("kafka.brokers"));
        check("brokers", Some("kafka.brokers"));
        check("vacuum.cost", None);
    }

    #[test]
    fn every_key_is_explained_once() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(key.meaning.ends_with('.') && key.name.contains('.'), "{}", key.name);
            assert!(
                KEYS[at + 1..].iter().all(|other| other.name != key.name),
                "{} is listed twice",
                key.name
            );
        }
    }
}
