//! `message --verify`: whether the record that a receipt speaks of is in Kafka, and `--show-payload` beside it.

use outbox_relay::receipt::{Receipt, encode};

use crate::operate::{Said, command, says};
use crate::support::lines::{Line, write};
use crate::support::{DEADLINE, Env, eventually};

async fn message(env: &Env, login: &str, arguments: &str) -> Said {
    let arguments: Vec<&str> = std::iter::once("message").chain(arguments.split(' ')).collect();
    let mut command = command(env, login, &arguments);
    command.env("KAFKA_BROKERS", env.kafka().await.server.brokers());
    Said::of(command.output().await.expect("it starts"))
}

async fn until_published(env: &Env, ids: &[i64]) {
    let last = ids.last().expect("there are some");
    env.eventually_true(&format!("select state = 'published' from outbox.status where id = {last}")).await;
}

/// Makes the receipt of a row's settlement say something else.
async fn receipt_says(env: &Env, id: i64, receipt: Receipt) {
    let count: i64 = env
        .one(&format!("select sum(upper(r) - lower(r))::int8 from outbox.ledger l, unnest(l.published) r where l.published @> {id}::int8"))
        .await;
    let hex: String = encode((0..count).map(|_| receipt)).iter().map(|byte| format!("{byte:02x}")).collect();
    env.execute(&format!("update outbox.ledger set receipts = '\\x{hex}' where published @> {id}::int8"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_compared_with_its_row() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let ids =
        write(&env, &[Line::new(&topic, "k", 0), Line::keyless(&topic, 1), Line::new(&topic, "k", 2)]).await;
    until_published(&env, &ids).await;
    let (first, second) = (ids[0], ids[1]);
    for id in [first, second] {
        says(&message(&env, "admin_login", &format!("{id} --verify")).await, 0, &["offset", ": identical"]);
    }
    let noted = "select bool_and(why = 'message --verify' and who = 'admin_login') from outbox.request";
    assert!(env.one::<bool>(noted).await);
    // Without the right to payloads less is compared, and that is said.
    let said = message(&env, "reader_login", &format!("{first} --verify")).await;
    says(&said, 0, &["identical by event id and key", "may not compare the payload"]);

    let verdict = async |id: i64| {
        let said = message(&env, "admin_login", &format!("{id} --verify -o json")).await;
        (said.json()[0]["verified"][0]["verdict"].as_str().expect("a verdict").to_owned(), said.code)
    };
    let is = |verdict: &str, code: i32| (verdict.to_owned(), code);
    assert_eq!(verdict(first).await, is("identical", 0));
    env.execute(&format!("update outbox.message set payload = 'forged' where id = {first}")).await;
    assert_eq!(verdict(first).await, is("altered", 1));
    env.execute(&format!("update outbox.message set key = null where id = {first}")).await;
    assert_eq!(verdict(first).await, is("altered", 1));
    let said = message(&env, "reader_login", &format!("{first} --verify")).await;
    says(&said, 1, &["it is there with another key"]);

    receipt_says(&env, second, Receipt { partition: 0, offset: Some(2) }).await;
    let said = message(&env, "admin_login", &format!("{second} --verify")).await;
    says(&said, 1, &["another record is there", &format!("outbox-seq {}", ids[2])]);
    receipt_says(&env, second, Receipt { partition: 0, offset: Some(4711) }).await;
    assert_eq!(verdict(second).await, is("not_there", 1));
    receipt_says(&env, second, Receipt { partition: 7, offset: Some(0) }).await;
    assert_eq!(verdict(second).await, is("not_there", 1));
    receipt_says(&env, second, Receipt { partition: 0, offset: None }).await;
    assert_eq!(verdict(second).await, is("offset_unknown", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_taken_away_is_told_from_a_loss() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let settings =
        [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.01")];
    let compacted = env.create_topic("compacted", 1, &settings).await;
    let ids = write(&env, &[Line::new(&topic, "k", 0), Line::new(&topic, "k", 1)]).await;
    until_published(&env, &ids).await;
    env.kafka().await.delete_records(&topic, 1).await;
    let said = message(&env, "admin_login", &format!("{} --verify", ids[0])).await;
    says(&said, 0, &["no longer there: retention", "begins at offset 1"]);
    says(&message(&env, "admin_login", &format!("{} --verify", ids[1])).await, 0, &["identical"]);

    let ids = write(&env, &[Line::new(&compacted, "k", 0)]).await;
    until_published(&env, &ids).await;
    eventually(4 * DEADLINE, "the topic is compacted", async || {
        write(&env, &[Line::new(&compacted, "k", 1)]).await;
        let said = message(&env, "admin_login", &format!("{} --verify", ids[0])).await;
        assert_eq!(said.code, 0, "{}{}", said.data, said.talk);
        said.data.contains("no longer there: compaction")
    })
    .await;

    env.delete_topic(&topic).await;
    eventually(DEADLINE, "the topic is gone", async || {
        message(&env, "admin_login", &format!("{} --verify", ids[0] - 1)).await.data.contains("no such topic")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_and_trace_are_shown_to_whoever_may_see_them() {
    let env = Env::new().await;
    let _relay = env.start_relay().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    env.execute(&format!(
        r#"select outbox.publish('{topic}', 'k', 'text', headers => '{{"traceparent": "00-{trace}-00f067aa0ba902b7-01"}}')"#
    ))
    .await;
    until_published(&env, &[1]).await;
    let said = message(&env, "admin_login", "1 --show-payload").await;
    says(&said, 0, &[trace, "dGV4dA==", "traceparent"]);
    let shown = message(&env, "admin_login", "1 --show-payload -o json").await.json();
    assert_eq!(
        (&shown[0]["trace_id"], &shown[0]["payload_base64"]),
        (&trace.into(), &"dGV4dA==".into()),
        "{shown}"
    );
    let plain = message(&env, "admin_login", "1 -o json").await.json();
    assert!(plain[0].get("trace_id").is_none() && plain[0].get("verified").is_none(), "{plain}");
    says(&message(&env, "reader_login", "1 --show-payload").await, 1, &["outbox_admin"]);

    // Kafka is needed for one of them alone.
    let without = async |argument: &str| {
        Said::of(command(&env, "admin_login", &["message", "1", argument]).output().await.expect("it starts"))
    };
    says(&without("--show-payload").await, 0, &[trace]);
    says(&without("--verify").await, 1, &["KAFKA_BROKERS"]);
    let mut down = command(&env, "admin_login", &["message", "1", "--verify"]);
    let said = Said::of(down.env("KAFKA_BROKERS", "127.0.0.1:1").output().await.expect("it starts"));
    says(&said, 1, &["read a record back", "check kafka.brokers"]);
}
