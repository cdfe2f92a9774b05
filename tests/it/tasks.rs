//! The end of any internal task is the end of the process, with a last line that says which one; and nothing is lost by it.

use outbox_relay::{crash_point, task};

use crate::support::history::RECOVERY;
use crate::support::lines::{expect_complete, write_many};
use crate::support::{Env, LogLine, Relay, RelayBuilder};

const LAST_LINE: &str = "internal task ended unexpectedly";

/// A relay with every task that there is; nobody collects its spans.
async fn relay(env: &Env) -> RelayBuilder {
    let relay = env.relay().await.set("lease.ttl", "1s").set("retention.every", "100ms");
    let relay =
        relay.set("heartbeat.topic", env.topic("heartbeat")).set("trace.endpoint", "http://127.0.0.1:9");
    relay.expect_errors()
}

/// The last line of a relay that ends by itself, as it must.
async fn last_line(name: &str, dying: &Relay) -> LogLine {
    let status = dying.wait_for_exit(RECOVERY).await;
    assert_eq!(status.code(), Some(task::EXIT_CODE), "{name}");
    let last = dying.wait_for_line(LAST_LINE, RECOVERY, |line| line.message() == Some(LAST_LINE)).await;
    assert_eq!(field(&last, "task"), name, "{last:?}");
    last
}

fn field<'a>(line: &'a LogLine, name: &str) -> &'a str {
    line.field(name).and_then(|value| value.as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_any_task_ends_the_process_with_a_clear_last_line() {
    let env = Env::new().await;
    let topic = env.create_topic("tasks", 3, &[]).await;
    env.create_topic("heartbeat", 1, &[]).await;
    let mut versions = 0;
    for name in crash_point::TASKS {
        write_many(&env, &topic, 5, versions, 50).await;
        versions += 10;
        let dying = relay(&env).await.env("OUTBOX_RELAY_PANIC_AT", name);
        // Something that is reported as an error.
        let dying = if name == "error" { dying.env("OUTBOX_RELAY_FATAL_AT", "main:1:1") } else { dying };
        let dying = dying.spawn().await;
        if name == "http" {
            dying.wait_for_log("listening").await;
            dying.get("/metrics").await;
        }
        let last = last_line(name, &dying).await;
        assert!(field(&last, "reason").contains(&format!("makes {name} panic")), "{last:?}");
        assert!(field(&last, "place").contains("crash_point.rs"), "{last:?}");
    }
    let _last = relay(&env).await.start().await;
    expect_complete(&env, &topic, 5, versions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_merely_ends_ends_the_process_too() {
    let env = Env::new().await;
    let topic = env.create_topic("tasks", 3, &[]).await;
    env.create_topic("heartbeat", 1, &[]).await;
    let mut versions = 0;
    for name in crash_point::ENDLESS {
        write_many(&env, &topic, 5, versions, 50).await;
        versions += 10;
        let dying = relay(&env).await.env("OUTBOX_RELAY_END_AT", name).spawn().await;
        let last = last_line(name, &dying).await;
        assert_eq!(field(&last, "reason"), task::ENDED);
    }
    let _last = relay(&env).await.start().await;
    expect_complete(&env, &topic, 5, versions).await;
}
