//! An example or more for every command: what its help begins with, and what its manual page ends with.

use clap::Command;

use super::HELP;

/// Commands as they are typed, without the program's name, and what they do.
type Examples = &'static [(&'static str, &'static str)];

/// By command. A test takes care that none is forgotten and that all are understood.
pub const EXAMPLES: &[(&str, Examples)] = &[
    (
        "run",
        &[
            ("run", "with DATABASE_URL and KAFKA_BROKERS, or outbox-relay.toml"),
            ("run --config /etc/outbox-relay.toml", "with a file"),
        ],
    ),
    (
        "demo",
        &[
            ("demo", "with a private Postgres and librdkafka's mock cluster"),
            ("demo --kafka-jars target/kafka/lib", "with a real Kafka"),
        ],
    ),
    (
        "migrate",
        &[
            ("migrate", "create or upgrade the schema"),
            ("migrate --dry-run", "only print the SQL"),
            ("migrate --status", "what is applied"),
            ("migrate --rebase --pending skip", "this database is a copy with a life of its own"),
        ],
    ),
    (
        "check",
        &[
            ("check", "with the settings and the login that the relay will have"),
            ("check --wait 2m", "before a roll-out: until nothing fails, two minutes at most"),
            ("check --timeout 3s -o json", "for a monitor that must not hang"),
            ("check --strict", "a warning is a failure"),
        ],
    ),
    ("status", &[("status", "for people"), ("status -o json", "for programs")]),
    (
        "top",
        &[
            ("top", "until q"),
            ("top --interval 5s", "for a busy database"),
            ("top --once --size 120x40", "one screen, for a ticket"),
        ],
    ),
    (
        "tap",
        &[
            ("tap", "everything, until Ctrl-C"),
            ("tap --topic 'orders.*' --sample 100", "every hundredth of these topics"),
            ("tap --topic orders --key order-7 --limit 5", "the next five of one key"),
            ("tap -o json --show-payload", "payloads as well, a document a line"),
        ],
    ),
    (
        "message",
        &[
            ("message 4711", "by the header outbox-seq"),
            ("message 0e6c7a70-1111-4222-8333-444455556666 --within 1d", "by the header event-id"),
            ("message --topic orders --key order-7", "the newest ones of a key"),
            ("message 4711 --verify", "is the record there, and is it the same?"),
        ],
    ),
    (
        "reconcile",
        &[
            ("reconcile", "what was written in the last hour"),
            ("reconcile --from 1d -o json", "since yesterday, for programs"),
            ("reconcile --from-id 4000 --until-id 5000 --repair", "publish what is missing of these"),
        ],
    ),
    (
        "replay",
        &[
            ("replay --topic orders --from 2h --dry-run", "how many would that be?"),
            ("replay --id 4711 --why 'consumer lost its disk'", "one message"),
            (
                "replay --all --to orders.rebuilt --rate 500",
                "everything that is left, to another topic, slowly",
            ),
        ],
    ),
    (
        "bench",
        &[
            ("bench --dry-run", "what would be written, and to where"),
            ("bench --yes", "1,000 a second, 2,000, 4,000, … until it is too much"),
            (
                "bench --yes --from-rate 200 --to-rate 200 --step 1m -o json",
                "latency at one rate, for programs",
            ),
            ("bench --yes --bytes 10000 --writers 16", "larger messages, more connections"),
        ],
    ),
    (
        "dlq",
        &[
            ("dlq groups", "what messages died of"),
            ("dlq list --topic orders", "which ones"),
            ("dlq requeue --topic orders", "send them again"),
        ],
    ),
    ("dlq groups", &[("dlq groups", "what messages died of, and how many")]),
    (
        "dlq list",
        &[
            ("dlq list --topic orders --from 2h", "those of a topic that died lately"),
            ("dlq list --group 3f2a9c --limit 10", "some that died of one cause"),
        ],
    ),
    (
        "dlq show",
        &[("dlq show 4711", "all but the payload"), ("dlq show 4711 --show-payload", "that as well")],
    ),
    (
        "dlq requeue",
        &[
            ("dlq requeue --group 3f2a9c --dry-run", "how many would that be?"),
            ("dlq requeue --group 3f2a9c --why 'limit raised'", "send those of one cause again"),
            ("dlq requeue --topic orders --rate 100 --max 1000", "some of them, slowly"),
        ],
    ),
    ("dlq discard", &[("dlq discard --id 4711 --reason 'repaired by hand'", "nobody needs this one")]),
    ("dlq export", &[("dlq export --topic orders > letters.jsonl", "a document a line")]),
    ("keys", &[("keys list", "what does not move"), ("keys retry-now orders", "the cause is repaired")]),
    ("keys list", &[("keys list --topic orders", "of one topic")]),
    (
        "keys retry-now",
        &[("keys retry-now orders", "all of a topic"), ("keys retry-now orders order-7", "one key")],
    ),
    (
        "keys skip-head",
        &[("keys skip-head orders order-7 --why poison", "the first to the dead letters, the others go on")],
    ),
    ("keys release", &[("keys release orders order-7", "the others go on out of order")]),
    (
        "topics",
        &[("topics list", "what waits, and what is set"), ("topics pause orders --for 30m", "for a while")],
    ),
    ("topics list", &[("topics list", "what waits, and what is paused, paced or changed by whom")]),
    ("topics pause", &[("topics pause orders --for 30m --why 'consumers are down'", "resumes by itself")]),
    ("topics resume", &[("topics resume orders", "now")]),
    (
        "topics set",
        &[
            ("topics set orders --rate 500 --for 2h", "records a second, for a while"),
            ("topics set 'orders.*' --rate none", "as fast as it goes"),
            (r#"topics set orders --policy '{"attempts": 30}'"#, "keys of a [[topic]] section"),
            ("topics set orders --quota 100000", "producers are refused while so many wait"),
        ],
    ),
    ("lease", &[("lease show", "who leads, and who led"), ("lease resign", "let another relay lead")]),
    ("lease show", &[("lease show", "who leads, and who led")]),
    ("lease resign", &[("lease resign --why 'node is drained'", "another relay takes over within a second")]),
    (
        "maintenance",
        &[
            ("maintenance start --for 30m --why 'kafka upgrade'", "nobody is paged for it meanwhile"),
            ("maintenance end", "done earlier"),
        ],
    ),
    (
        "maintenance start",
        &[
            ("maintenance start --for 30m --why 'kafka upgrade'", "ends by itself"),
            ("maintenance start --for 2h --why 'it takes longer'", "another end, from now on"),
        ],
    ),
    ("maintenance end", &[("maintenance end --why 'kafka is back'", "alerts are on again")]),
    ("requests", &[("requests list", "the audit trail"), ("requests cancel 17", "goes no further")]),
    ("requests list", &[("requests list --open", "what is not over")]),
    ("requests show", &[("requests show 17", "who, when, why, and what came of it")]),
    ("requests cancel", &[("requests cancel 17 --why 'wrong topic'", "what is done stays done")]),
    ("debug", &[("debug bundle", "everything that helps to help, in one archive")]),
    (
        "debug bundle",
        &[
            ("debug bundle", "with the metrics of the relay on this host"),
            ("debug bundle --file /tmp/bundle.tar.gz --http relay-0:9464", "of another one"),
        ],
    ),
    ("config", &[("config show", "what is in effect, and why"), ("config validate", "is anything wrong?")]),
    ("config show", &[("config show --config relay.toml", "every setting, and where it came from")]),
    (
        "config validate",
        &[
            ("config validate --config relay.toml", "is it right, and do Postgres and Kafka take it?"),
            ("config validate --no-connect", "where neither can be reached, such as in CI"),
        ],
    ),
    (
        "completions",
        &[
            ("completions bash > /etc/bash_completion.d/outbox-relay", "for everybody on this host"),
            ("completions fish > ~/.config/fish/completions/outbox-relay.fish", "for yourself"),
        ],
    ),
    (
        "man",
        &[
            ("man > outbox-relay.1", "the first page"),
            ("man /usr/local/share/man/man1", "a page for every command"),
        ],
    ),
];

/// Puts examples before the options of every command's help.
pub fn first(command: Command) -> Command {
    each(command, "", &|command, examples| command.before_help(examples).help_template(HELP))
}

/// Puts them behind everything else, where manual pages have them.
pub fn last(command: Command) -> Command {
    each(command, "", &|command, examples| command.after_help(examples))
}

fn each(command: Command, path: &str, put: &dyn Fn(Command, String) -> Command) -> Command {
    let command = command.mut_subcommands(|inner| {
        let path = format!("{path} {}", inner.get_name());
        each(inner, path.trim(), put)
    });
    match EXAMPLES.iter().find(|(of, _)| *of == path) {
        Some((_, examples)) => put(command, as_text(examples)),
        None => command,
    }
}

/// In two columns.
fn as_text(examples: Examples) -> String {
    let width = examples.iter().map(|(typed, _)| typed.chars().count()).max().unwrap_or(0);
    let lines = examples.iter().map(|(typed, does)| format!("\n  outbox-relay {typed:<width$}   {does}"));
    format!("Examples:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, command};

    /// As a shell would take the line apart, up to a redirection.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                '>' if !quoted => break,
                c => words.last_mut().expect("there is a first one").push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    fn paths(command: &Command, path: &str, found: &mut Vec<String>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            paths(inner, &path, found);
            found.push(path);
        }
    }

    #[test]
    fn every_command_has_examples_that_are_understood() {
        let mut all = Vec::new();
        paths(&command(), "", &mut all);
        assert!(all.len() > 25, "{all:?}");
        for path in &all {
            let known = EXAMPLES.iter().find(|(of, _)| of == path);
            let (_, examples) =
                known.unwrap_or_else(|| panic!("src/cli/examples.rs has no example for {path}"));
            for (line, _) in *examples {
                assert!(line.starts_with(path.as_str()), "{line} is no example for {path}");
                let parsed = Cli::try_parse_from([vec!["outbox-relay".to_owned()], words(line)].concat());
                parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        for (path, _) in EXAMPLES {
            assert!(all.iter().any(|known| known == path), "there is no command {path}");
        }
    }

    #[test]
    fn examples_come_before_the_options() {
        let mut all = Vec::new();
        paths(&command(), "", &mut all);
        for path in all {
            let mut inner = command();
            for name in path.split(' ') {
                inner = inner.find_subcommand(name).expect("it is listed").clone();
            }
            for help in [inner.render_help().to_string(), inner.render_long_help().to_string()] {
                let at =
                    |words: &str| help.find(words).unwrap_or_else(|| panic!("{path} has no {words}: {help}"));
                assert!(at("Examples:") < at("Usage:") && at("Usage:") < at("Options:"), "{help}");
                assert!(at("Examples:") > 5, "it says first what it does: {help}");
            }
        }
    }
}
