//! Watching what is published: which messages `tap` shows, what of them, and how it ends.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::operate::{Said, command, says};
use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env, eventually};

/// A `tap` that has begun to watch.
struct Tap {
    child: Child,
    talk: Lines<BufReader<ChildStderr>>,
}

impl Tap {
    async fn start(env: &Env, arguments: &str) -> Tap {
        Tap::of(command(env, "admin_login", &words(arguments))).await
    }

    async fn of(mut command: Command) -> Tap {
        let mut child = command.spawn().expect("it starts");
        let mut talk = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let first = tokio::time::timeout(DEADLINE, talk.next_line()).await.expect("it says something");
        let first = first.expect("UTF-8").unwrap_or_default();
        assert!(first.starts_with("watching what is published"), "{first}");
        Tap { child, talk }
    }

    fn interrupt(&self) {
        let pid =
            rustix::process::Pid::from_raw(self.child.id().expect("it runs") as i32).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is there");
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    async fn end(mut self) -> Said {
        let output = tokio::time::timeout(DEADLINE, self.child.wait_with_output());
        let output = output.await.expect("it ends").expect("it ran");
        let mut said = Said::of(output);
        while let Ok(Some(line)) = self.talk.next_line().await {
            said.talk.push_str(&line);
            said.talk.push('\n');
        }
        said
    }
}

fn words(arguments: &str) -> Vec<&str> {
    arguments.split(' ').collect()
}

fn documents(said: &Said) -> Vec<Value> {
    assert_eq!(said.code, 0, "{}{}", said.data, said.talk);
    said.data.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn published_messages_are_shown_as_they_go_without_what_is_private() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let tap = Tap::start(&env, "tap -o json --limit 3").await;
    let table = Tap::start(&env, "tap --key-hash --limit 3").await;
    let lines =
        [Line::new(&topic, "secret-7", 0), Line::keyless(&topic, 1), Line::new(&topic, "secret-7", 2)];
    let ids = write(&env, &lines).await;

    let said = tap.end().await;
    let shown = documents(&said);
    assert_eq!(
        shown.iter().map(|row| row["id"].as_i64()).collect::<Vec<_>>(),
        ids.iter().map(|id| Some(*id)).collect::<Vec<_>>()
    );
    for (at, row) in shown.iter().enumerate() {
        assert_eq!(
            (&row["topic"], &row["partition"], &row["offset"]),
            (&(*topic).into(), &0.into(), &at.into()),
            "{row}"
        );
        let latency = row["latency_seconds"].as_f64().expect("a number");
        assert!(latency > 0.0 && latency < 30.0, "{row}");
        let event = env
            .one::<uuid::Uuid>(&format!("select event_id from outbox.message where id = {}", ids[at]))
            .await;
        assert_eq!(row["event_id"], event.to_string());
    }
    assert_eq!((&shown[0]["key_bytes"], &shown[1]["key_bytes"]), (&8.into(), &Value::Null));
    let table = table.end().await;
    says(&table, 0, &["EVENT ID", "0/2", &topic]);
    // The hash of the same key twice, and of no other.
    let hashes: Vec<&str> =
        table.data.lines().skip(1).filter_map(|line| line.split_whitespace().nth(5)).collect();
    assert!(hashes[0].len() == 16 && hashes[0] == hashes[2] && hashes[1] == "-", "{}", table.data);
    for said in [&said, &table] {
        for private in ["secret-7", "0000000", "MDAwMDAwMDA"] {
            assert!(!said.data.contains(private), "{private} is shown: {}", said.data);
        }
    }
    let tap = Tap::start(&env, "tap --show-key --limit 1").await;
    write(&env, &lines[..1]).await;
    says(&tap.end().await, 0, &["secret-7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_asked_for_is_shown() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let (orders, users) = (env.create_topic("orders", 1, &[]).await, env.create_topic("users", 1, &[]).await);
    let by_topic = Tap::start(&env, "tap -o json --topic *.user? --limit 2").await;
    let by_key = Tap::start(&env, "tap -o json --key b --limit 2").await;
    let in_base64 = Tap::start(&env, "tap -o json --key-base64 Yg== --limit 2").await;
    let sampled = Tap::start(&env, "tap -o json --sample 3 --limit 2").await;
    let sampled_of_key = Tap::start(&env, "tap -o json --key a --sample 2 --limit 1").await;
    let mut paced = Tap::start(&env, "tap -o json --rate 2 --limit 4").await;
    let ids = write(
        &env,
        &[
            Line::new(&orders, "a", 0),
            Line::new(&orders, "b", 0),
            Line::new(&users, "a", 0),
            Line::new(&orders, "a", 1),
            Line::new(&users, "b", 0),
            Line::new(&orders, "a", 2),
        ],
    )
    .await;
    let check = async |tap: Tap, expected: &[usize]| {
        let shown = documents(&tap.end().await);
        let found: Vec<i64> = shown.iter().filter_map(|row| row["id"].as_i64()).collect();
        assert_eq!(found, expected.iter().map(|at| ids[*at]).collect::<Vec<_>>());
    };
    check(by_topic, &[2, 4]).await;
    check(by_key, &[1, 4]).await;
    check(in_base64, &[1, 4]).await;
    check(sampled, &[0, 3]).await;
    check(sampled_of_key, &[0]).await;
    // Two in the first second; those of a later one come with what is written then.
    eventually(DEADLINE, "the second second begins", async || {
        write(&env, &[Line::new(&orders, "c", 0)]).await;
        paced.ended()
    })
    .await;
    let said = paced.end().await;
    assert_eq!(documents(&said).len(), 4);
    assert!(said.talk.contains("messages were published meanwhile and are not shown"), "{}", said.talk);
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_for_those_who_may_and_leave_a_note() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let refused =
        command(&env, "reader_login", &words("tap --show-payload")).output().await.expect("it ends");
    says(&Said::of(refused), 1, &["outbox_admin", "--show-payload"]);
    let reader = Tap::of(command(&env, "reader_login", &words("tap -o json --limit 1"))).await;
    let admin = Tap::start(&env, "tap --show-payload --limit 2").await;
    let as_json = Tap::start(&env, "tap --show-payload --limit 2 -o json").await;
    env.execute(&format!(
        r#"select outbox.publish('{topic}', 'k', '{{"total": 42}}', headers => '{{"source": "shop"}}');
           select outbox.publish('{topic}', 'k', null::bytea)"#
    ))
    .await;
    assert_eq!(documents(&reader.end().await).len(), 1);
    says(&admin.end().await, 0, &["PAYLOAD", r#"{"total": 42}"#, "(tombstone)"]);
    let shown = documents(&as_json.end().await);
    assert_eq!(
        (&shown[0]["payload_base64"], &shown[1]["payload_base64"]),
        (&"eyJ0b3RhbCI6IDQyfQ==".into(), &Value::Null)
    );
    assert_eq!(shown[0]["headers"]["source"], "shop");
    let noted = "select count(*) >= 2 and bool_and(who = 'admin_login' and why = 'tap') from outbox.request where kind = 'reveal'";
    assert!(env.one::<bool>(noted).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_ends_with_ctrl_c_and_with_its_reader() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let tap = Tap::start(&env, "tap").await;
    tap.interrupt();
    says(&tap.end().await, 0, &["SETTLED"]);

    let mut headless = Tap::start(&env, "tap -o json").await;
    drop(headless.child.stdout.take());
    write(&env, &[Line::new(&topic, "k", 0)]).await;
    assert_eq!(headless.end().await.code, 0, "nobody reads it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_could_follow_is_counted_instead() {
    let env = Env::new().await;
    let mut tap = Tap::start(&env, "tap -o json --limit 1").await;
    let settled = |seq: i64, ids: &str, ago: &str| {
        format!(
            "insert into outbox.ledger (epoch, seq, snapshot, high, as_of, published, at)
             values (0, {seq}, pg_current_snapshot(), 0, pg_current_xact_id(), '{ids}', clock_timestamp() - interval '{ago}')"
        )
    };
    // As if this process had stood still for a minute: both are behind it, and one look finds both.
    env.execute(&format!(
        "begin; {}; {}; commit",
        settled(1, "{[1,101)}", "1 min"),
        settled(2, "{[200,203),[300,301)}", "50 s")
    ))
    .await;
    env.execute("insert into outbox.message (topic) values ('orders')").await;
    let id: i64 = env.one("select id from outbox.message").await;
    let told =
        tokio::time::timeout(DEADLINE, tap.talk.next_line()).await.expect("it says what it passed over");
    assert_eq!(
        told.expect("UTF-8").as_deref(),
        Some("104 messages were published meanwhile and are not shown")
    );
    env.execute(&settled(3, &format!("{{[{id},{})}}", id + 1), "0 s")).await;
    let said = tap.end().await;
    let shown = documents(&said);
    assert_eq!((shown.len(), &shown[0]["id"]), (1, &id.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_works_through_a_pooler() {
    let env = Env::builder().pooler().start().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let mut pooled = command(&env, "admin_login", &words("tap -o json --show-payload --key k'\\ --limit 1"));
    pooled.env("DATABASE_URL", env.pooler().url_as("admin_login", env.database()));
    pooled.env("OUTBOX_RELAY__POSTGRES__POOLER", "true");
    let tap = Tap::of(pooled).await;
    write(&env, &[Line::new(&topic, "other", 0), Line::new(&topic, "k'\\", 7)]).await;
    let shown = documents(&tap.end().await);
    assert_eq!((&shown[0]["offset"], &shown[0]["payload_base64"]), (&1.into(), &"MDAwMDAwMDc=".into()));
}
