//! Sabotaged configurations: they are refused before anything is connected, with exit code 2.

use super::{CheckRun, Ground};
use crate::support::Env;

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

#[tokio::test(flavor = "multi_thread")]
async fn config_validate_sees_whether_the_servers_take_it_unless_it_is_told_not_to() {
    let env = Env::new().await;
    let brokers = env.kafka().await.server.brokers();
    let validate = async |brokers: &str, arguments: &[&str]| {
        let arguments = [&["config", "validate"], arguments].concat();
        let mut command = crate::operate::command(&env, "relay_login", &arguments);
        command.env("KAFKA_BROKERS", brokers);
        crate::operate::Said::of(command.output().await.expect("it starts"))
    };
    let says = crate::operate::says;
    says(&validate(&brokers, &[]).await, 0, &["the configuration is valid", "postgres\n", "kafka\n"]);
    says(&validate("127.0.0.1:9", &[]).await, 1, &["the configuration is valid", "✗ fail"]);
    let offline = validate("127.0.0.1:9", &["--no-connect"]).await;
    says(&offline, 0, &["the configuration is valid"]);
    assert_eq!(offline.data.lines().count(), 1, "{}", offline.data);
}
