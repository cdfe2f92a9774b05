//! The operators' commands: dead letters, topics, keys, requests, the lease; as a person types them.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::support::lines::{Line, versions, write};
use crate::support::{DEADLINE, Env, RelayBuilder, eventually};

/// A member of outbox_admin, unless another login is named.
pub fn command(env: &Env, login: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", env.url_as(login))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn run_as(env: &Env, login: &str, arguments: &[&str]) -> Output {
    tokio::time::timeout(DEADLINE, command(env, login, arguments).output())
        .await
        .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
        .expect("it starts")
}

/// What a command said.
pub struct Said {
    pub code: i32,
    pub data: String,
    pub talk: String,
}

impl Said {
    pub fn of(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            data: String::from_utf8(output.stdout).expect("UTF-8"),
            talk: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}{}", self.data, self.talk))
    }
}

/// As a member of outbox_admin.
pub async fn say(env: &Env, arguments: &str) -> Said {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    Said::of(run_as(env, "admin_login", &arguments).await)
}

#[track_caller]
pub fn says(said: &Said, code: i32, words: &[&str]) {
    let all = format!("{}{}", said.data, said.talk);
    assert_eq!(said.code, code, "{all}");
    for word in words {
        assert!(all.contains(word), "{word:?} is not in: {all}");
    }
}

pub async fn strict(env: &Env) -> RelayBuilder {
    let relay = env.relay().await.set("retry.base", "20ms").set("retry.max", "100ms").set("lease.ttl", "1s");
    relay.set("retry.attempts", 2).expect_errors()
}

