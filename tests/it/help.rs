//! What a person finds out about the commands from the commands: help, completions, manual pages, and what a slip is answered.

use std::process::{Command, Output};

fn relay(arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command.args(arguments.split(' ').filter(|word| !word.is_empty())).env_clear();
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_slip_of_the_finger_is_answered_with_what_was_meant() {
    for (typed, meant) in [
        ("statsu", "'status'"),
        ("dlq requeu", "'requeue'"),
        ("topics pasue orders", "'pause'"),
        ("status --ouptut json", "'--output'"),
        ("status --output jsn", "'json'"),
    ] {
        let (code, data, talk) = relay(typed);
        assert_eq!((code, data.as_str()), (Some(2), ""), "{typed}: {talk}");
        assert!(talk.contains(meant) && talk.contains("similar"), "{typed}: {talk}");
    }
}

#[test]
fn help_begins_with_examples_and_names_the_exit_codes() {
    for arguments in ["", "--help", "help"] {
        let (code, data, talk) = relay(arguments);
        let help = data + &talk;
        assert!(code == Some(if arguments.is_empty() { 2 } else { 0 }), "{arguments}: {code:?}");
        let at = |words: &str| help.find(words).unwrap_or_else(|| panic!("{words} is missing: {help}"));
        assert!(help.starts_with("Publishes the rows") && at("Examples:") < at("Usage:"), "{help}");
        assert!(at("Usage:") < at("Commands:") && at("Options:") < at("Exit codes:"), "{help}");
    }
    let (_, help, _) = relay("dlq requeue --help");
    assert!(help.find("outbox-relay dlq requeue --group") < help.find("--dry-run  "), "{help}");
}

#[test]
fn shells_complete_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, talk) = relay(&format!("completions {shell}"));
        assert_eq!(code, Some(0), "{talk}");
        for word in ["requeue", "show-payload", "outbox-relay"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    // As bash itself does it: two words are typed, the third one is begun.
    let (_, script, _) = relay("completions bash");
    let typed = "\nCOMP_WORDS=(outbox-relay dlq req); COMP_CWORD=2; \
                 _outbox__relay outbox-relay req dlq; echo \"${COMPREPLY[@]}\"; complete -p outbox-relay";
    let output = Command::new("bash").args(["-c", &(script + typed)]).output().expect("bash is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("requeue\n") && said.contains("complete -o"), "{output:?}");
    assert_eq!(relay("completions tcsh").0, Some(2));
}

#[test]
fn every_command_has_a_manual_page() {
    let (code, page, _) = relay("man");
    assert_eq!(code, Some(0));
    for part in [".TH outbox-relay 1", "Exit codes", "outbox\\-relay demo", ".SH SUBCOMMANDS"] {
        assert!(page.contains(part), "{part} is missing: {page}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let to = directory.path().join("man1");
    let (code, _, talk) = relay(&format!("man {}", to.display()));
    assert_eq!(code, Some(0), "{talk}");
    let page =
        |name: &str| std::fs::read_to_string(to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for name in
        ["outbox-relay.1", "outbox-relay-status.1", "outbox-relay-dlq.1", "outbox-relay-topics-pause.1"]
    {
        assert!(page(name).contains(".TH"), "{name}");
    }
    let requeue = page("outbox-relay-dlq-requeue.1");
    for part in ["outbox\\-relay dlq requeue", "\\-\\-dry\\-run", "Examples:"] {
        assert!(requeue.contains(part), "{part} is missing: {requeue}");
    }
    let (code, _, talk) = relay("man /proc/nowhere");
    assert!(code == Some(1) && talk.contains("make the directory"), "{talk}");
}

#[test]
fn readme_has_a_row_for_every_command() {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("README.md is there");
    let section = text.split("\n### All commands\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let section = section.expect("README has a table of commands");
    let rows =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect::<Vec<_>>();
    let commands = outbox_relay::cli::command();
    let known: Vec<&str> = commands.get_subcommands().map(|command| command.get_name()).collect();
    for name in &known {
        assert!(rows.contains(name), "README's table of commands has no row for {name}");
    }
    for name in rows {
        assert!(known.contains(&name), "README's table of commands has {name}, which does not exist");
    }
}
