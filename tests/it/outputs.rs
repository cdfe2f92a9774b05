//! What the commands print: every JSON document against its schema in `docs/schemas`, every text against a golden file.
//!
//! `OUTBOX_RELAY_GOLDEN=write` writes the golden file anew, to be looked at in the diff.

pub mod schema;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use self::schema::{problems, schema};
use crate::operate::{Said, command, say, says};
use crate::support::lines::{Line, write};
use crate::support::{Env, Relay};

/// Something of everything: dead, blocked, behind, scheduled, laned, paused, paced, requeued and published.
pub async fn with_everything(env: &Env) -> (Relay, String, String) {
    // A broker hears of a topic a moment after it was made: until the relay has started it has.
    let limited = [("max.message.bytes", "2000")];
    let dead = env.create_topic("orders", 1, &limited).await;
    let failing = env.create_topic("failing", 1, &limited).await;
    let relay = env.relay().await.set("retry.base", "1h").set("retry.max", "24h").set("retry.attempts", 5);
    let relay = relay.topic("*.orders", "attempts = 1").expect_errors().start().await;
    let keys: Vec<String> = (0..5).map(|key| format!("k{key}")).collect();
    let letters: Vec<Line<'_>> = keys.iter().map(|key| Line::new(&dead, key, 0).of_bytes(5000)).collect();
    write(env, &letters).await;
    env.eventually_true("select count(*) = 5 from outbox.dead_letter").await;
    says(&say(env, "dlq discard --id 5 --reason test --yes").await, 0, &["done"]);
    let missing = env.topic("missing");
    let lines = [
        Line::new(&failing, "k", 0).of_bytes(5000),
        Line::new(&failing, "k", 1),
        Line::new(&failing, "other", 0),
    ];
    write(env, &lines).await;
    env.eventually_true("select count(*) = 2 from outbox.deferred").await;
    write(env, &[Line::new(&missing, "k", 0)]).await;
    env.expect_lane(&missing, "missing").await;
    write(env, &[Line::new(&missing, "k", 1)]).await;
    env.execute(&format!(
        "select outbox.publish('{dead}', 'later', '{{}}', deliver_after => now() + interval '1 hour')"
    ))
    .await;
    says(&say(env, "topics pause elsewhere --yes --why drill").await, 0, &["in effect"]);
    says(&say(env, "topics set 'x.*' --rate 500 --yes").await, 1, &["pattern"]);
    says(&say(env, "topics set x.* --rate 500 --for 1h --yes").await, 0, &["in effect"]);
    env.eventually_true(
        "select sum(waiting) = 1 and sum(scheduled) = 1 from outbox.backlog where topic is not null",
    )
    .await;
    env.eventually_true("select state = 'published' from outbox.status where id = 8").await;
    (relay, dead, failing)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_is_as_its_schema_says() {
    let env = Env::new().await;
    let as_new =
        ["status", "topics list", "dlq groups", "dlq list", "keys list", "lease show", "requests list"];
    let mut checked = BTreeSet::new();
    let mut check = |name: &str, document: Value| {
        let found = problems(&schema(name), &document);
        assert!(found.is_empty(), "{name}: {found:#?} in {document}");
        checked.insert(name.to_owned());
    };
    for command in as_new {
        check(&command.replace(' ', "-"), say(&env, &format!("{command} -o json")).await.json());
    }
    let (relay, _, failing) = with_everything(&env).await;
    says(&say(&env, "maintenance start --for 1h --yes").await, 0, &["in effect"]);
    let mut tap =
        command(&env, "admin_login", &["tap", "-o", "json", "--limit", "1", "--show-payload", "--key-hash"]);
    let tap = tap.spawn().expect("it starts");
    env.eventually_true(
        "select count(*) > 0 from pg_stat_activity where application_name = 'outbox-relay/operator' and query like '%age_seconds%' and datname = current_database()",
    )
    .await;
    write(&env, &[Line::new(&failing, "tapped", 0)]).await;
    let tapped = Said::of(tap.wait_with_output().await.expect("it ends"));
    check("tap", tapped.json());
    for command in as_new {
        let document = say(&env, &format!("{command} -o json")).await.json();
        assert!(document.as_array().is_none_or(|rows| !rows.is_empty()), "{command} has nothing to check");
        check(&command.replace(' ', "-"), document);
    }
    check("dlq-list", say(&env, "dlq list --all -o json").await.json());
    for arguments in ["dlq show 1", "dlq show 1 --show-payload"] {
        check("dlq-show", say(&env, &format!("{arguments} -o json")).await.json());
    }
    for arguments in ["dlq export --all", "dlq export --show-payload"] {
        let exported = say(&env, arguments).await;
        assert!(exported.data.lines().count() >= 4, "{}", exported.talk);
        exported.data.lines().for_each(|line| check("dlq-export", serde_json::from_str(line).expect("JSON")));
    }
    let requests = say(&env, "requests list -o json").await.json();
    for request in requests.as_array().expect("a list") {
        check("requests-show", say(&env, &format!("requests show {} -o json", request["id"])).await.json());
    }
    let brokers = env.kafka().await.server.brokers();
    for id in 1..=11 {
        let id = id.to_string();
        let mut told =
            command(&env, "admin_login", &["message", &id, "-o", "json", "--verify", "--show-payload"]);
        let told = Said::of(told.env("KAFKA_BROKERS", &brokers).output().await.expect("it starts"));
        check("message", told.json());
        check("message", say(&env, &format!("message {id} -o json")).await.json());
    }
    let mut compared = command(&env, "admin_login", &["reconcile", "--all", "-o", "json"]);
    let compared = Said::of(compared.env("KAFKA_BROKERS", &brokers).output().await.expect("it starts"));
    check("reconcile", compared.json());
    let small = ["bench", "--yes", "--from-rate", "20", "--to-rate", "40", "--step", "1s", "-o", "json"];
    let mut measured = command(&env, "postgres", &small);
    let measured = Said::of(measured.env("KAFKA_BROKERS", &brokers).output().await.expect("it starts"));
    check("bench", measured.json());
    let mut looked = command(&env, "relay_login", &["check", "-o", "json"]);
    let looked = Said::of(looked.env("KAFKA_BROKERS", &brokers).output().await.expect("it starts"));
    check("check", looked.json());
    let (_, board) = relay.get("/api/status").await.expect("it is served");
    check("api-status", serde_json::from_str(&board).expect("JSON"));

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let files =
        std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    for file in files {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(checked.contains(&name), "nothing is checked against docs/schemas/{name}.json");
    }
}

/// Without what differs from run to run: times, identities, seconds.
fn masked(text: &str, own: &[(&str, &str)]) -> String {
    let text = own.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let mask = |word: &str| {
        let plain = word.trim_matches([',', '(', ')', ';']);
        let is_number = |text: &str| text.contains('.') && text.parse::<f64>().is_ok();
        let masked = match plain {
            plain if plain.parse::<uuid::Uuid>().is_ok() => "<uuid>",
            plain if plain.len() == 10 && plain.bytes().filter(|b| *b == b'-').count() == 2 => "<date>",
            plain if plain.get(8..).is_some_and(|zone| zone.starts_with('+')) && plain.contains(':') => {
                "<time>"
            }
            plain if is_number(plain) => "<n>",
            _ => return word.to_owned(),
        };
        word.replace(plain, masked)
    };
    // Columns are as wide as what is in them, so their gaps are no part of it.
    let line = |line: &str| line.split_whitespace().map(mask).collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_is_as_it_was() {
    let env = Env::new().await;
    let (relay, dead, _) = with_everything(&env).await;
    let groups = say(&env, "dlq groups -o json").await.json();
    let fingerprint = groups[0]["fingerprint"].as_str().expect("text").to_owned();
    let holder = say(&env, "lease show -o json").await.json()["holder"].as_str().expect("text").to_owned();
    let prefix = dead.strip_suffix("orders").expect("it ends so").to_owned();
    let own = [(&*fingerprint, "<cause>"), (&*holder, "<holder>"), (&*prefix, "")];
    let mut found = String::new();
    for arguments in [
        "status",
        "topics list",
        "dlq groups",
        "dlq list --all",
        "dlq show 1",
        "dlq requeue --all --dry-run",
        "keys list",
        "requests list",
        "requests show 1",
        "message 1",
        "message 6",
        "message 8",
        "message 4711",
    ] {
        let said = say(&env, arguments).await;
        found.push_str(&format!("$ outbox-relay {arguments}\n{}", masked(&said.data, &own)));
        found.push_str(&masked(&said.talk, &own));
        found.push('\n');
    }
    assert!(relay.terminate().await.success());
    let path = format!("{}/tests/it/outputs/text.golden.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("OUTBOX_RELAY_GOLDEN").is_ok_and(|text| text == "write") {
        std::fs::write(&path, &found).expect("the repository can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (found, expected) in found.split("\n\n").zip(expected.split("\n\n")) {
        assert_eq!(found, expected);
    }
    assert_eq!(found, expected);
}
