//! Sabotaged configurations: they are refused before anything is connected, with exit code 2.

use super::{CheckRun, Ground};

fn unconnected() -> CheckRun {
    CheckRun::new()
        .env("DATABASE_URL", "postgres://relay@127.0.0.1:1/shop")
        .env("KAFKA_BROKERS", "127.0.0.1:1")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_problems_of_a_configuration_are_one_failure() {
    let words = [
        "unknown key relay.page_row",
        "did you mean relay.page_rows?",
        "sasl.pasword: unknown to librdkafka",
    ];
    let file = "[relay]\npage_row = 7\n[kafka.properties]\n\"linger.ms\" = 5\n";
    let found = unconnected().file(file).fails("configuration settings", &words[..2]).await;
    assert_eq!(found.code, Some(2));
    for group in ["postgres", "kafka", "lease", "work", "topics"] {
        assert!(found.states(group).iter().all(|state| state == "not_checked"), "{group}");
    }
    let misspelt = unconnected().set("kafka.properties", "sasl.pasword=x");
    assert_eq!(misspelt.fails("configuration settings", &words[2..]).await.code, Some(2));
    let missing = CheckRun::new().env("DATABASE_URL", "postgres://relay@127.0.0.1:1/shop");
    let found =
        missing.fails("configuration settings", &["kafka.brokers is missing: set KAFKA_BROKERS"]).await;
    assert_eq!(found.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_that_is_given_up_is_a_warning() {
    let ground = Ground::new().await;
    let given_up = ground.check().await.set("kafka.properties", "acks=1").set("kafka.unsafe", "acks");
    // With acks=1 there is no idempotent producer either.
    let given_up =
        given_up.set("kafka.properties", "acks=1;enable.idempotence=false;enable.gapless.guarantee=false");
    let given_up = given_up.set("kafka.unsafe", "acks,enable.idempotence,enable.gapless.guarantee");
    given_up
        .warns("configuration promises", &["kafka.unsafe lets acks", "remove it from [kafka.properties]"])
        .await;
}
