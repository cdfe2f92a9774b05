//! Copies of dead letters for the topics that get them.

use std::collections::BTreeSet;

use outbox_relay::servers::PostgresOptions;

use crate::requests::{ask, bury, impatient};
use crate::support::lines::{Line, versions, write};
use crate::support::{DEADLINE, Env, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_gets_a_copy_with_the_originals_coordinates() {
    let env = Env::new().await;
    let topic = env.create_topic("original", 1, &[("max.message.bytes", "2000")]).await;
    let graveyard = env.topic("graveyard");
    let relay =
        impatient(&env).await.topic(&topic, &format!("dead_letter_topic = '{graveyard}'")).start().await;
    let ids = write(&env, &[Line::new(&topic, "k", 0).of_bytes(5000), Line::new(&topic, "k", 1)]).await;
    env.eventually_true("select count(*) = 1 from outbox.dead_letter where copied_at is null").await;
    // It is missing; the letter is safe, and the key goes on.
    relay.wait_for_log("copy of a dead letter failed, it is tried again").await;
    assert_eq!(versions(&env.expect_records(&topic, 1).await)["k"], [1]);
    env.create_topic("graveyard", 1, &[]).await;
    let copy = &env.expect_records(&graveyard, 1).await[0];
    assert_eq!((copy.seq(), copy.key.as_deref()), (ids[0], Some(&b"k"[..])));
    assert_eq!(copy.payload.as_ref().map(Vec::len), Some(5000));
    assert_eq!(copy.header("dead-letter-topic"), Some(topic.as_str()));
    assert_eq!(copy.header("dead-letter-reason"), Some("too_large"));
    assert_eq!(copy.header("dead-letter-attempts"), Some("2"));
    assert!(copy.header("dead-letter-error").is_some_and(|error| error.contains("max.message.bytes")));
    env.eventually_true("select copied_at is not null from outbox.dead_letter").await;
    assert_eq!(env.read_topic(&graveyard).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_fail_for_ever_do_not_hold_up_those_of_other_topics() {
    let env = Env::new().await;
    let (topic, well) = (env.topic("original"), env.create_topic("well", 1, &[]).await);
    let missing = env.topic("missing");
    bury(&env, &topic, 3, 1300).await;
    env.execute(&format!(
        "update outbox.dead_letter set copy_topic = case when id < 1001200 then '{missing}' else '{well}' end"
    ))
    .await;
    let relay = impatient(&env).await.start().await;
    env.expect_records(&well, 100).await;
    env.eventually_true("select count(*) = 100 from outbox.dead_letter where copied_at is not null").await;
    relay.wait_for_log("copy of a dead letter failed, it is tried again").await;
    // It is looked for again, and once it is there it gets all of its own.
    env.create_topic("missing", 1, &[]).await;
    env.eventually_true("select count(*) = 0 from outbox.dead_letter where copied_at is null").await;
    assert_eq!(env.expect_records(&missing, 1200).await.len(), 1200);
    assert_eq!(env.read_topic(&well).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_asked_a_look_is_one_statement() {
    let settings = [("log_min_duration_statement", "0"), ("log_line_prefix", "%a@%d ")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let env = Env::builder().postgres(options).start().await;
    let _relay = env.start_relay().await;
    let log = env.postgres.server.log();
    // The first line of each statement says what it is for; those of the connection's beginning come before the first look.
    let executed = || -> Vec<String> {
        let text = std::fs::read_to_string(&log).expect("the server's log");
        let lines = text.lines().filter(|line| line.starts_with("outbox-relay/requests@"));
        let kinds = lines.filter_map(|line| Some(line.split_once(" execute ")?.1.split_once(": ")?.1));
        kinds.skip_while(|kind| !kind.contains("What operators have asked for")).map(str::to_owned).collect()
    };
    eventually(DEADLINE, "it looks again and again", async || executed().len() >= 6).await;
    let kinds: BTreeSet<String> = executed().into_iter().collect();
    assert_eq!(kinds.len(), 1, "{kinds:#?}");
    ask(&env, "outbox.pause('x')", "running").await;
}
