//! Sabotaged clusters: brokers that are away or silent, and logins that they refuse.

use std::net::TcpListener;
use std::time::Duration;

use super::{Found, Ground};

/// Topics need Kafka, and whether the cluster is the right one; nothing else is passed over.
#[track_caller]
fn the_rest_is_passed_over(found: &Found) {
    assert!(found.states("topics").iter().all(|state| state == "not_checked"), "{}", found.report);
    assert_eq!(found.line("lease kafka cluster").state, "not_checked");
    for line in
        found.lines().iter().filter(|line| line.name.starts_with("work ") || line.name == "lease identity")
    {
        assert_eq!(line.state, "pass", "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_cannot_be_reached_are_told_apart() {
    let ground = Ground::new().await;
    let at = async |brokers: &str| ground.check().await.env("KAFKA_BROKERS", brokers);
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let words = ["no broker can be reached", "start the brokers, or correct kafka.brokers"];
    let found = at(&closed.to_string()).await.fails("kafka reachable", &words).await;
    assert!(found.took < Duration::from_secs(8), "nobody waits for one that refuses: {:?}", found.took);
    the_rest_is_passed_over(&found);

    let words = ["a host is not known", "correct kafka.brokers"];
    at("no..such..host:9092").await.fails("kafka reachable", &words).await;

    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_at = silent.local_addr().expect("an address").to_string();
    let words = ["does not answer within 1s 500ms", "firewall or a route that swallows packets"];
    let slow = at(&silent_at).await.argument(&["--timeout", "1500ms"]);
    let found = slow.fails("kafka reachable", &words).await;
    assert!(found.took < Duration::from_secs(5), "{:?}", found.took);
    the_rest_is_passed_over(&found);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_logins_are_told_apart() {
    let ground = Ground::new().await;
    let words = ["relay is refused", "correct sasl.username and sasl.password"];
    let found = ground.restricted("wrong-one").await.fails("kafka login", &words).await;
    assert!(!found.report.to_string().contains("wrong-one"), "{}", found.report);
    the_rest_is_passed_over(&found);
    assert_eq!(ground.restricted("relay").await.found().await.code, Some(0));

    let mechanism = "security.protocol=sasl_plaintext;sasl.mechanism=SCRAM-SHA-256;sasl.username=relay;sasl.password=relay";
    let words = ["SCRAM-SHA-256", "set sasl.mechanism in [kafka.properties]"];
    ground.restricted("relay").await.set("kafka.properties", mechanism).fails("kafka login", &words).await;

    let words = ["SSL", "check ssl.ca.location"];
    ground.check().await.set("kafka.properties", "security.protocol=ssl").fails("kafka tls", &words).await;

    let brokers = ground.env.kafka().await.server.restricted_brokers();
    let words = ["make security.protocol in [kafka.properties] fit the listener"];
    ground.check().await.env("KAFKA_BROKERS", brokers).fails("kafka tls", &words).await;
}
