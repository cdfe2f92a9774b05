//! The live view on a real terminal, and whether what operators are shown is what the metrics say.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::operate::{command, say, says, with_dead_letters};
use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env, eventually};

/// `top` on a terminal of 80 columns and 24 lines.
struct Screen {
    child: Child,
    keys: ChildStdin,
    output: ChildStdout,
    seen: String,
}

impl Screen {
    fn start(env: &Env) -> Screen {
        Screen::of(env, "reader_login", "top --interval 100ms")
    }

    /// Another command on a terminal like that.
    fn of(env: &Env, login: &str, arguments: &str) -> Screen {
        let relay = env!("CARGO_BIN_EXE_outbox-relay");
        let mut command = Command::new("script");
        command
            .args(["-qec", &format!("stty rows 24 cols 80; exec {relay} {arguments}"), "/dev/null"])
            .env("DATABASE_URL", env.url_as(login))
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("script of util-linux is there");
        let keys = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        Screen { child, keys, output, seen: String::new() }
    }

    /// Waits until the word is drawn, from here on. Words, because blanks are passed over by moving the cursor.
    async fn shows(&mut self, word: &str) {
        self.seen.clear();
        let reading = async {
            let mut bytes = [0; 4096];
            while !self.seen.contains(word) {
                let read = self.output.read(&mut bytes).await.expect("a terminal");
                assert!(read > 0, "it ended before it showed {word}: {}", self.seen);
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        };
        let shown = tokio::time::timeout(DEADLINE, reading).await;
        shown.unwrap_or_else(|_| panic!("{word} is not shown: {}", self.seen));
    }

    async fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).await.expect("it reads keys");
        self.keys.flush().await.expect("it reads keys");
    }

    /// Exit code, and what was drawn at the end.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        let ended = async {
            self.output.read_to_end(&mut rest).await.expect("a terminal");
            self.child.wait().await.expect("it is our child")
        };
        let status = tokio::time::timeout(DEADLINE, ended).await.expect("it ends");
        (status.code(), self.seen + &String::from_utf8_lossy(&rest))
    }
}

const OTHER_SCREEN: &str = "\u{1b}[?1049h";
const BACK_AGAIN: &str = "\u{1b}[?1049l";

