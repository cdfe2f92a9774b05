//! Lanes: a topic that cannot go, may not go or goes at its own pace is read on its own, in order, and the others do not notice.

use std::time::Duration;

use rand::Rng;

use crate::support::lines::{
    Line, assert_complete, expect_complete, first_versions, write, write_many, write_many_in,
};
use crate::support::{DEADLINE, Env, Relay, RelayBuilder, eventually, random, scaled};

/// How long many rows may take, on a machine that does much else.
const LONG: Duration = Duration::from_secs(90);

async fn impatient(env: &Env) -> RelayBuilder {
    env.relay()
        .await
        .set("retry.base", "50ms")
        .set("retry.max", "500ms")
        .set("lease.ttl", "1s")
        .expect_errors()
}

/// Main has everything back, and nothing waits.
async fn all_settled(env: &Env) {
    let sql = "select waiting = 0 and not exists (select from outbox.deferred) and not exists (select from outbox.open_lane) \
                 from outbox.backlog where topic is null";
    eventually(LONG, "all is settled and no lane is open", async || {
        let answer = sqlx::query_scalar::<_, Option<bool>>(sql).fetch_one(env.admin()).await;
        answer.ok().flatten() == Some(true)
    })
    .await;
}

async fn value(relay: &Relay, name: &str, labels: &[(&str, &str)]) -> f64 {
    relay.metrics().await.get(name, labels).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_lanes_is_counted_once_over_takeovers() {
    let env = Env::new().await;
    let relay = impatient(&env).await.start().await;
    let topics = ["one", "two", "three"].map(|name| env.topic(name));
    let laned = async |relay: &Relay| {
        let counted = async || value(relay, "outbox_backlog_messages", &[("state", "laned")]).await == 200.0;
        eventually(DEADLINE, "two hundred rows wait in lanes", counted).await;
    };
    for topic in &topics[..2] {
        write_many(&env, topic, 1, 0, 1).await;
        env.expect_lane(topic, "missing").await;
        write_many(&env, topic, 1, 1, 100).await;
    }
    laned(&relay).await;
    // A lane that opens later tells of what is known by then.
    write_many(&env, &topics[2], 1, 0, 1).await;
    env.expect_lane(&topics[2], "missing").await;
    env.eventually_true("select waiting = 0 from outbox.backlog where topic is null").await;
    let mut last = relay;
    for _ in 0..2 {
        last.kill().await;
        last = impatient(&env).await.start().await;
        last.wait_for_log("leading").await;
        // Each lane is written anew under the new epoch.
        env.eventually_true(
            "select count(*) = 3 and min(epoch) = (select epoch from outbox.lease) and min(waiting) = 200 from outbox.open_lane",
        )
        .await;
        laned(&last).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_skipped_and_read_in_order_once_it_is_there() {
    let rows = scaled(20_000, 500_000);
    let patience = LONG * scaled(1, 10) as u32;
    let env = Env::new().await;
    let well = env.create_topic("well", 3, &[]).await;
    let missing = env.topic("missing");
    let relay =
        impatient(&env).await.set("relay.window_rows", 2000).set("relay.page_rows", 500).start().await;
    write_many(&env, &missing, 50, 0, 50).await;
    env.expect_lane(&missing, "missing").await;
    assert_eq!(value(&relay, "outbox_topic_lane", &[("topic", &missing), ("cause", "missing")]).await, 1.0);
    write_many(&env, &missing, 50, 1, rows - 50).await;
    write_many(&env, &well, 50, 0, rows).await;
    env.expect_records_within(&well, rows as usize, patience).await;
    let copies: i64 = sqlx::query_scalar("select count(*) from outbox.deferred")
        .fetch_one(env.admin())
        .await
        .expect("count");
    assert!(copies <= 2000, "{copies} copies: main has passed the others over");
    eventually(DEADLINE, "what is skipped is counted", async || {
        value(&relay, "outbox_backlog_messages", &[("state", "laned")]).await >= (rows - 2000) as f64
    })
    .await;

    env.create_topic("missing", 3, &[]).await;
    let records = env.expect_records_within(&missing, rows as usize, patience).await;
    assert_complete(&records, 50, rows / 50);
    assert_complete(&env.read_topic(&well).await, 50, rows / 50);
    all_settled(&env).await;
    assert_eq!(env.read_topic(&missing).await.len() as i64, rows, "no record twice");
    assert_eq!(value(&relay, "outbox_backlog_messages", &[("state", "laned")]).await, 0.0);
    assert_eq!(value(&relay, "outbox_topic_lane", &[("topic", &missing)]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_kept_over_takeovers_and_finds_rows_that_committed_late() {
    let env = Env::new().await;
    let well = env.create_topic("well", 1, &[]).await;
    let missing = env.topic("missing");
    let first = impatient(&env).await.start().await;
    write_many(&env, &missing, 10, 0, 100).await;
    env.expect_lane(&missing, "missing").await;
    // Writers that take turns, and one whose transaction began before everything that follows.
    let mut late = env.app().begin().await.expect("begin");
    let sql = "insert into outbox.message (topic, key, payload) \
               select $1, convert_to('late' || n % 5, 'UTF8'), convert_to(to_char(n / 5, 'fm00000000'), 'UTF8') from generate_series(0, 299) n";
    sqlx::query(sql).bind(&missing).execute(&mut *late).await.expect("insert");
    write_many(&env, &missing, 10, 10, 1000).await;
    write_many(&env, &well, 10, 0, 100).await;
    env.expect_records(&well, 100).await;
    first.kill().await;

    let second = impatient(&env).await.start().await;
    second.wait_for_log("leading").await;
    write_many(&env, &well, 10, 10, 100).await;
    // The first one may have been killed before it had settled what it had published.
    expect_complete(&env, &well, 10, 20).await;
    late.commit().await.expect("commit");
    write_many(&env, &missing, 10, 110, 100).await;
    second.kill().await;

    let third = impatient(&env).await.start().await;
    third.wait_for_log("leading").await;
    env.create_topic("missing", 1, &[]).await;
    let records = env.expect_records_within(&missing, 1500, LONG).await;
    all_settled(&env).await;
    let found = first_versions(&records);
    for key in 0..10 {
        assert_eq!(found[&format!("k{key}")], (0..120).collect::<Vec<_>>());
    }
    for key in 0..5 {
        assert_eq!(found[&format!("late{key}")], (0..60).collect::<Vec<_>>(), "committed late");
    }
    assert_eq!(env.read_topic(&missing).await.len(), 1500, "no record twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_come_and_go_under_kills_lose_nothing_and_keep_order() {
    const ROUNDS: i64 = 4;
    let mut random = random();
    let env = Env::new().await;
    let well = env.create_topic("well", 3, &[]).await;
    let sick = env.topic("sick");
    let small =
        async || impatient(&env).await.set("relay.window_rows", 200).set("relay.page_rows", 50).start().await;
    let mut leader = small().await;
    leader.wait_for_log("leading").await;
    let mut there = false;
    for round in 0..ROUNDS {
        write_many(&env, &sick, 7, round * 100, 700).await;
        write_many(&env, &well, 7, round * 100, 700).await;
        if random.random_bool(0.5) && !there {
            env.create_topic("sick", 3, &[]).await;
            there = true;
        }
        // The rows of the other topic are the clock: how far the lane is has nothing to do with it.
        env.expect_records(&well, (round * 700 + random.random_range(1..700)) as usize).await;
        let next = small().await;
        leader.kill().await;
        next.wait_for_log("leading").await;
        leader = next;
    }
    if !there {
        env.create_topic("sick", 3, &[]).await;
    }
    all_settled(&env).await;
    assert_complete(&env.read_topic(&sick).await, 7, ROUNDS * 100);
    assert_complete(&env.read_topic(&well).await, 7, ROUNDS * 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_a_rate_goes_at_its_pace_and_the_others_at_theirs() {
    let env = Env::new().await;
    let (slow, well) = (env.create_topic("slow", 1, &[]).await, env.create_topic("well", 1, &[]).await);
    let relay = impatient(&env).await.topic(&slow, "rate = 100").start().await;
    write(&env, &[Line::new(&slow, "k0", 0)]).await;
    env.expect_lane(&slow, "paced").await;
    write_many(&env, &slow, 1, 1, 400).await;
    write_many(&env, &well, 10, 0, 2000).await;
    env.expect_records(&well, 2000).await;
    let slow_ones =
        value(&relay, "outbox_messages_total", &[("topic", &slow), ("outcome", "delivered")]).await;
    assert!(slow_ones < 401.0, "a second's worth is a hundred, {slow_ones} went");
    assert_complete(&env.expect_records_within(&slow, 401, LONG).await, 1, 401);
    // It stays a lane: the rate stays, too.
    env.expect_lane(&slow, "paced").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_under_load_gets_a_lane_and_goes_on_when_it_is_back() {
    let env = Env::new().await;
    let (topic, well) = (env.create_topic("gone", 2, &[]).await, env.create_topic("well", 2, &[]).await);
    let _relay = impatient(&env).await.start().await;
    write_many(&env, &topic, 5, 0, 500).await;
    env.expect_records(&topic, 500).await;
    env.delete_topic(&topic).await;
    write_many(&env, &topic, 5, 100, 2000).await;
    write_many(&env, &well, 5, 0, 2000).await;
    env.expect_lane(&topic, "missing").await;
    assert_complete(&env.expect_records(&well, 2000).await, 5, 400);
    env.create_topic("gone", 2, &[]).await;
    eventually(LONG, "all versions are there", async || {
        let found = first_versions(&env.read_topic(&topic).await);
        found.len() == 5 && found.values().all(|versions| versions.last() == Some(&499))
    })
    .await;
    for (key, found) in first_versions(&env.read_topic(&topic).await) {
        assert!(found.is_sorted(), "{key}: {found:?}");
        // What was confirmed before the topic vanished is gone with it.
        assert_eq!(found, (found[0]..500).collect::<Vec<_>>(), "{key}");
        assert!(found[0] <= 100, "{key}: nothing that was unconfirmed is missing");
    }
    all_settled(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_floods_is_read_on_its_own_and_the_others_are_not_behind_it() {
    let env = Env::new().await;
    let (flood, well) = (env.create_topic("flood", 3, &[]).await, env.create_topic("well", 3, &[]).await);
    let rows = 20_000;
    let relay = impatient(&env).await.set("relay.page_rows", 50).set("relay.window_rows", 200).start().await;
    write_many(&env, &well, 10, 0, 100).await;
    env.expect_records(&well, 100).await;

    // The others' rows lie behind the whole flood.
    write_many(&env, &flood, 10, 0, rows).await;
    write_many(&env, &well, 10, 10, 1000).await;
    env.expect_lane(&flood, "flooding").await;
    assert_eq!(value(&relay, "outbox_topic_lane", &[("topic", &flood), ("cause", "flooding")]).await, 1.0);
    env.expect_records(&well, 1100).await;
    let flooded = env.read_topic(&flood).await.len() as i64;
    assert!(flooded < rows, "the others came after all {rows} rows of the flood");

    assert_complete(&env.expect_records_within(&flood, rows as usize, LONG).await, 10, rows / 10);
    assert_complete(&env.read_topic(&well).await, 10, 110);
    all_settled(&env).await;
    assert_eq!(value(&relay, "outbox_topic_lane", &[("topic", &flood)]).await, 0.0, "main has it back");
    write_many(&env, &flood, 10, rows / 10, 100).await;
    assert_complete(&env.expect_records(&flood, rows as usize + 100).await, 10, rows / 10 + 10);
    assert_eq!(env.read_topic(&flood).await.len() as i64, rows + 100, "no record twice");
    assert_eq!(env.read_topic(&well).await.len(), 1100, "no record twice");
}

/// A transaction writes very many rows and others commit meanwhile, so that all of its rows are late at once when it commits.
async fn write_a_late_flood(env: &Env, flood: &str, well: &str, rows: i64) {
    let mut long = env.app().begin().await.expect("begin");
    write_many_in(&mut *long, flood, 10, 0, rows).await;
    write_many(env, well, 10, 0, 100).await;
    env.expect_records(well, 100).await;
    long.commit().await.expect("commit");
    write_many(env, well, 10, 10, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_commits_late_is_read_on_its_own_too() {
    let env = Env::new().await;
    let (flood, well) = (env.create_topic("flood", 3, &[]).await, env.create_topic("well", 3, &[]).await);
    let rows = 20_000;
    let relay = impatient(&env).await.set("relay.page_rows", 50).set("relay.window_rows", 200).start().await;
    write_a_late_flood(&env, &flood, &well, rows).await;
    env.expect_lane(&flood, "flooding").await;
    eventually(DEADLINE, "main has passed the flood's rows, and they are counted", async || {
        value(&relay, "outbox_backlog_messages", &[("state", "laned")]).await >= 1000.0
    })
    .await;
    assert_complete(&env.expect_records(&well, 1100).await, 10, 110);
    let flooded = env.read_topic(&flood).await.len() as i64;
    assert!(flooded < rows, "the others came after all {rows} rows of the flood");

    assert_complete(&env.expect_records_within(&flood, rows as usize, LONG).await, 10, rows / 10);
    all_settled(&env).await;
    assert_eq!(value(&relay, "outbox_topic_lane", &[("topic", &flood)]).await, 0.0, "main has it back");
    assert_eq!(env.read_topic(&flood).await.len() as i64, rows, "no record twice");
    assert_eq!(env.read_topic(&well).await.len(), 1100, "no record twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_rows_of_a_missing_topic_are_counted_while_they_wait() {
    let env = Env::new().await;
    let (missing, well) = (env.topic("missing"), env.create_topic("well", 3, &[]).await);
    let relay = impatient(&env).await.set("relay.page_rows", 50).set("relay.window_rows", 200).start().await;
    write_a_late_flood(&env, &missing, &well, 5000).await;
    env.expect_lane(&missing, "missing").await;
    assert_complete(&env.expect_records(&well, 1100).await, 10, 110);
    let counted = format!(
        "select waiting > 4000 and waiting + retrying + behind = 5000 from outbox.backlog where topic = '{missing}'"
    );
    env.eventually_true(&counted).await;
    let pressed = format!("select waiting = 5000 from outbox.pressure('{missing}')");
    env.eventually_true(&pressed).await;
    eventually(DEADLINE, "they are laned, and the oldest is known", async || {
        let metrics = relay.metrics().await;
        metrics.get("outbox_backlog_messages", &[("state", "laned")]).unwrap_or(0.0) >= 4000.0
            && metrics.get("outbox_oldest_pending_timestamp_seconds", &[("topic", &missing)]).unwrap_or(0.0)
                > 0.0
    })
    .await;
    env.create_topic("missing", 3, &[]).await;
    assert_complete(&env.expect_records_within(&missing, 5000, LONG).await, 10, 500);
    all_settled(&env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_of_late_rows_goes_on_where_it_was_after_a_takeover() {
    let env = Env::new().await;
    let (flood, well) = (env.create_topic("flood", 3, &[]).await, env.create_topic("well", 3, &[]).await);
    let rows = 20_000;
    let start =
        async || impatient(&env).await.set("relay.page_rows", 50).set("relay.window_rows", 200).start().await;
    let first = start().await;
    write_a_late_flood(&env, &flood, &well, rows).await;
    let reads_late = "select exists (select from outbox.open_lane where late_after > 0)";
    env.eventually_true(reads_late).await;
    first.kill().await;
    let here = "select late_after from outbox.open_lane";
    let after: Option<i64> = sqlx::query_scalar(here).fetch_one(env.admin()).await.expect("one lane is open");
    let _second = start().await;
    let records = env.expect_records_within(&flood, rows as usize, LONG).await;
    all_settled(&env).await;
    assert_complete(&env.read_topic(&well).await, 10, 110);
    let found = first_versions(&records);
    for key in 0..10 {
        assert_eq!(found[&format!("k{key}")], (0..rows / 10).collect::<Vec<_>>());
    }
    let copies = env.read_topic(&flood).await.len() as i64 - rows;
    assert!(copies <= 200, "{copies} copies although the ledger knew of late rows up to id {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_seen_where_bytes_and_not_rows_fill_the_pages() {
    let env = Env::new().await;
    let (flood, well) = (env.create_topic("flood", 3, &[]).await, env.create_topic("well", 3, &[]).await);
    let relay = impatient(&env).await.set("relay.max_row_bytes", "1KiB").set("relay.page_bytes", "1KiB");
    let _relay = relay.set("relay.page_rows", 500).set("relay.window_rows", 1000).start().await;
    write_many(&env, &well, 10, 0, 100).await;
    env.expect_records(&well, 100).await;
    write_many(&env, &flood, 10, 0, 20_000).await;
    write_many(&env, &well, 10, 10, 1000).await;
    env.expect_lane(&flood, "flooding").await;
    assert_complete(&env.expect_records(&well, 1100).await, 10, 110);
    assert_complete(&env.expect_records_within(&flood, 20_000, LONG).await, 10, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sick_topics_are_read_on_their_own_each_and_the_well_one_does_not_notice() {
    // At full scale more than there can be lanes.
    let (topics, lanes) = (scaled(150, 1100), scaled(150, 1000));
    let env = Env::new().await;
    let well = env.create_topic("well", 1, &[]).await;
    let name = |number: i64| format!("sick{number}");
    let write_to_all = async |from: i64| {
        let sql = "insert into outbox.message (topic, key, payload) \
                   select $1 || topic, convert_to('k', 'UTF8'), convert_to(to_char($3 + version, 'fm00000000'), 'UTF8') \
                     from generate_series(0, 9) version, generate_series(0, $2 - 1) topic order by version, topic";
        let query = sqlx::query(sql).bind(env.topic("sick")).bind(topics).bind(from);
        query.execute(env.app()).await.expect("insert");
    };
    let first = impatient(&env).await.start().await;
    write_to_all(0).await;
    let open = format!("select count(*) = {lanes} and count(distinct topic) = {lanes} from outbox.open_lane");
    eventually(LONG, &open, async || {
        sqlx::query_scalar::<_, bool>(&open).fetch_one(env.admin()).await.unwrap_or(false)
    })
    .await;
    first.kill().await;
    let _second = impatient(&env).await.start().await;
    write_to_all(10).await;
    write_many(&env, &well, 10, 0, 1000).await;
    assert_complete(&env.expect_records_within(&well, 1000, LONG).await, 10, 100);

    for number in [0, topics / 2, topics - 1] {
        env.create_topic(&name(number), 1, &[]).await;
    }
    for number in [0, topics / 2, topics - 1] {
        let records = env.expect_records_within(&env.topic(&name(number)), 20, LONG).await;
        assert_complete(&records, 1, 20);
    }
}
