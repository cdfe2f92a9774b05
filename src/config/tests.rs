//! Loading as a user meets it: a file's text and an environment in, settings or the list of problems out.

use super::*;

const MINIMUM: [(&str, &str); 2] =
    [("DATABASE_URL", "postgres://relay:hunter2@db/shop"), ("KAFKA_BROKERS", "k1:9092,k2:9092")];

/// Loads `text` as the file under `environment`.
fn load_from(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("relay.toml");
    std::fs::write(&file, text).expect("a file in it");
    let owned: Vec<_> = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config::load(Some(&file), owned.into_iter())
}

/// Loads with the minimum in the environment, which must succeed.
#[track_caller]
fn loaded(text: &str, more: &[(&str, &str)]) -> Config {
    load_from(text, &[&MINIMUM, more].concat()).unwrap_or_else(|error| panic!("{error}"))
}

/// Loads with the minimum in the environment and compares the problems: each expected part in one problem, in order.
#[track_caller]
fn check(text: &str, more: &[(&str, &str)], expected: &[&str]) {
    let problems =
        load_from(text, &[&MINIMUM, more].concat()).err().map(|error| error.problems).unwrap_or_default();
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, part) in problems.iter().zip(expected) {
        assert!(problem.contains(part), "{problem}\nshould contain\n{part}");
        assert!(!problem.contains("hunter2"), "{problem} shows a password");
    }
}

