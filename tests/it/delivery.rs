//! What a service writes is what Kafka gets, byte for byte, at the place where Kafka's own clients would put it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use outbox_relay::partition;
use rand::Rng;
use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use crate::support::lines::{assert_complete, write_many};
use crate::support::{DEADLINE, Env, Kafka, Record, blocking, eventually, random, scaled};

/// What a service writes, without the topic.
#[derive(Clone, Default)]
struct Written {
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    headers: Option<String>,
    partition: Option<i32>,
}

/// Writes the rows in one statement, as a service does, and returns the id and event id of each.
async fn write(env: &Env, topic: &str, rows: &[Written]) -> Vec<(i64, Uuid)> {
    let sql = "insert into outbox.message (topic, key, payload, headers, partition) \
               select $1, u.key, u.payload, u.headers::jsonb, u.partition \
                 from unnest($2::bytea[], $3::bytea[], $4::text[], $5::int[]) with ordinality \
                      as u (key, payload, headers, partition, place) \
                order by u.place returning id, event_id";
    let inserted = sqlx::query(sql)
        .bind(topic)
        .bind(rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.headers.clone()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.partition).collect::<Vec<_>>())
        .fetch_all(env.app())
        .await
        .expect("insert");
    inserted.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Writes the rows to a topic of one partition and returns their records, in order.
async fn deliver(env: &Env, topic: &str, rows: &[Written]) -> Vec<Record> {
    write(env, topic, rows).await;
    let records = env.expect_records(topic, rows.len()).await;
    assert_eq!(records.len(), rows.len(), "no record twice");
    records
}