/// A topic with five dead letters of five keys: rows that were too large for it. It takes them now.
pub async fn with_dead_letters(env: &Env) -> String {
    let topic = env.create_topic("orders", 1, &[("max.message.bytes", "2000")]).await;
    let keys: Vec<String> = (0..5).map(|key| format!("k{key}")).collect();
    let lines: Vec<Line<'_>> = keys.iter().map(|key| Line::new(&topic, key, 0).of_bytes(5000)).collect();
    write(env, &lines).await;
    env.eventually_true("select count(*) = 5 from outbox.dead_letter where state = 'open'").await;
    topic
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_shown_and_sent_again() {
    let env = Env::new().await;
    let _relay = strict(&env).await.start().await;
    says(&say(&env, "dlq groups").await, 0, &["no dead letters"]);
    let topic = with_dead_letters(&env).await;

    let groups = say(&env, "dlq groups --output json").await.json();
    assert_eq!(groups[0]["letters"], 5, "{groups}");
    assert_eq!(groups[0]["topics"][0], *topic, "{groups}");
    let text = say(&env, "dlq groups").await;
    says(&text, 0, &["FINGERPRINT", &topic, groups[0]["fingerprint"].as_str().expect("text")]);

    let listed = say(&env, "dlq list --key k3 -o json").await.json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    let id = listed[0]["id"].to_string();
    let shown = say(&env, &format!("dlq show {id}")).await;
    says(&shown, 0, &["k3", "open", "first failed"]);
    assert!(!shown.data.contains("payload"), "{}", shown.data);
    let all = say(&env, "dlq export").await;
    assert_eq!(all.data.lines().count(), 5, "{}", all.data);

    says(&say(&env, "dlq requeue").await, 1, &["names no dead letters", "--all"]);
    says(&say(&env, "dlq requeue --topic nosuch --yes").await, 0, &["no open dead letter fits"]);
    says(
        &say(&env, "dlq requeue --all --dry-run").await,
        0,
        &["would send 5 dead letters", "nothing was changed"],
    );
    says(&say(&env, "dlq requeue --all").await, 1, &["nothing was changed", "--yes"]);
    assert_eq!(env.one::<i64>("select count(*) from outbox.request").await, 0);

    env.alter_topic(&topic, &[]).await;
    says(&say(&env, "dlq discard --key k0 --reason test --yes").await, 0, &["done", "1 rows"]);
    let requeued =
        say(&env, &format!("dlq requeue --topic {topic} --rate 100 --max 3 --yes --why repaired")).await;
    says(&requeued, 0, &["done", "3 rows"]);
    env.expect_records(&topic, 3).await;
    says(&say(&env, "dlq requeue --from 1h --yes").await, 0, &["done", "1 rows"]);
    env.expect_records(&topic, 4).await;
    says(&say(&env, "dlq list").await, 0, &["no dead letters"]);
    let all = say(&env, "dlq list --all -o json").await.json();
    let states: Vec<&str> =
        all.as_array().expect("a list").iter().filter_map(|l| l["state"].as_str()).collect();
    assert_eq!(states.iter().filter(|&&state| state == "requeued").count(), 4, "{states:?}");
    let audit = say(&env, "requests list -o json").await.json();
    assert_eq!(audit.as_array().map(Vec::len), Some(3), "{audit}");
    assert_eq!((&audit[1]["why"], &audit[1]["who"]), (&"repaired".into(), &"admin_login".into()), "{audit}");
    says(&say(&env, "requests list").await, 0, &["repaired", "discard"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_who_requeue_the_same_group_at_once_send_it_once() {
    let env = Env::new().await;
    let _relay = strict(&env).await.start().await;
    let topic = with_dead_letters(&env).await;
    env.alter_topic(&topic, &[]).await;
    let group: String = env.one("select fingerprint from outbox.dead_letter limit 1").await;
    let requeue = format!("dlq requeue --group {group} --yes");
    let (one, other) = tokio::join!(say(&env, &requeue), say(&env, &requeue));
    // Whoever comes second finds nothing, or what the first one has left.
    for said in [&one, &other] {
        assert_eq!(said.code, 0, "{}", said.talk);
    }
    env.expect_records(&topic, 5).await;
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    assert_eq!(env.read_topic(&topic).await.len(), 5, "{} {}", one.talk, other.talk);
    assert_eq!(
        env.one::<i64>("select sum(done)::bigint from outbox.request where kind = 'requeue'").await,
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_shown_to_whoever_may_ask_and_a_note_stays() {
    let env = Env::new().await;
    let relay = strict(&env).await.start().await;
    with_dead_letters(&env).await;
    let id = say(&env, "dlq list --limit 1 -o json").await.json()[0]["id"].to_string();
    let shown = say(&env, &format!("dlq show {id} --show-payload -o json")).await.json();
    assert!(
        shown["payload_base64"].as_str().is_some_and(|text| text.starts_with("MDAwMDAwMDB4eHh4")),
        "{shown}"
    );
    let exported = say(&env, "dlq export --show-payload").await;
    assert_eq!(exported.data.matches("payload_base64").count(), 5, "{}", exported.talk);
    let notes = say(&env, "requests list -o json").await.json();
    assert_eq!((&notes[0]["kind"], &notes[0]["done"]), (&"reveal".into(), &5.into()), "{notes}");
    assert_eq!((&notes[1]["kind"], &notes[1]["why"]), (&"reveal".into(), &"dlq show".into()), "{notes}");
    assert_eq!(
        notes[1]["who"], "admin_login",
        "the function runs with other rights, the note keeps who called it"
    );

    let refused = Said::of(run_as(&env, "reader_login", &["dlq", "show", &id, "--show-payload"]).await);
    says(&refused, 1, &["permission denied", "outbox_admin"]);
    let seen = Said::of(run_as(&env, "reader_login", &["dlq", "show", &id]).await);
    says(&seen, 0, &["fingerprint"]);
    let refused = Said::of(run_as(&env, "reader_login", &["dlq", "requeue", "--all", "--yes"]).await);
    says(&refused, 1, &["outbox_admin"]);
    assert_eq!(relay.logged("request carried out"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_paused_for_a_while_and_paced() {
    let env = Env::new().await;
    let _relay = strict(&env).await.start().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    env.expect_records(&topic, 1).await;
    says(&say(&env, "topics list").await, 0, &["nothing of any topic waits"]);
    let paused = say(&env, &format!("topics pause {topic} --for 30m --yes --why drill")).await;
    says(&paused, 0, &["in effect until"]);
    env.expect_lane(&topic, "paused").await;
    write(&env, &[Line::new(&topic, "k", 1)]).await;
    let listed = say(&env, "topics list").await;
    says(&listed, 0, &[&topic, "paused", "drill", "admin_login"]);
    let open = say(&env, "requests list --open -o json").await.json();
    let id = open[0]["id"].to_string();
    says(&say(&env, &format!("requests cancel {id} --yes")).await, 0, &["done"]);
    env.expect_records(&topic, 2).await;
    says(&say(&env, &format!("requests cancel {id} --yes")).await, 0, &["is over: cancelled"]);

    says(&say(&env, &format!("topics set {topic} --rate 500 --yes")).await, 0, &["in effect"]);
    let listed = say(&env, "topics list -o json").await.json();
    assert_eq!(listed["in_effect"][0]["value"]["rate"], 500, "{listed}");
    says(&say(&env, &format!("topics set {topic} --rate none --yes")).await, 0, &["in effect"]);
    says(&say(&env, &format!("topics set {topic} --rate 0 --yes")).await, 1, &["at least 1 record a second"]);
    says(&say(&env, &format!("topics set {topic} --rate many --yes")).await, 1, &["whole number"]);
    says(&say(&env, "topics pause no/topic --yes").await, 1, &["letters, digits"]);
    says(&say(&env, "requests show 4711").await, 1, &["there is no request 4711"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_from_the_first_row_on_of_a_topic_that_was_never_seen() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let other = env.create_topic("users", 1, &[]).await;
    let _relay = strict(&env).await.start().await;
    says(&say(&env, &format!("topics pause {topic} --yes")).await, 0, &["in effect"]);
    env.expect_lane(&topic, "paused").await;
    write(&env, &[Line::new(&topic, "k", 0), Line::new(&other, "k", 0)]).await;
    env.expect_records(&other, 1).await;
    env.eventually_true(&format!("select waiting = 1 from outbox.backlog where topic = '{topic}'")).await;
    assert_eq!(env.read_topic(&topic).await.len(), 0);
    says(&say(&env, &format!("topics resume {topic} --yes")).await, 0, &["done"]);
    env.expect_records(&topic, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_keys_and_the_lease_are_shown() {
    let env = Env::new().await;
    let relay =
        env.relay().await.set("retry.base", "1h").set("retry.max", "1h").expect_errors().start().await;
    let topic = env.create_topic("orders", 1, &[("max.message.bytes", "2000")]).await;
    says(&say(&env, "keys list").await, 0, &["no key is blocked"]);
    write(&env, &[Line::new(&topic, "k\u{1b}", 0).of_bytes(5000), Line::new(&topic, "k\u{1b}", 1)]).await;
    env.eventually_true("select count(*) = 2 from outbox.deferred").await;
    let keys = say(&env, &format!("keys list --topic {topic} -o json")).await.json();
    assert_eq!((&keys[0]["key"], &keys[0]["waiting"]), (&"k\u{1b}".into(), &1.into()), "{keys}");
    let text = say(&env, "keys list").await;
    says(&text, 0, &["BEHIND IT", &topic]);
    assert!(!text.data.contains('\u{1b}'), "no control character reaches the terminal");

    let lease = say(&env, "lease show -o json").await.json();
    assert_eq!(lease["epoch"], 1, "{lease}");
    assert_eq!(lease["history"][0]["epoch"], 1, "{lease}");
    says(&say(&env, "lease show").await, 0, &["holder", &relay.pid().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_work_is_announced_with_an_end_shown_and_ended() {
    let env = Env::new().await;
    let _relay = strict(&env).await.start().await;
    says(&say(&env, "maintenance end --yes").await, 0, &["no maintenance is announced"]);
    says(&say(&env, "maintenance start --yes").await, 2, &["--for"]);
    says(&say(&env, "maintenance start --for 25h --yes").await, 1, &["a day at most"]);
    let said = say(&env, "maintenance start --for 30m --dry-run").await;
    says(&said, 0, &["would hold alerts", "30m", "nothing was changed"]);
    says(&say(&env, "maintenance start --for 30m --yes --why upgrade").await, 0, &["in effect until"]);
    let status = say(&env, "status").await;
    says(&status, 0, &["maintenance", "until", "by admin_login: upgrade", "nothing is paused"]);
    says(&say(&env, "maintenance start --for 1d --yes").await, 0, &["in effect until"]);
    says(&say(&env, "maintenance end --yes --why done").await, 0, &["done"]);
    assert!(!say(&env, "status").await.data.contains("maintenance"));
    let audit = say(&env, "requests list").await;
    says(&audit, 0, &["cancelled", "upgrade"]);
    let refused =
        Said::of(run_as(&env, "reader_login", &["maintenance", "start", "--for", "1h", "--yes"]).await);
    says(&refused, 1, &["outbox_admin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_without_a_leader_is_told_and_may_go() {
    let env = Env::new().await;
    let asking: Child =
        command(&env, "admin_login", &["topics", "pause", "orders", "--yes"]).spawn().expect("it starts");
    env.eventually_true("select count(*) = 1 from outbox.request where state = 'asked'").await;
    let pid = rustix::process::Pid::from_raw(asking.id().expect("it runs") as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is there");
    let said = Said::of(asking.wait_with_output().await.expect("it ends"));
    says(&said, 3, &["goes on without you", "requests cancel 1"]);
    says(&say(&env, "topics pause orders --yes --no-wait").await, 3, &["asked as request 2"]);

    let unmigrated = Env::builder().unmigrated().start().await;
    let said = Said::of(run_as(&unmigrated, "postgres", &["dlq", "groups"]).await);
    says(&said, 1, &["outbox-relay migrate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_the_metrics_say() {
    let env = Env::new().await;
    says(&say(&env, "status").await, 0, &["nobody leads"]);
    let relay = strict(&env).await.start().await;
    let topic = with_dead_letters(&env).await;
    let missing = env.topic("missing");
    write(&env, &[Line::new(&missing, "k", 0)]).await;
    env.expect_lane(&missing, "missing").await;
    write(&env, &[Line::new(&missing, "k", 1), Line::new(&missing, "l", 0)]).await;
    env.eventually_true("select sum(waiting) = 2 from outbox.backlog where topic is not null").await;
    let status = say(&env, "status -o json").await.json();
    assert_eq!(
        (&status["dead_letters"], &status["laned"], &status["epoch"]),
        (&5.into(), &2.into(), &1.into()),
        "{status}"
    );
    for (field, state) in
        [("ready", "ready"), ("retrying", "retrying"), ("behind", "blocked"), ("laned", "laned")]
    {
        let expected = status[field].as_f64().expect("a number");
        eventually(DEADLINE, "status and metrics agree", async || {
            relay.metrics().await.value("outbox_backlog_messages", &[("state", state)]) == expected
        })
        .await;
    }
    let text = say(&env, "status").await;
    says(&text, 0, &["last beat", "5 of 1 causes", "missing", &topic, &relay.pid().to_string()]);
    assert!(text.data.lines().count() < 24, "one screen: {}", text.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_tells_its_life_by_id_event_id_and_key() {
    let env = Env::new().await;
    let _relay = strict(&env).await.start().await;
    let topic = env.create_topic("orders", 1, &[("max.message.bytes", "2000")]).await;
    let ids = write(&env, &[Line::new(&topic, "good", 0), Line::new(&topic, "bad", 0).of_bytes(5000)]).await;
    env.eventually_true("select count(*) = 1 from outbox.dead_letter").await;
    env.expect_records(&topic, 1).await;
    env.eventually_true(&format!("select state = 'published' from outbox.status where id = {}", ids[0]))
        .await;

    let good = say(&env, &format!("message {}", ids[0])).await;
    says(&good, 0, &["published", "partition 0, offset 0", &topic]);
    let event = say(&env, &format!("message {} -o json", ids[1])).await.json()[0]["event_id"]
        .as_str()
        .map(str::to_owned);
    let bad = say(&env, &format!("message {} -o json", event.expect("an event id"))).await.json();
    assert_eq!((&bad[0]["state"], &bad[0]["id"]), (&"dead".into(), &ids[1].into()), "{bad}");
    assert_eq!(bad[0]["failed"].as_array().map(Vec::len), Some(2), "{bad}");

    env.alter_topic(&topic, &[]).await;
    says(&say(&env, "dlq requeue --all --yes").await, 0, &["done"]);
    env.expect_records(&topic, 2).await;
    let life = async || say(&env, &format!("message --topic {topic} --key bad -o json")).await.json();
    eventually(DEADLINE, "the record is settled", async || life().await[0]["state"] == "published").await;
    let found = life().await;
    assert_eq!(
        (&found[0]["requeued"], &found[0]["published"][0]["offset"]),
        (&1.into(), &1.into()),
        "{found}"
    );
    says(&say(&env, &format!("message --topic {topic} --key bad")).await, 0, &["requeued", "failed: "]);

    says(&say(&env, "message 4711000").await, 1, &["no such message"]);
    says(&say(&env, "message orders").await, 1, &["neither an id", "nor an event id"]);
    says(&say(&env, "message --key bad").await, 2, &["--topic"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_of_a_key_is_buried_passed_or_tried_now() {
    let env = Env::new().await;
    let patient = async || {
        env.relay()
            .await
            .set("retry.base", "1h")
            .set("retry.max", "1h")
            .set("lease.ttl", "1s")
            .expect_errors()
    };
    let relay = patient().await.start().await;
    let topic = env.create_topic("orders", 1, &[("max.message.bytes", "2000")]).await;
    let mut lines = Vec::new();
    for version in 0..3 {
        for key in ["bury", "pass", "\u{fffd}"] {
            let bytes = if version == 0 { 5000 } else { 100 };
            lines.push(Line::new(&topic, key, version).of_bytes(bytes));
        }
    }
    write(&env, &lines).await;
    env.eventually_true(
        "select count(*) = 9 and count(*) filter (where attempts = 1) = 3 from outbox.deferred",
    )
    .await;

    says(&say(&env, &format!("keys skip-head {topic} other --yes")).await, 1, &["no message is in the way"]);
    says(&say(&env, &format!("keys skip-head {topic} --yes")).await, 2, &["KEY"]);
    says(
        &say(&env, &format!("keys skip-head {topic} --key-base64 ? --yes")).await,
        1,
        &["key_base64 is not base64"],
    );
    says(&say(&env, &format!("keys skip-head {topic} bury --yes --why poison")).await, 0, &["done"]);
    says(&say(&env, &format!("keys release {topic} pass --yes")).await, 0, &["in effect"]);
    let records = env.expect_records(&topic, 4).await;
    let found = versions(&records);
    assert_eq!((&found["bury"], &found["pass"]), (&vec![1, 2], &vec![1, 2]));
    let dead = say(&env, "dlq list -o json").await.json();
    assert_eq!((&dead[0]["reason"], &dead[0]["key"]), (&"skipped".into(), &"bury".into()), "{dead}");

    // Who leads next lets them pass as well, also when the row fails again.
    relay.kill().await;
    let _next = patient().await.start().await;
    write(&env, &[Line::new(&topic, "pass", 3)]).await;
    env.expect_records(&topic, 5).await;
    says(&say(&env, &format!("keys retry-now {topic} pass --yes")).await, 0, &["done"]);
    env.eventually_true("select attempts = 2 and passable from outbox.deferred where attempts = 2").await;
    write(&env, &[Line::new(&topic, "pass", 4)]).await;
    env.expect_records(&topic, 6).await;

    // The whole topic; the third key is in order.
    env.alter_topic(&topic, &[]).await;
    says(&say(&env, &format!("keys retry-now {topic} --yes")).await, 0, &["done"]);
    let found = versions(&env.expect_records(&topic, 10).await);
    assert_eq!((&found["pass"], &found["\u{fffd}"]), (&vec![1, 2, 3, 4, 0], &vec![0, 1, 2]));
    env.eventually_true("select bool_and(state = 'done') from outbox.request where kind = 'release'").await;
    says(&say(&env, &format!("keys retry-now {topic} --yes")).await, 1, &["nothing of it waits"]);
    says(&say(&env, "keys list").await, 0, &["no key is blocked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_steps_down_when_it_is_asked_to() {
    let env = Env::new().await;
    let (first, topic) = (strict(&env).await.start().await, env.create_topic("orders", 1, &[]).await);
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    env.expect_records(&topic, 1).await;
    let second = strict(&env).await.start().await;
    says(&say(&env, "lease resign --yes --why drill").await, 0, &["done"]);
    second.wait_for_log("leading").await;
    first.wait_for_log("lease resigned").await;
    write(&env, &[Line::new(&topic, "k", 1)]).await;
    assert_eq!(versions(&env.expect_records(&topic, 2).await)["k"], [0, 1]);
    // It is a standby now, and leads again when it is needed.
    assert_eq!(first.get("/readyz").await.map(|(code, _)| code), Some(200));
    second.kill().await;
    env.eventually_true("select epoch = 3 from outbox.lease").await;
    let lease = say(&env, "lease show -o json").await.json();
    assert!(
        lease["holder"].as_str().is_some_and(|name| name.ends_with(&format!("/{}", first.pid()))),
        "{lease}"
    );
    assert!(first.exited().is_none());
}
