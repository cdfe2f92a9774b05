//! Planned work: announced, seen by leader and standbys, over by itself or by word, overdue while a topic stands.

use outbox_relay::store::{Session, backlog};

use super::{ask, impatient};
use crate::operate::{say, says};
use crate::support::{DEADLINE, Env, Relay, eventually};

/// Both gauges of each relay come to this.
async fn expect(relays: &[&Relay], holds: bool, has_end: bool) {
    for relay in relays {
        let fits = async || {
            let metrics = relay.metrics().await;
            let end = metrics.value("outbox_maintenance_end_timestamp_seconds", &[]);
            metrics.value("outbox_maintenance", &[]) == f64::from(u8::from(holds)) && (end > 1e9) == has_end
        };
        eventually(DEADLINE, &format!("maintenance holds: {holds}, has an end: {has_end}"), fits).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_work_is_seen_by_leader_and_standby_until_somebody_ends_it() {
    let env = Env::new().await;
    let (leader, standby) = (impatient(&env).await.start().await, impatient(&env).await.start().await);
    let both = [&leader, &standby];
    expect(&both, false, false).await;
    let first = ask(&env, "outbox.set_maintenance('1 day', 'the longest that is taken')", "running").await;
    expect(&both, true, true).await;
    let second = ask(&env, "outbox.set_maintenance('10 minutes', 'shorter')", "running").await;
    env.eventually_true(&format!("select state = 'done' from outbox.request where id = {first}")).await;
    let end: f64 = env
        .one(&format!(
            "select extract(epoch from expires_at)::double precision from outbox.request where id = {second}"
        ))
        .await;
    eventually(DEADLINE, "the standby shows the new end", async || {
        let shown = standby.metrics().await.value("outbox_maintenance_end_timestamp_seconds", &[]);
        (shown - end).abs() < 0.001
    })
    .await;
    ask(&env, "outbox.end_maintenance('done')", "done").await;
    assert_eq!(
        env.one::<String>(&format!("select state from outbox.request where id = {second}")).await,
        "cancelled"
    );
    expect(&both, false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_work_ends_by_itself_and_is_overdue_while_a_topic_stands() {
    let env = Env::new().await;
    let relay = impatient(&env).await.start().await;
    let state = async |id: i64, state: &str| {
        env.eventually_true(&format!("select state = '{state}' from outbox.request where id = {id}")).await;
    };
    let forgotten = ask(&env, "outbox.set_maintenance('1 second')", "running").await;
    state(forgotten, "expired").await;
    expect(&[&relay], false, false).await;

    ask(&env, "outbox.pause('orders')", "running").await;
    let overdue = ask(&env, "outbox.set_maintenance('1 second', 'upgrade')", "running").await;
    expect(&[&relay], false, true).await;
    says(&say(&env, "status").await, 0, &["overdue since", "upgrade"]);
    ask(&env, "outbox.resume('orders')", "done").await;
    state(overdue, "expired").await;
    expect(&[&relay], false, false).await;

    // Whoever lets it stand says so.
    ask(&env, "outbox.pause('orders')", "running").await;
    let overdue = ask(&env, "outbox.set_maintenance('1 second')", "running").await;
    expect(&[&relay], false, true).await;
    says(&say(&env, "maintenance end --yes").await, 0, &["done"]);
    state(overdue, "cancelled").await;
    expect(&[&relay], false, false).await;
    assert_eq!(env.one::<i64>("select count(*) from outbox.request where state = 'running'").await, 1);
}

async fn announced(session: &mut Session) -> Option<bool> {
    backlog::sample(session).await.expect("a sample").maintenance.map(|work| work.holds)
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_work_needs_no_leader() {
    let env = Env::new().await;
    let mut session = env.store().connect("sample").await.expect("a connection");
    assert_eq!(announced(&mut session).await, None);
    env.execute("select outbox.set_maintenance('1 hour')").await;
    env.execute("select outbox.set_maintenance('2 hours')").await;
    assert_eq!(announced(&mut session).await, Some(true));
    env.execute("select outbox.end_maintenance()").await;
    assert_eq!(announced(&mut session).await, None, "no older one comes to life");
}