/// The producer's own headers of a record: without the relay's.
fn own_headers(record: &Record) -> Vec<(&str, Option<&[u8]>)> {
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
    headers.filter(|(name, _)| !["event-id", "outbox-seq"].contains(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_row_becomes_a_confirmed_record() {
    let env = Env::new().await;
    let topic = env.create_topic("orders", 1, &[]).await;
    let relay = env.start_relay().await;
    relay.wait_for_log("leading").await;

    sqlx::query("insert into outbox.message (topic, key, payload) values ($1, 'k', 'hello')")
        .bind(&topic)
        .execute(env.app())
        .await
        .expect("insert");

    let records = env.expect_records(&topic, 1).await;
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(records[0].payload.as_deref(), Some(&b"hello"[..]));
    env.eventually_true("select state = 'published' from outbox.status").await;
    assert!(relay.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_payloads_arrive_byte_for_byte_with_null_and_empty_told_apart() {
    let env = Env::new().await;
    let topic = env.create_topic("bytes", 1, &[]).await;
    let _relay = env.start_relay().await;

    let every_byte: Vec<u8> = (0..=255).collect();
    let long: Vec<u8> = std::iter::repeat_n(&every_byte[..], 2000).flatten().copied().collect();
    let parts = [None, Some(Vec::new()), Some(vec![0]), Some(every_byte), Some(long)];
    // A key may not be as long as that.
    let pairs = parts[..4].iter().flat_map(|key| parts.iter().map(move |payload| (key, payload)));
    let rows: Vec<Written> = pairs
        .map(|(key, payload)| Written { key: key.clone(), payload: payload.clone(), ..Written::default() })
        .collect();

    let records = deliver(&env, &topic, &rows).await;
    for (record, row) in records.iter().zip(&rows) {
        // Compared as a whole and shown as lengths: half a megabyte of bytes tells nobody anything.
        let lengths = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(Vec::len);
        let shown = [&record.key, &row.key, &record.payload, &row.payload].map(lengths);
        assert!(record.key == row.key && record.payload == row.payload, "{shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_values_arrive_byte_for_byte() {
    let env = Env::new().await;
    let topic = env.create_topic("headers", 1, &[]).await;
    let _relay = env.start_relay().await;

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let odd = "\u{1}\u{7f}\"\\/\u{8}\u{c}\n\r\t\u{2028}ä€😀\u{10ffff}";
    let headers = json!({
        "traceparent": trace, odd: odd, "empty": "", "null": null, "list": ["b", null, "", "a", "b"], "none": [],
        "long": "x".repeat(20_000), "EVENT-ID": "another name",
    });
    let rows = [
        Written { headers: Some(headers.to_string()), ..Written::default() },
        Written { headers: Some("{}".into()), ..Written::default() },
        Written::default(),
    ];
    let records = deliver(&env, &topic, &rows).await;

    let found = own_headers(&records[0]);
    let values = |name: &str| -> Vec<Option<&[u8]>> {
        found.iter().filter(|(found, _)| *found == name).map(|(_, value)| *value).collect()
    };
    assert_eq!(values("traceparent"), [Some(trace.as_bytes())]);
    assert_eq!(values(odd), [Some(odd.as_bytes())]);
    assert_eq!(values("empty"), [Some(&b""[..])]);
    assert_eq!(values("null"), [None]);
    assert_eq!(values("list"), [Some(&b"b"[..]), None, Some(b""), Some(b"a"), Some(b"b")]);
    assert_eq!(values("none"), []);
    assert_eq!(values("long"), [Some(&[b'x'; 20_000][..])]);
    assert_eq!(values("EVENT-ID"), [Some(&b"another name"[..])]);
    assert_eq!(found.len(), 11);
    assert_eq!((own_headers(&records[1]), own_headers(&records[2])), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_carries_the_event_id_and_the_seq_of_its_row() {
    let env = Env::new().await;
    let topic = env.create_topic("identity", 1, &[]).await;
    let _relay = env.start_relay().await;

    let written = write(&env, &topic, &vec![Written::default(); 100]).await;
    let own = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let published: Uuid = sqlx::query_scalar("select outbox.publish($1, 'k', 'p', event_id => $2)")
        .bind(&topic)
        .bind(own)
        .fetch_one(env.app())
        .await
        .expect("publish");
    assert_eq!(published, own);

    let records = env.expect_records(&topic, 101).await;
    let identities: Vec<(i64, Uuid)> =
        records.iter().map(|record| (record.seq(), record.event_id())).collect();
    assert_eq!(identities[..100], written);
    assert_eq!(identities[100].1, own);
    assert_eq!(records[0].header("event-id"), Some(&*written[0].1.hyphenated().to_string()));
    assert!(records.iter().all(|record| record.headers.len() == 2), "and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relays_headers_have_the_names_that_the_operator_gives_them() {
    let env = Env::new().await;
    let topic = env.create_topic("named", 1, &[]).await;
    let relay = env.relay().await.set("kafka.header_event_id", "id").set("kafka.header_seq", "seq");
    let relay = relay.set("kafka.header_epoch", "outbox-epoch").start().await;

    // The schema knows the default names only; under other names the relay's value wins.
    let headers = Some(json!({"id": "mine", "seq": ["mine", "too"], "kept": "yes"}).to_string());
    let written = write(&env, &topic, &[Written { headers, ..Written::default() }]).await;
    let records = env.expect_records(&topic, 1).await;
    let leading = relay.wait_for_log("leading").await;
    let epoch =
        leading.field("epoch").and_then(serde_json::Value::as_i64).expect("the leader names its epoch");

    let text = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
    let (id, event_id) = written[0];
    let expected = [
        text("id", event_id.to_string()),
        text("seq", id.to_string()),
        text("outbox-epoch", epoch.to_string()),
        text("kept", "yes".to_owned()),
    ];
    assert_eq!(records[0].headers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_time_at_which_its_row_was_written_but_never_one_to_come() {
    let env = Env::new().await;
    let topic = env.create_topic("times", 1, &[]).await;
    let _relay = env.start_relay().await;
    // Producers cannot set it; a database's clock can be anywhere.
    let sql = format!(
        "insert into outbox.message (topic, created_at) \
         values ('{topic}', '2001-02-03 04:05:06.789999Z'), ('{topic}', clock_timestamp() + interval '3 hours'), \
                ('{topic}', clock_timestamp())"
    );
    env.execute(&sql).await;

    let records = env.expect_records(&topic, 3).await;
    let times: Vec<i64> = records.iter().map(|record| record.timestamp.expect("it has a time")).collect();
    assert_eq!(times[0], 981_173_106_789);
    let sql =
        "select floor(extract(epoch from s.created_at) * 1000)::bigint from outbox.status s order by s.id";
    let created: Vec<i64> = sqlx::query_scalar(sql).fetch_all(env.admin()).await.expect("select");
    assert_eq!(times[2], created[2]);
    let ahead = times[1] - times[2];
    assert!(
        (0..60_000).contains(&ahead),
        "the second one has the time of its sending, {ahead} ms after the third"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_names_its_partition_goes_there() {
    let env = Env::new().await;
    let topic = env.create_topic("chosen", 5, &[]).await;
    let _relay = env.start_relay().await;
    let row = |partition| Written {
        key: Some(b"one key".to_vec()),
        partition: Some(partition),
        ..Written::default()
    };
    let partitions = [3, 0, 4, 4, 1, 2, 0];
    let written = write(&env, &topic, &partitions.map(row)).await;

    let mut records = env.expect_records(&topic, partitions.len()).await;
    records.sort_by_key(Record::seq);
    let found: Vec<(i64, i32)> = records.iter().map(|record| (record.seq(), record.partition)).collect();
    let expected: Vec<(i64, i32)> = written.iter().map(|(id, _)| *id).zip(partitions).collect();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_row_waits_for_its_time_and_holds_nobody_up() {
    let env = Env::new().await;
    let topic = env.create_topic("scheduled", 1, &[]).await;
    let _relay = env.start_relay().await;
    let sql = format!(
        "insert into outbox.message (topic, key, payload, deliver_after, expires_at) \
         values ('{topic}', 'k', 'later', clock_timestamp() + interval '2 s', null), \
                ('{topic}', 'k', 'now', null, null), \
                ('{topic}', 'k', 'past', clock_timestamp() - interval '1 day', null), \
                ('{topic}', 'k', 'too late', clock_timestamp() + interval '1 s', clock_timestamp() + interval '1001 ms')"
    );
    env.execute(&sql).await;

    let records = env.expect_records(&topic, 3).await;
    let payloads: Vec<&[u8]> =
        records.iter().map(|record| record.payload.as_deref().unwrap_or_default()).collect();
    assert_eq!(payloads, [&b"now"[..], b"past", b"later"]);
    env.eventually_true("select count(*) = 0 from outbox.deferred").await;
    let sql = "select string_agg(s.state, ' ' order by s.id), \
                      bool_and(s.published_at >= m.deliver_after or m.deliver_after is null or s.state = 'expired') \
                 from outbox.status s join outbox.message m using (id)";
    let (states, in_time): (String, bool) = sqlx::query_as(sql).fetch_one(env.admin()).await.expect("select");
    assert_eq!((states.as_str(), in_time), ("published published published expired", true));
    assert_eq!(env.read_topic(&topic).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_scheduled_rows_slow_nobody_and_are_no_reason_to_stop_reading() {
    let rows = scaled(10_000, 1_000_000);
    let env = Env::new().await;
    let (later, topic) = (env.create_topic("later", 1, &[]).await, env.create_topic("now", 1, &[]).await);
    let relay = env.relay().await.set("retry.deferred_max", 1000).start().await;
    let sql = "insert into outbox.message (topic, key, payload, deliver_after) \
               select $1, convert_to('k' || n % 100, 'UTF8'), 'x', clock_timestamp() + interval '1 day' from generate_series(1, $2) n";
    sqlx::query(sql).bind(&later).bind(rows).execute(env.app()).await.expect("insert");
    write_many(&env, &topic, 10, 0, 1000).await;
    let patience = DEADLINE * scaled(1, 20) as u32;
    assert_complete(&env.expect_records_within(&topic, 1000, patience).await, 10, 100);
    env.eventually_true(&format!("select count(*) = {rows} from outbox.deferred where reason = 'scheduled'"))
        .await;
    write_many(&env, &topic, 10, 100, 1000).await;
    assert_complete(&env.expect_records(&topic, 2000).await, 10, 200);
    let counted = async || {
        relay.metrics().await.value("outbox_backlog_messages", &[("state", "scheduled")]) == rows as f64
    };
    eventually(DEADLINE, "they are counted", counted).await;
    assert_eq!(env.read_topic(&later).await.len(), 0);
}

/// A row weighs more in the window than in a page.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_does_not_fit_the_window_goes_out_to_its_end() {
    let env = Env::new().await;
    let topic = env.create_topic("full", 1, &[]).await;
    write_many(&env, &topic, 10, 0, 10_000).await;
    let relay = env.relay().await.set("relay.page_bytes", "1MiB").set("relay.window_bytes", "1MiB");
    let _relay = relay.start().await;
    assert_complete(&env.expect_records(&topic, 10_000).await, 10, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_were_rolled_back_are_no_backlog() {
    let env = Env::new().await;
    let topic = env.create_topic("backlog", 1, &[]).await;
    write_many(&env, &topic, 1, 0, 10).await;
    let relays = [env.start_relay().await, env.start_relay().await];
    env.expect_records(&topic, 10).await;
    let mut unlucky = env.app().begin().await.expect("begin");
    let sql = "insert into outbox.message (topic) select $1 from generate_series(1, 7)";
    sqlx::query(sql).bind(&topic).execute(&mut *unlucky).await.expect("insert");
    unlucky.rollback().await.expect("rollback");
    for relay in relays {
        // Two samples, or two polls, after the rollback.
        let sampled =
            async || relay.metrics().await.value("outbox_database_seconds_count", &[("operation", "sample")]);
        let before = sampled().await;
        eventually(DEADLINE, "two more samples", async || sampled().await >= before + 2.0).await;
        let ready = relay.metrics().await.value("outbox_backlog_messages", &[("state", "ready")]);
        assert_eq!(ready, 0.0, "exact at zero");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_row_is_not_sent_and_counted() {
    let env = Env::new().await;
    let topic = env.create_topic("expired", 1, &[]).await;
    let relay = env.start_relay().await;
    let sql = format!(
        "insert into outbox.message (topic, key, expires_at) \
         values ('{topic}', 'k', clock_timestamp() - interval '1 ms'), ('{topic}', 'k', clock_timestamp() + interval '1 hour')"
    );
    env.execute(&sql).await;

    env.eventually_true("select array_agg(state order by id) = '{expired,published}' from outbox.status")
        .await;
    let records = env.read_topic(&topic).await;
    assert_eq!(records.iter().map(Record::seq).collect::<Vec<_>>(), [2]);
    let metrics = relay.metrics().await;
    for (outcome, rows) in [("expired", 1.0), ("delivered", 1.0)] {
        assert_eq!(metrics.value("outbox_messages_total", &[("topic", &topic), ("outcome", outcome)]), rows);
    }
}

/// Where Kafka's own Java producer puts each key, asked of the class that decides it.
async fn java_partitions(keys: &[Vec<u8>], partitions: i32) -> Vec<i32> {
    let lines: String = keys.iter().map(|key| hex(key) + "\n").collect();
    let jars = Kafka::options().jars.join("*");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/Partitions.java");
    let answer = blocking(move || {
        let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
        let mut java = Command::new(home.unwrap_or_else(|| "java".into()));
        java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]).arg(jars).arg(program);
        let java = java.arg(partitions.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut java = java.stderr(Stdio::piped()).spawn()?;
        let input = java.stdin.take();
        input.expect("piped").write_all(lines.as_bytes())?;
        java.wait_with_output()
    })
    .await;
    assert!(answer.status.success(), "java: {}", String::from_utf8_lossy(&answer.stderr));
    let text = String::from_utf8(answer.stdout).expect("numbers");
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_to_the_partition_that_kafkas_java_producer_chooses() {
    const PARTITIONS: i32 = 7;
    let env = Env::new().await;
    let topic = env.create_topic("hashed", PARTITIONS, &[]).await;
    let _relay = env.start_relay().await;
    let mut random = random();
    let mut keys: Vec<Vec<u8>> = vec![b"".to_vec(), b"\0".to_vec(), b"order-17".to_vec(), "schlüssel".into()];
    keys.extend((0..496).map(|_| (0..random.random_range(0..40)).map(|_| random.random()).collect()));
    let with_key = |key: &Vec<u8>| Written { key: Some(key.clone()), ..Written::default() };
    let mut rows: Vec<Written> = keys.iter().map(with_key).collect();
    // Rows without key go wherever it suits Kafka, and do not disturb the others.
    rows.extend(vec![Written::default(); 50]);
    write(&env, &topic, &rows).await;

    let (java, mut records) =
        tokio::join!(java_partitions(&keys, PARTITIONS), env.expect_records(&topic, rows.len()));
    records.sort_by_key(Record::seq);
    let chosen: Vec<i32> = records.iter().take(keys.len()).map(|record| record.partition).collect();
    assert_eq!(chosen, java);
    // The relay knows it beforehand.
    let foretold: Vec<i32> = keys.iter().map(|key| partition::of_key(key, PARTITIONS)).collect();
    assert_eq!(foretold, java);
    assert!((0..PARTITIONS).all(|partition| java.contains(&partition)), "the keys reach every partition");
    let keyless = &records[keys.len()..];
    assert!(keyless.iter().all(|record| record.key.is_none() && (0..PARTITIONS).contains(&record.partition)));
}
