//! The end of any internal task is the end of the process, with a last line that says so; and nothing is lost by it.

use outbox_relay::{crash_point, task};

use crate::support::history::RECOVERY;
use crate::support::lines::{expect_complete, write_many};
use crate::support::{Env, LogLine};

const LAST_LINE: &str = "internal task ended unexpectedly";

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_any_task_ends_the_process_with_a_clear_last_line() {
    let env = Env::new().await;
    let topic = env.create_topic("tasks", 3, &[]).await;
    let relay =
        async || env.relay().await.set("lease.ttl", "1s").set("retention.every", "100ms").expect_errors();
    let mut versions = 0;
    for name in crash_point::TASKS {
        write_many(&env, &topic, 5, versions, 50).await;
        versions += 10;
        let dying = relay().await.env("OUTBOX_RELAY_PANIC_AT", name).spawn().await;
        if name == "http" {
            dying.wait_for_log("listening").await;
            dying.get("/metrics").await;
        }
        let status = dying.wait_for_exit(RECOVERY).await;
        assert_eq!(status.code(), Some(task::EXIT_CODE), "{name}");
        let last = dying.wait_for_line(LAST_LINE, RECOVERY, |line| line.message() == Some(LAST_LINE)).await;
        let field =
            |line: &LogLine, name: &str| line.field(name).map(ToString::to_string).unwrap_or_default();
        assert!(field(&last, "reason").contains(&format!("makes {name} panic")), "{name}: {last:?}");
        assert!(field(&last, "task").contains("crash_point.rs"), "{name}: {last:?}");
    }
    let _last = relay().await.start().await;
    expect_complete(&env, &topic, 5, versions).await;
}