#[test]
fn two_variables_are_enough() {
    let config = loaded("", &[]);
    assert_eq!(config.postgres.host_urls(), [Secret::from("postgres://relay:hunter2@db/shop")]);
    assert_eq!(config.kafka.brokers, ["k1:9092", "k2:9092"]);
    assert_eq!((config.relay.page_rows, config.relay.page_bytes), (10_000, 4 << 20));
    assert_eq!(config.lease.ttl, Duration::from_secs(5));
    assert_eq!(config.kafka.header_epoch, None);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn our_variables_win_over_the_common_ones_and_these_over_the_file() {
    let text =
        "[postgres]\nurl = 'postgres://file/db'\n[relay]\npage_rows = 10\n[kafka]\nbrokers = ['file:1']";
    let config =
        loaded(text, &[("OUTBOX_RELAY__KAFKA__BROKERS", "own:1"), ("OUTBOX_RELAY__RELAY__POLL_MIN", "7ms")]);
    assert_eq!(config.postgres.host_urls()[0].expose(), "postgres://relay:hunter2@db/shop");
    assert_eq!(config.kafka.brokers, ["own:1"]);
    assert_eq!((config.relay.page_rows, config.relay.poll_min), (10, Duration::from_millis(7)));
    // An empty variable is one that is not set.
    assert_eq!(loaded(text, &[("OUTBOX_RELAY__KAFKA__BROKERS", "")]).kafka.brokers, ["k1:9092", "k2:9092"]);
}

#[test]
fn topics_have_policies() {
    let config = loaded(
        "[retry]\nattempts = 4\n[[topic]]\nmatch = 'audit.*'\ndelivery = 'at_most_once'\nrate = 50\n\
         [[topic]]\nmatch = '*.eu'\nattempts = 7\nmax = '2s'\nowner = 'eu'",
        &[],
    );
    let policy = config.policies.of("audit.eu");
    assert_eq!((policy.attempts, policy.rate, policy.owner.as_deref()), (7, Some(50), Some("eu")));
    assert_eq!(policy.backoff.max, Duration::from_secs(2));
    assert_eq!(config.policies.of("orders").attempts, 4);
    let shown = config.show();
    assert!(shown.contains("\n[[topic]]\n") && shown.contains("match = \"*.eu\""), "{shown}");
    check(
        "[[topic]]\nmatch = 'a b'\n[[topic]]\nrat = 5\n[[topic]]\nmatch = 'x'\nrate = 0\non_failure = 'wait'",
        &[("OUTBOX_RELAY__TOPIC__MATCH", "x")],
        &[
            "sections [[topic]] need a file",
            "number 1: match = \"a b\" is not a pattern",
            "number 2: unknown key rat; did you mean rate?",
            "number 2: match is missing",
            "number 3: on_failure = \"wait\" must be block or skip",
            "number 3: rate = \"0\" must be between 1",
        ],
    );
    check("[topic]\nmatch = 'x'", &[], &["must be written as sections [[topic]]"]);
}

#[test]
fn a_heartbeat_needs_the_name_of_a_topic() {
    assert_eq!(loaded("", &[]).heartbeat.topic, None);
    assert_eq!(loaded("[heartbeat]\ntopic = ''", &[]).heartbeat.topic, None);
    let config = loaded("[heartbeat]\ntopic = 'outbox.heartbeat'", &[]);
    assert_eq!(config.heartbeat.topic.as_deref(), Some("outbox.heartbeat"));
    assert_eq!(config.heartbeat.every, Duration::from_secs(10));
    check("[heartbeat]\ntopic = 'a b'", &[], &["heartbeat.topic = \"a b\""]);
    check("[heartbeat]\ntopic = '..'\nevery = '1ms'", &[], &["is not a topic name", "must be between 100ms"]);
}

#[test]
fn spans_go_to_a_collector_nearby() {
    let endpoint = |text: &str| {
        loaded("", &[("OUTBOX_RELAY__TRACE__ENDPOINT", text)]).trace.endpoint.unwrap_or_default()
    };
    assert_eq!(loaded("", &[]).trace, TraceConfig { endpoint: None, sample: 1.0, mode: TraceMode::Links });
    assert_eq!(endpoint("off"), "");
    assert_eq!(endpoint("http://collector:4318"), "http://collector:4318/v1/traces");
    assert_eq!(endpoint("http://[::1]:4318/"), "http://[::1]:4318/v1/traces");
    assert_eq!(endpoint("http://collector:4318/own/path"), "http://collector:4318/own/path");
    for (text, part) in [
        ("collector:4318", "is not the address of a collector"),
        ("http://", "is not the address of a collector"),
        ("http://user:secret@collector:4318", "is not the address of a collector"),
        ("https://collector:4318", "must be http://"),
    ] {
        check("", &[("OUTBOX_RELAY__TRACE__ENDPOINT", text)], &[part]);
    }
    let bad = "[trace]\nsample = 1.5\nmode = 'parent'";
    check(bad, &[], &["trace.sample = \"1.5\"", "must be links or child"]);
    assert_eq!(loaded("[trace]\nsample = 0.25\nmode = 'child'", &[]).trace.sample, 0.25);
}

#[test]
fn properties_keep_their_dots_and_their_text() {
    let text = r#"
        [kafka.properties]
        security.protocol = "SASL_SSL"
        "sasl.mechanism" = "PLAIN"
        sasl.password = "00123"
        linger.ms = 20
        socket.keepalive.enable = true
    "#;
    let environment = ("OUTBOX_RELAY__KAFKA__PROPERTIES", r"linger.ms=0; sasl.username=a=b\;c\d\\;");
    let properties = loaded(text, &[environment]).kafka.properties;
    let plain: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(
        plain,
        [
            ("linger.ms", "0"),
            ("sasl.mechanism", "PLAIN"),
            ("sasl.password", "00123"),
            ("sasl.username", r"a=b;c\d\"),
            ("security.protocol", "SASL_SSL"),
            ("socket.keepalive.enable", "true"),
        ]
    );
}

#[test]
fn all_problems_come_together() {
    let text = r#"
        colour = "red"
        [relay]
        page_row = 5
        poll_min = "5 parsecs"
        page_rows = "many"
        window_rows = 0
        window_bytes = "2MiB"
        durable_marks = "maybe"
        [retry]
        base = "10m"
        [lease]
        ttl = 5
        [kafka.properties]
        acks = 1
        ratio = 0.10
        [vacuum]
    "#;
    let environment = [("OUTBOX_RELAY__LEASE__TTLL", "5s"), ("OUTBOX_RELAY__LOG__LEVEL", "loud")];
    check(
        text,
        &environment,
        &[
            "relay.toml: unknown key colour",
            "relay.toml: unknown key relay.page_row; did you mean relay.page_rows?",
            "relay.toml: unknown key vacuum",
            "unknown variable OUTBOX_RELAY__LEASE__TTLL; did you mean OUTBOX_RELAY__LEASE__TTL?",
            "kafka.properties.ratio",
            "kafka.properties.acks: would break a promise",
            "relay.poll_min = \"5 parsecs\"",
            "relay.page_rows = \"many\"",
            "relay.window_rows = \"0\"",
            "relay.durable_marks = \"maybe\"",
            "lease.ttl = \"5\"",
            "log.level = \"loud\" (OUTBOX_RELAY__LOG__LEVEL) is not error",
            "relay.page_bytes must not be above relay.window_bytes",
            "retry.base must not be above retry.max",
        ],
    );
}

#[test]
fn rules_about_one_key() {
    check("relay = 5", &[], &["relay must be a section [relay]"]);
    check("[relay]\npage_rows = { a = 1 }", &[], &["relay.page_rows"]);
    check("[kafka]\nproperties = 5", &[], &["must be a section [kafka.properties]"]);
    check("[kafka]\nunsafe = ['linger.ms']", &[], &["carries no promise"]);
    check("[kafka]\nunsafe = ['acks']\nproperties = { acks = 1 }", &[], &[]);
    check("[kafka]\nheader_seq = 'event-id'", &[], &["must differ"]);
    check("[kafka]\nheader_epoch = 'outbox-epoch'", &[], &[]);
    check("[http]\nlisten = '9464'", &[], &["is not address:port"]);
    check("[log]\nformat = 'xml'", &[], &["must be text or json"]);
    check("[log]\nlevel = 'info,outbox_relay=debug'", &[], &[]);
    check("[log]\nlevel = 'info,outbox_relay=chatty'", &[], &["log.level"]);
    check("[lease]\nttl = '1s'\n[relay]\npoll_max = '500ms'", &[], &["a third"]);
    check(
        "",
        &[("OUTBOX_RELAY__KAFKA__BROKERS", "k1:9092,k2:port,u:hunter2@k3:9092")],
        &["\"k2:port\" is not host:port", "\"***\" is not"],
    );
    check(
        "",
        &[("OUTBOX_RELAY__KAFKA__PROPERTIES", "sasl.password=x;hunter2")],
        &["part 2 is not name=value"],
    );
    check("", &[("OUTBOX_RELAY__KAFKA__PROPERTIES__ACKS", "1")], &["properties go together"]);
    check("", &[("OUTBOX_RELAY__RETRY__TEMPTS", "10")], &["unknown variable"]);
    check(
        "",
        &[("OUTBOX_RELAY_SERVICE_HOST", "10.0.0.1"), ("OUTBOX_RELAY_PORT", "tcp://10.0.0.1:9464")],
        &[],
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused_without_quoting_it() {
    check("[postgres]\nurl = \"postgres://relay:hunter2@db\n", &[], &["TOML parse error at line 2"]);
    let missing =
        Config::load(Some(Path::new("/nowhere/relay.toml")), std::iter::empty()).expect_err("no file");
    assert_eq!(missing.problems.len(), 1, "what is missing besides is not known: {missing}");
    assert!(missing.problems[0].contains("/nowhere/relay.toml: cannot be read"), "{missing}");
}

#[test]
fn what_is_missing_is_said_with_its_remedy() {
    let error = load_from("", &[]).expect_err("nothing is set");
    assert_eq!(error.problems.len(), 2, "{error}");
    assert!(
        error.problems[0].contains("DATABASE_URL") && error.problems[1].contains("KAFKA_BROKERS"),
        "{error}"
    );
    let postgres_only = [("DATABASE_URL".to_owned(), "postgres://db/shop".to_owned())];
    assert!(Config::load_without_kafka(None, postgres_only.into_iter()).is_ok());
}

#[test]
fn the_url_may_stand_in_a_file_that_changes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("url");
    let path = file.to_str().expect("UTF-8");
    std::fs::write(&file, "postgres://relay:one@h1,h2/shop\n").expect("written");
    let config = loaded("", &[("OUTBOX_RELAY__POSTGRES__URL_FILE", path)]);
    assert_eq!(config.postgres.host_urls().len(), 2);
    std::fs::write(&file, "postgres://relay:two@h1/shop").expect("written");
    let again = config.postgres.reread_host_urls().expect("readable");
    assert_eq!(again, [Secret::from("postgres://relay:two@h1/shop")]);
    std::fs::remove_file(&file).expect("removed");
    assert!(config.postgres.reread_host_urls().is_err());

    check("", &[("OUTBOX_RELAY__POSTGRES__URL_FILE", path)], &["cannot be read"]);
    let both = format!("[postgres]\nurl = 'postgres://db/a'\nurl_file = '{path}'");
    std::fs::write(&file, "postgres://db/shop").expect("written");
    let error = load_from(&both, &MINIMUM[1..]).expect_err("both are set");
    assert!(error.problems[0].contains("both set"), "{error}");
}

#[test]
fn the_shown_configuration_is_toml_without_secrets() {
    let text =
        "[kafka.properties]\nsasl.password = 'hunter2'\nsasl.username = 'relay'\n[relay]\npage_rows = 7";
    let config = loaded(text, &[]);
    let shown = config.show();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("url = \"postgres://***@db/shop\"  # DATABASE_URL\n"), "{shown}");
    assert!(shown.contains("\"sasl.password\" = \"***\""), "{shown}");
    assert!(shown.contains("poll_min = \"2ms\"  # default\n"), "{shown}");
    let again = loaded(&shown.replace("url = ", "# url = "), &[]);
    assert_eq!(again.relay, config.relay);
    assert_eq!(again.digest(), config.digest());
    assert_ne!(again.digest(), loaded("", &[]).digest());
    for key in KEYS.iter().filter(|key| !key.default.is_empty() && key.name != "kafka.properties") {
        let (_, name) = key.name.split_once('.').expect("section.key");
        assert!(shown.contains(&format!("\n{name} = ")), "{} is not shown", key.name);
    }
}
