//! Screens as they look, against golden files. `OUTBOX_RELAY_GOLDEN=write` writes them anew, to be looked at in the diff.

use serde_json::json;

use super::*;

fn golden(name: &str, found: &str) {
    let path = format!("{}/src/ops/top/{name}.golden.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("OUTBOX_RELAY_GOLDEN").is_ok_and(|text| text == "write") {
        std::fs::write(&path, found).expect("the repository can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name} looks different");
}

fn busy() -> Screen {
    let at = "2026-01-31T12:00:00.5+00:00";
    let topic = |name: &str, cause: Option<&str>, waiting: i64, retrying: i64, dead: i64| {
        json!({"topic": name, "cause": cause, "since": cause.map(|_| at), "waiting": waiting, "retrying": retrying, "behind": retrying * 2,
               "scheduled": 0, "oldest": (waiting + retrying > 0).then_some("2026-01-31T11:58:30.25+00:00"), "dead_letters": dead})
    };
    let mut topics = vec![
        topic("orders", None, 0, 3, 12),
        topic("invoices.of.customers.with.a.long.name.in.a.far.country", Some("paused"), 1_234_567, 0, 0),
        topic("shipments", Some("missing"), 700, 0, 0),
        topic("users\u{1b}[31m", None, 0, 0, 5),
    ];
    topics.extend((0..12).map(|n| topic(&format!("further.{n:02}"), Some("forbidden"), 12 - n, 0, 0)));
    let request = |id: i64, kind: &str, topic: Option<&str>, state: &str, value: serde_json::Value| {
        json!({"id": id, "kind": kind, "topic": topic, "filter": {}, "value": value, "pace": null, "why": "drill", "who": "admin_login",
               "asked_at": at, "expires_at": (kind == "pause").then_some("2026-01-31T12:30:00+00:00"), "state": state, "done": 1500,
               "error": null, "begun_at": at, "ended_at": null})
    };
    let sample = Sample {
        at: at.to_owned(),
        rates: None,
        is_silent: false,
        overview: serde_json::from_value(json!({
            "holder": "relay-7d9f/4711", "epoch": 3, "since": at, "beat_seconds": 0.4, "ready": 1500, "retrying": 3, "behind": 6,
            "scheduled": 2, "laned": 1_235_345, "oldest": "2026-01-31T11:58:30.25+00:00", "lag_seconds": 90.25, "blocked_keys": 2,
            "dead_letters": 17, "causes": 2, "oldest_dead_letter": "2026-01-30T08:15:00+00:00", "open_requests": 3}))
        .expect("an overview"),
        topics: serde_json::from_value(json!(topics)).expect("topics"),
        keys: serde_json::from_value(json!([
            {"topic": "orders", "key": "order-7", "head_id": 4711, "since": at, "waiting": 5, "attempts": 4, "due_at": at, "error": "too large"},
            {"topic": "orders", "key": "base64:/w==", "head_id": 4712, "since": at, "waiting": 1, "attempts": 12, "due_at": null, "error": "too large"},
        ]))
        .expect("keys"),
        causes: serde_json::from_value(json!([
            {"fingerprint": "a1b2", "reason": "too_large", "letters": 12, "topics": ["orders"], "first_failed_at": at, "last_failed_at": at,
             "sample_id": 7, "error": "Broker: Message size too large"},
            {"fingerprint": "c3d4", "reason": "refused", "letters": 5, "topics": ["users", "accounts"], "first_failed_at": at,
             "last_failed_at": at, "sample_id": 9, "error": "Broker: Broker failed to validate record"},
        ]))
        .expect("causes"),
        requests: serde_json::from_value(json!([
            request(21, "requeue", None, "running", json!(null)),
            request(20, "pause", Some("invoices.of.customers"), "running", json!(null)),
            request(19, "rate", None, "asked", json!({"rate": 5000})),
        ]))
        .expect("requests"),
    };
    let mut screen = Screen::default();
    for n in 0..150_u32 {
        let wave = f64::from(n % 20) * 180.0;
        let rates = Rates { published: wave, failed: f64::from(u32::from(n % 30 == 5)) * 2.0, dead: 0.0 };
        screen.take(Ok(Sample { rates: Some(rates), ..sample.clone() }));
    }
    screen
}

fn quiet() -> Screen {
    let busy = busy().sample.expect("it has one");
    let overview = json!({
        "holder": null, "epoch": 0, "since": null, "beat_seconds": 700.0, "ready": 0, "retrying": 0, "behind": 0, "scheduled": 0, "laned": 0,
        "oldest": null, "lag_seconds": 0.0, "blocked_keys": 0, "dead_letters": 0, "causes": 0, "oldest_dead_letter": null, "open_requests": 0});
    let overview = serde_json::from_value(overview).expect("an overview");
    let (topics, keys, causes, requests) = (vec![], vec![], vec![], vec![]);
    let mut screen = Screen::default();
    screen.take(Ok(Sample { overview, topics, keys, causes, requests, ..busy }));
    screen
}

#[test]
fn a_busy_relay_fits_the_smallest_screen() {
    golden("busy-80x24", &as_text(&busy(), 80, 24));
}

#[test]
fn a_larger_screen_shows_more() {
    golden("busy-120x40", &as_text(&busy(), 120, 40));
}

#[test]
fn nothing_is_said_in_words() {
    golden("quiet-80x24", &as_text(&quiet(), 80, 24));
    golden("looking-80x24", &as_text(&Screen::default(), 80, 24));
}

#[test]
fn what_is_old_is_said_and_a_paused_screen_stands_still() {
    let mut screen = busy();
    screen.take(Err("postgres is not reachable: connection refused".to_owned()));
    screen.scroll(2);
    golden("trouble-80x24", &as_text(&screen, 80, 24));
    let mut screen = busy();
    screen.is_paused = true;
    let before = as_text(&screen, 80, 24);
    screen.take(quiet().sample.ok_or_else(String::new));
    assert_eq!(as_text(&screen, 80, 24), before);
    assert!(before.contains("stands still"));
}

#[test]
fn no_size_is_too_small_to_draw_on() {
    for (columns, lines) in [(1, 1), (20, 5), (79, 10), (300, 100)] {
        as_text(&busy(), columns, lines);
    }
}

#[test]
fn times_are_short() {
    let check =
        |later: &str, expected: &str| assert_eq!(between("2026-01-31T12:00:00.5+02:00", later), expected);
    check("2026-01-31T12:01:30.1+02:00", "90 s");
    check("2026-01-31T12:30:00+02:00", "30 min");
    check("2026-02-01T12:00:00+02:00", "24 h");
    check("2026-02-03T12:00:00+02:00", "3 d");
    check("2026-01-31T11:00:00+02:00", "0 s");
    check("infinity", "0 s");
}

#[test]
fn curves_are_as_high_as_the_highest_value() {
    assert_eq!(curve(&[0.0, 1.0, 4.0, 8.0]), ".▁▄█");
    assert_eq!(curve(&[]), "");
    assert_eq!(
        [in_short(0.0), in_short(1.25), in_short(123_456.7), in_short(2.5e6)],
        ["0", "1.2", "123457", "2.50 M"]
    );
}
