//! The status page: it shows what the database says, says how old that is, and is served whatever is away.
//!
//! `OUTBOX_RELAY_SCREENSHOT=write` writes docs/status-page.png anew.

mod browser;

use std::path::Path;

use serde_json::Value;

use self::browser::{Browser, Look};
use crate::operate::say;
use crate::outputs::schema::{problems, schema};
use crate::outputs::with_everything;
use crate::support::lines::write_many;
use crate::support::{DEADLINE, Env, Relay, wait_for};

async fn api(relay: &Relay) -> Value {
    let (status, text) = relay.get("/api/status").await.expect("it is served");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// What the API says once this holds.
async fn api_once(relay: &Relay, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait_for(DEADLINE, what, async || Some(api(relay).await).filter(|facts| holds(facts))).await
}

async fn page(relay: &Relay) -> String {
    let (status, text) = relay.get("/").await.expect("it is served");
    assert_eq!(status, 200, "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn page_and_api_say_what_status_says() {
    let env = Env::new().await;
    let (leader, dead, failing) = with_everything(&env).await;
    let standby = env.start_relay().await;
    let said = say(&env, "status -o json").await.json();
    for (relay, leads) in [(&leader, true), (&standby, false)] {
        let facts = api_once(relay, "the database was asked", |facts| !facts["found"].is_null()).await;
        let found = problems(&schema("api-status"), &facts);
        assert!(found.is_empty(), "{found:#?} in {facts}");
        assert_eq!(facts["leads"], leads, "{facts}");
        assert_eq!(facts["postgres_up"], true, "{facts}");
        for (name, value) in said.as_object().expect("an object") {
            if !name.ends_with("_seconds") {
                assert_eq!(&facts["found"][name], value, "{name} of {facts}");
            }
        }
        assert_eq!(facts["found"]["groups"].as_array().map(Vec::len), Some(1), "{facts}");
        let page = page(relay).await;
        let holder = said["holder"].as_str().expect("somebody leads");
        for shown in [holder, &dead, &failing, "missing", "pause", "500", "too_large", "blocked keys"] {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
    }
    let facts = api(&leader).await;
    let changes = facts["changes"].to_string();
    for text in ["leading", "topic is read on its own, the others go on", "outbox row is a dead letter"] {
        assert!(changes.contains(text), "{text} is not in {changes}");
    }
    for (path, status) in [("/nowhere", 404), ("/api/", 404)] {
        assert_eq!(leader.get(path).await.expect("it is served").0, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_while_postgres_is_away_and_says_so() {
    let env = Env::with_own_postgres().await;
    let relay = env.relay().await.expect_errors().start().await;
    let facts = api_once(&relay, "the database was asked", |facts| !facts["found"].is_null()).await;
    assert_eq!(facts["trouble"], Value::Null, "{facts}");
    env.stop_postgres_fast().await;
    let facts = api_once(&relay, "it says that Postgres is away", |facts| !facts["trouble"].is_null()).await;
    assert!(!facts["found"].is_null(), "what is known is still shown: {facts}");
    assert!(page(&relay).await.contains("Postgres is away"));
    env.start_postgres_again().await;
    api_once(&relay, "it is back", |facts| facts["trouble"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_relay_shows_the_same_pace_and_what_is_missing() {
    let env = Env::new().await;
    let topic = env.create_topic("paced", 1, &[]).await;
    let leader = env.relay().await.set("relay.rate", 50).start().await;
    leader.wait_for_log("leading").await;
    let standby = env.start_relay().await;
    write_many(&env, &topic, 10, 0, 2000).await;
    for relay in [&leader, &standby] {
        let moves = |facts: &Value| {
            let points = facts["points"].as_array().into_iter().flatten();
            points.filter_map(|point| point["passed"].as_f64()).any(|passed| passed > 0.0)
        };
        api_once(relay, "it sees the position move", moves).await;
        assert_eq!(api(relay).await["lost"], 0);
    }
    // What a comparison with Kafka would have entered.
    env.execute("select outbox.note_reconciliation('asked', now(), 1, 1000000, 3, 0, '{}')").await;
    for relay in [&leader, &standby] {
        api_once(relay, "it says what is missing", |facts| facts["lost"] == 3).await;
        assert!(page(relay).await.contains("messages are missing"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_while_nobody_looks() {
    let env = Env::new().await;
    let relay = env.start_relay().await;
    relay.wait_for_log("leading").await;
    let asked = "select count(*) from pg_stat_activity where application_name like '%board%' and datname = current_database()";
    assert_eq!(env.one::<i64>(asked).await, 0);
    api_once(&relay, "the database was asked", |facts| !facts["found"].is_null()).await;
    assert_eq!(env.one::<i64>(asked).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_it_on_a_phone_and_on_a_desk_in_light_and_in_dark() {
    let env = Env::new().await;
    let (relay, _, _) = with_everything(&env).await;
    // Three points make a line.
    let full = |facts: &Value| {
        !facts["found"].is_null() && facts["points"].as_array().is_some_and(|points| points.len() > 2)
    };
    api_once(&relay, "there is something to see", full).await;
    let url = format!("http://{}/", relay.address());
    let mut browser = Browser::start();
    for (width, dark) in [(390, false), (390, true), (1280, false), (1280, true)] {
        let look = browser.look(&url, width, dark);
        let Look { text, overflow, complaints, ground, .. } = &look;
        assert!(text.contains("dead letters") && !text.contains("nobody leads"), "{text}");
        assert!(*overflow <= 0.0, "at {width} px the page is {overflow} px too wide");
        assert_eq!(complaints, &Vec::<String>::new(), "at {width} px");
        assert_eq!(ground, if dark { "rgb(20, 23, 27)" } else { "rgb(246, 247, 249)" });
        if std::env::var("OUTBOX_RELAY_SCREENSHOT").is_ok_and(|value| value == "write")
            && width == 1280
            && !dark
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status-page.png");
            std::fs::write(path, &look.picture).expect("written");
        }
    }
}