#[tokio::test(flavor = "multi_thread")]
async fn the_live_view_ends_with_a_key_and_gives_the_terminal_back() {
    let env = Env::builder().own_postgres().start().await;
    for key in ["q", "\u{3}", "\u{1b}"] {
        let mut screen = Screen::start(&env);
        screen.shows("published").await;
        assert!(screen.seen.contains(OTHER_SCREEN), "{}", screen.seen);
        screen.press(key).await;
        let (code, end) = screen.end().await;
        assert_eq!(code, Some(0), "{end}");
        assert!(end.contains(BACK_AGAIN) && end.contains("\u{1b}[?25h"), "the cursor is back: {end}");
    }
    // Without a server it says so, and goes on when there is one again.
    let mut screen = Screen::start(&env);
    screen.shows("nobody").await;
    screen.press("p").await;
    screen.shows("stands").await;
    screen.press("p").await;
    env.stop_postgres_fast().await;
    screen.shows("shown").await;
    env.start_postgres_again().await;
    screen.shows("arrows").await;
    screen.press("q").await;
    assert_eq!(screen.end().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_view_needs_a_terminal_or_is_one_screen() {
    let env = Env::new().await;
    says(&say(&env, "top").await, 1, &["this is none", "outbox-relay status"]);
    says(&say(&env, "top --once --interval 1ms").await, 2, &["between 100ms and 1h"]);
    says(&say(&env, "top --once --size 40x10").await, 2, &["80x24"]);
    let relay = env.relay().await.set("retry.attempts", 1).expect_errors().start().await;
    let topic = with_dead_letters(&env).await;
    says(&say(&env, &format!("topics pause {topic} --for 100h --yes")).await, 0, &["in effect"]);
    let screen = say(&env, "top --once --interval 100ms --size 120x30").await;
    says(
        &screen,
        0,
        &["5 dead letters of 1 causes", "too_large", "paused", &relay.pid().to_string(), "published"],
    );
    assert_eq!(screen.data.lines().count(), 30, "{}", screen.data);
    assert!(
        screen.data.lines().any(|line| line.contains("pause ") && line.contains("4 d")),
        "{}",
        screen.data
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_has_a_bar_on_a_terminal_and_lines_elsewhere() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[("max.message.bytes", "2000")]).await;
    let _relay = env.relay().await.set("retry.attempts", 1).expect_errors().start().await;
    let keys: Vec<String> = (0..12).map(|key| format!("k{key}")).collect();
    write(&env, &keys.iter().map(|key| Line::new(&topic, key, 0).of_bytes(5000)).collect::<Vec<_>>()).await;
    env.eventually_true("select count(*) = 12 from outbox.dead_letter").await;
    env.alter_topic(&topic, &[]).await;
    let mut screen = Screen::of(&env, "admin_login", "dlq requeue --all --max 6 --rate 2 --yes");
    screen.shows("of 6 rows").await;
    screen.shows("left").await;
    let (code, end) = screen.end().await;
    assert!(code == Some(0) && end.contains("done (request 1, 6 rows)"), "{end}");
    let plain = say(&env, "dlq requeue --all --rate 2 --yes").await;
    says(&plain, 0, &[" of 6\n", "done (request 2, 6 rows)"]);
    assert!(!plain.talk.contains("left") && !plain.talk.contains('\u{1b}'), "{}", plain.talk);
}

/// A time of Postgres in Unix seconds.
fn seconds(value: &Value) -> f64 {
    let text = value.as_str().expect("a time");
    let time = humantime::parse_rfc3339(&text.replace("+00:00", "Z")).expect("RFC 3339");
    time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_of_status_is_the_one_of_the_metrics() {
    let env = Env::new().await;
    // A broker hears of a topic a moment after it was made: until the relay has started it has.
    let limited = [("max.message.bytes", "2000")];
    let (dead, failing) =
        (env.create_topic("orders", 1, &limited).await, env.create_topic("failing", 1, &limited).await);
    let (paused, missing) = (env.create_topic("paused", 1, &[]).await, env.topic("missing"));
    let relay = env.relay().await.set("retry.base", "1h").set("retry.max", "1h").set("retry.attempts", 5);
    let relay = relay.topic("*.orders", "attempts = 1").expect_errors().start().await;
    let keys: Vec<String> = (0..5).map(|key| format!("k{key}")).collect();
    write(&env, &keys.iter().map(|key| Line::new(&dead, key, 0).of_bytes(5000)).collect::<Vec<_>>()).await;
    env.eventually_true("select count(*) = 5 from outbox.dead_letter").await;
    says(&say(&env, &format!("topics pause {paused} --for 30m --yes")).await, 0, &["in effect"]);
    says(&say(&env, "topics set elsewhere.* --rate 1000 --yes").await, 0, &["in effect"]);
    let mut lines = Vec::new();
    for key in ["a", "b", "c"] {
        lines.push(Line::new(&failing, key, 0).of_bytes(5000));
        lines.extend((1..3).map(|version| Line::new(&failing, key, version)));
    }
    lines.push(Line::new(&missing, "k", 0));
    lines.push(Line::new(&paused, "k", 0));
    write(&env, &lines).await;
    env.execute(&format!(
        "select outbox.publish('{dead}', 'later', '{{}}', deliver_after => now() + interval '1 hour')"
    ))
    .await;
    // The fourth is the message that found its topic missing; what comes later stays in the lane.
    env.eventually_true(
        "select count(*) filter (where reason = 'retry') = 4 and count(*) filter (where reason = 'behind') = 6
            and count(*) filter (where reason = 'scheduled') = 1 from outbox.deferred",
    )
    .await;
    env.expect_lane(&missing, "missing").await;
    env.expect_lane(&paused, "paused").await;
    write(&env, &(1..5).map(|version| Line::new(&paused, "k", version)).collect::<Vec<_>>()).await;
    env.eventually_true("select sum(waiting) = 5 from outbox.backlog where topic is not null").await;

    let agree = async || {
        let (status, metrics) = (say(&env, "status -o json").await.json(), relay.metrics().await);
        let mut found = Vec::new();
        let mut same = |what: &str, of_status: f64, of_metrics: Option<f64>| {
            found.push((what.to_owned(), of_status, of_metrics.unwrap_or(0.0)));
        };
        let number = |value: &Value| value.as_f64().expect("a number");
        let rows = [
            ("ready", "ready"),
            ("retrying", "retrying"),
            ("behind", "blocked"),
            ("scheduled", "scheduled"),
            ("laned", "laned"),
        ];
        for (field, state) in rows {
            same(field, number(&status[field]), metrics.get("outbox_backlog_messages", &[("state", state)]));
        }
        same("epoch", number(&status["epoch"]), metrics.get("outbox_lease_epoch", &[]));
        same("blocked_keys", number(&status["blocked_keys"]), metrics.get("outbox_blocked_keys", &[]));
        // Nothing was requeued or discarded, so all that died are still there.
        same("dead_letters", number(&status["dead_letters"]), metrics.get("outbox_dead_lettered_total", &[]));
        let topics = status["topics"].as_array().expect("a list");
        let lanes = topics.iter().filter(|topic| !topic["cause"].is_null()).count();
        same("lanes", lanes as f64, metrics.get("outbox_topic_lane", &[]));
        for topic in topics {
            let name = topic["topic"].as_str().expect("a name");
            if let Some(cause) = topic["cause"].as_str() {
                let lane = metrics.get("outbox_topic_lane", &[("topic", name), ("cause", cause)]);
                same(&format!("{name} {cause}"), 1.0, lane);
            }
            let died = metrics.get("outbox_dead_lettered_total", &[("topic", name)]);
            same(&format!("{name} dead letters"), number(&topic["dead_letters"]), died);
            let oldest = if topic["oldest"].is_null() { 0.0 } else { seconds(&topic["oldest"]) };
            let gauge = metrics.get("outbox_oldest_pending_timestamp_seconds", &[("topic", name)]);
            same(&format!("{name} oldest"), (oldest * 1000.0).round(), gauge.map(|at| (at * 1000.0).round()));
        }
        let oldest = topics.iter().map(|topic| &topic["oldest"]).filter(|at| !at.is_null()).map(seconds);
        same("oldest", seconds(&status["oldest"]), oldest.min_by(f64::total_cmp));
        let lag = number(&status["lag_seconds"]);
        let by_metrics =
            metrics.text.lines().filter(|line| line.starts_with("outbox_oldest_pending_timestamp_seconds{"));
        let by_metrics =
            by_metrics.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).filter(|at| *at > 0.0);
        let now: f64 = env.one::<f64>("select extract(epoch from clock_timestamp())::float8").await;
        let by_metrics = by_metrics.min_by(f64::total_cmp).map(|at| now - at);
        same("lag, to ten seconds", (lag / 10.0).round(), by_metrics.map(|lag| (lag / 10.0).round()));
        (status, found)
    };
    eventually(DEADLINE, "status and metrics agree", async || {
        let mut last = agree().await.1;
        last.retain(|(_, of_status, of_metrics)| (of_status - of_metrics).abs() > 1.0e-3);
        if !last.is_empty() {
            eprintln!("not the same yet: {last:?}");
        }
        last.is_empty()
    })
    .await;
    let (status, _) = agree().await;
    let expected = [
        ("ready", 0),
        ("retrying", 4),
        ("behind", 6),
        ("scheduled", 1),
        ("laned", 5),
        ("blocked_keys", 4),
        ("dead_letters", 5),
        ("causes", 1),
        ("open_requests", 2),
    ];
    for (field, count) in expected {
        assert_eq!(status[field], count, "{field}: {status}");
    }
    let in_effect = status["in_effect"].as_array().expect("a list");
    assert_eq!(
        in_effect.iter().map(|request| request["kind"].as_str().expect("text")).collect::<Vec<_>>(),
        ["rate", "pause"]
    );
    assert!(in_effect[1]["expires_at"].is_string());
    let text = say(&env, "status").await;
    says(&text, 0, &[&format!("{paused} paused until "), "elsewhere.* 1000 a second"]);
    assert!(text.data.lines().count() < 24, "one screen: {}", text.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_is_silent_after_a_few_times_its_own_ttl() {
    let env = Env::new().await;
    env.execute("update outbox.lease set holder = gen_random_uuid(), holder_name = 'gone/1', epoch = 1, since = now()").await;
    env.execute("update outbox.beat set at = clock_timestamp() - interval '8 seconds'").await;
    let silent = async |ttl: &str| {
        let mut command = command(&env, "reader_login", &["status"]);
        let output = command.env("OUTBOX_RELAY__LEASE__TTL", ttl).output().await.expect("it runs");
        String::from_utf8_lossy(&output.stdout).contains("silent")
    };
    assert!(silent("2s").await);
    assert!(!silent("1m").await);
}
