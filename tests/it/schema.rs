//! The schema as services and operators meet it: what is refused and how, who may do what, what the views answer.

use std::fmt::Write;
use std::path::Path;

use outbox_relay::{Message, PublishError, publish};
use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::{Connection, PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::support::Env;

/// Set to write the golden file anew.
const UPDATE: &str = "OUTBOX_RELAY_TEST_UPDATE";

#[track_caller]
fn refusal<T: std::fmt::Debug>(answer: Result<T, sqlx::Error>) -> (String, String) {
    let error = answer.expect_err("the server refuses it");
    let error = error.as_database_error().unwrap_or_else(|| panic!("{error}"));
    let hint = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
    (error.message().to_owned(), hint.unwrap_or_default().to_owned())
}

async fn one<T>(pool: &PgPool, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[tokio::test]
async fn a_row_that_kafka_could_not_take_is_refused_in_the_producers_statement() {
    let env = Env::new().await;
    let cases = [
        ("topic", "''", "the topic is empty"),
        ("topic", "'orders/new'", "topic 'orders/new' contains '/'"),
        ("topic", "'bestellung-ä'", "topic 'bestellung-ä' contains 'ä'"),
        ("topic", "E'orders\\n'", "topic 'orders\n' contains '\n'"),
        ("topic", "'..'", "'..' is not a legal Kafka topic name"),
        ("topic", "repeat('x', 250)", "the topic name has 250 characters, Kafka allows 249"),
        ("topic, headers", "'t', '[]'", "headers are a JSON array, not an object"),
        ("topic, headers", "'t', 'null'", "headers are a JSON null, not an object"),
        ("topic, headers", r#"'t', '"a"'"#, "headers are a JSON string, not an object"),
        ("topic, headers", r#"'t', '{"n": 1}'"#, "header 'n' is a JSON number"),
        ("topic, headers", r#"'t', '{"ok": "x", "n": {}}'"#, "header 'n' is a JSON object"),
        ("topic, headers", r#"'t', '{"n": ["a", true]}'"#, "header 'n' has a JSON boolean in its array"),
        ("topic, headers", r#"'t', '{"n": [["a"]]}'"#, "header 'n' has a JSON array in its array"),
        ("topic, headers", r#"'t', '{"": "a"}'"#, "a header has an empty name"),
        ("topic, headers", r#"'t', '{"event-id": "a"}'"#, "header 'event-id' belongs to the relay"),
        ("topic, headers", r#"'t', '{"outbox-seq": null}'"#, "header 'outbox-seq' belongs to the relay"),
        ("topic, headers", r#"'t', '{"outbox-replay": "1"}'"#, "header 'outbox-replay' belongs to the relay"),
        ("topic, headers", r#"'t', '{"outbox-epoch": []}'"#, "header 'outbox-epoch' belongs to the relay"),
        ("topic, partition", "'t', -1", "the partition is negative"),
        ("topic, deliver_after", "'t', 'infinity'", "deliver_after is infinite"),
        ("topic, expires_at", "'t', '-infinity'", "expires_at is infinite"),
        (
            "topic, deliver_after, expires_at",
            "'t', '2031-01-01', '2031-01-01'",
            "expires before it may be delivered",
        ),
        ("topic, event_id", "'t', '00000000-0000-0000-0000-000000000000'", "event_id is the nil uuid"),
    ];
    for (columns, values, expected) in cases {
        let insert = format!("insert into outbox.message ({columns}, payload) values ({values}, 'secret')");
        let answer = sqlx::query(&insert).execute(env.app()).await;
        let (message, hint) = refusal(answer);
        assert!(
            message.starts_with("outbox message refused: ") && message.contains(expected),
            "{insert}: {message}"
        );
        assert!(!hint.is_empty(), "{insert}: says what would be right");
        assert!(!format!("{message}{hint}").contains("secret"), "{insert}: shows the payload");
    }
    let answer = sqlx::query("insert into outbox.message (payload) values ('x')").execute(env.app()).await;
    assert!(refusal(answer).0.contains("\"topic\""));
    assert_eq!(one::<i64>(env.admin(), "select count(*) from outbox.message").await, 0);
}

#[tokio::test]
async fn a_row_that_kafka_can_take_is_not_refused() {
    let env = Env::new().await;
    let rows = [
        ("topic", "repeat('x', 249)"),
        ("topic", "'Orders.v1_new-2'"),
        ("topic, headers", r#"'t', '{}'"#),
        ("topic, headers", r#"'t', '{"a": "x", "b": null, "c": ["x", null, ""], "d": []}'"#),
        ("topic, headers", r#"'t', '{"Event-Id": "names are case-sensitive in Kafka"}'"#),
        ("topic, key, payload", "'t', '', ''"),
        ("topic, partition", "'t', 0"),
        ("topic, deliver_after, expires_at", "'t', '2031-01-01', '2031-01-02'"),
    ];
    for (columns, values) in rows {
        let insert =
            format!("insert into outbox.message ({columns}) values ({values}) returning id, event_id");
        sqlx::query(&insert).fetch_one(env.app()).await.unwrap_or_else(|error| panic!("{insert}: {error}"));
    }
}

#[tokio::test]
async fn a_producer_cannot_write_what_the_database_decides_nor_read_what_others_wrote() {
    let env = Env::new().await;
    let denied = [
        "insert into outbox.message (topic, id) overriding system value values ('t', 7)",
        "insert into outbox.message (id, topic) values (default, 't')",
        "insert into outbox.message (topic, txid) values ('t', '7')",
        "insert into outbox.message (topic, slot) values ('t', 7)",
        "insert into outbox.message (topic, created_at) values ('t', now())",
        "insert into outbox.message_0 (topic) values ('t')",
        "insert into outbox.message (topic) values ('t') returning payload",
        "select payload from outbox.message",
        "update outbox.message set topic = 't'",
        "delete from outbox.message",
        "truncate outbox.message",
        "select * from outbox.status",
        "select * from outbox.ledger",
        "select * from outbox.lease",
        "select nextval('outbox.message_id_seq')",
        "select setval('outbox.message_id_seq', 1)",
        "select outbox.resign(null, null)",
        "create table outbox.mine ()",
    ];
    for sql in denied {
        let (message, _) = refusal(sqlx::query(sql).execute(env.app()).await);
        assert!(message.starts_with("permission denied"), "{sql}: {message}");
    }
}

#[tokio::test]
async fn nothing_is_granted_to_everybody_and_readers_see_no_payload() {
    let env = Env::new().await;
    env.execute("create role stranger_login login").await;
    let mut stranger = PgConnection::connect(&env.url_as("stranger_login")).await.expect("connect");
    for sql in ["select outbox.publish('t', null, 'x')", "select * from outbox.status"] {
        let (message, _) = refusal(sqlx::query(sql).execute(&mut stranger).await);
        assert!(message.starts_with("permission denied for schema outbox"), "{sql}: {message}");
    }
    let mut reader = PgConnection::connect(&env.url_as("reader_login")).await.expect("connect");
    for view in
        ["status", "backlog", "blocked_key", "dead_letter_group", "ledger", "lease", "beat", "request"]
    {
        let rows = sqlx::query(&format!("select * from outbox.{view}")).fetch_all(&mut reader).await;
        rows.unwrap_or_else(|error| panic!("{view}: {error}"));
    }
    for hidden in [
        "* from outbox.message",
        "* from outbox.deferred",
        "headers from outbox.dead_letter",
        "outbox.reveal('{1}')",
    ] {
        let (message, _) = refusal(sqlx::query(&format!("select {hidden}")).execute(&mut reader).await);
        assert!(message.starts_with("permission denied"), "{hidden}: {message}");
    }
    let shown: i64 = one(
        env.admin(),
        "select count(*) from information_schema.columns join information_schema.views using (table_schema, table_name) \
         where table_schema = 'outbox' and column_name in ('payload', 'headers')",
    )
    .await;
    assert_eq!(shown, 0, "views show no payload and no headers");
}

#[tokio::test]
async fn publish_takes_text_bytes_and_json_without_casts() {
    let env = Env::new().await;
    type Bytes = Option<&'static [u8]>;
    let calls: [(&str, Bytes, Bytes); 14] = [
        (r#"'t', 'o-1', '{"a":1}'"#, Some(b"o-1"), Some(br#"{"a":1}"#)),
        ("'t', null, null", None, None),
        ("'t', '', ''", Some(b""), Some(b"")),
        (r#"'t', 'ö', '{"b": 1,  "a": 2}'::json"#, Some("ö".as_bytes()), Some(br#"{"b": 1,  "a": 2}"#)),
        (r#"'t', 'o-1', '{"b":1,"a":2}'::jsonb"#, Some(b"o-1"), Some(br#"{"a": 2, "b": 1}"#)),
        (r"'t', 'o-1', '\x00ff'::bytea", Some(b"o-1"), Some(b"\x00\xff")),
        (r"'t', '\x00'::bytea, '\xff'::bytea", Some(b"\0"), Some(b"\xff")),
        (r"'t', '\x00'::bytea, 'text'", Some(b"\0"), Some(b"text")),
        (r#"'t', '\x00'::bytea, '[1]'::json"#, Some(b"\0"), Some(b"[1]")),
        (r#"'t', '\x00'::bytea, '[1, 2]'::jsonb"#, Some(b"\0"), Some(b"[1, 2]")),
        ("'t', 'k'::varchar, 'v'::varchar(9)", Some(b"k"), Some(b"v")),
        (r#"'t', 'k', 'v', '{"a": "b"}', 2"#, Some(b"k"), Some(b"v")),
        ("topic => 't', key => 'k', payload => 'v', serialize => true", Some(b"k"), Some(b"v")),
        ("'t', 'k', 'v', expires_at => '2031-01-01', event_id => null", Some(b"k"), Some(b"v")),
    ];
    for (arguments, key, payload) in calls {
        let call = format!("select outbox.publish({arguments})");
        let event_id: Uuid = one(env.app(), &call).await;
        let row = sqlx::query("select key, payload from outbox.message where event_id = $1").bind(event_id);
        let row = row.fetch_one(env.admin()).await.expect("the row is there");
        assert_eq!(row.get::<Option<&[u8]>, _>("key"), key, "{call}");
        assert_eq!(row.get::<Option<&[u8]>, _>("payload"), payload, "{call}");
    }
    // A driver that leaves the types of its parameters to the server.
    let mut app = PgConnection::connect(&env.app_url()).await.expect("connect");
    sqlx::raw_sql("prepare untyped as select outbox.publish($1, $2, $3, $4)")
        .execute(&mut app)
        .await
        .expect("prepare");
    sqlx::raw_sql("execute untyped('t', 'k', 'v', '{}')").execute(&mut app).await.expect("execute");
}

#[tokio::test]
async fn publish_many_writes_and_answers_in_the_order_of_the_array() {
    let env = Env::new().await;
    let fixed = Uuid::from_u128(7);
    let messages = format!(
        r#"[{{"topic": "a", "key": "k", "payload": {{"z": 1,  "a": [1 ,2]}}}},
            {{"topic": "b", "key_base64": "AP8=", "payload": "text", "headers": {{"h": ["x", null]}}}},
            {{"topic": "c", "payload": null, "headers": null, "partition": 3, "event_id": "{fixed}"}},
            {{"topic": "d", "key": null, "payload_base64": "AAE=", "expires_at": "2031-01-01T00:00:00Z"}},
            {{"topic": "e", "payload": ""}}, {{"topic": "f", "payload": 5}}]"#
    );
    for cast in ["", "::json", "::text"] {
        let sql = format!("select * from outbox.publish_many($1::text{cast}, serialize => false)");
        let ids: Vec<Uuid> =
            sqlx::query_scalar(&sql).bind(&messages).fetch_all(env.app()).await.expect("publish_many");
        assert_eq!(ids[2], fixed);
        let rows =
            sqlx::query("select topic, event_id, key, payload from outbox.message order by id desc limit 6");
        let mut rows: Vec<PgRow> = rows.fetch_all(env.admin()).await.expect("read");
        rows.reverse();
        let topics: String = rows.iter().map(|row| row.get::<String, _>("topic")).collect();
        assert_eq!(topics, "abcdef");
        assert_eq!(rows.iter().map(|row| row.get("event_id")).collect::<Vec<Uuid>>(), ids);
        let payloads: Vec<Option<&[u8]>> = rows.iter().map(|row| row.get("payload")).collect();
        let expected: [Option<&[u8]>; 6] =
            [Some(br#"{"z": 1,  "a": [1 ,2]}"#), Some(b"text"), None, Some(b"\0\x01"), Some(b""), Some(b"5")];
        assert_eq!(payloads, expected);
        assert_eq!(rows[1].get::<&[u8], _>("key"), b"\0\xff");
    }
    let ids: i64 = one(
        env.app(),
        r#"select count(*) from outbox.publish_many('[{"topic": "a", "key": "k", "payload": 1}]'::jsonb, serialize => true)"#,
    )
    .await;
    assert_eq!(ids, 1);
    assert_eq!(one::<i64>(env.app(), "select count(*) from outbox.publish_many('[]')").await, 0);

    let refused = [
        (r#"[{"topic": "a", "payload": 1}, 3]"#, "message 2 refused: it is not an object"),
        (r#"[{"topic": "a", "kee": "k", "payload": 1}]"#, "message 1 refused: field 'kee' is unknown"),
        (r#"[{"topic": "a"}]"#, "it has no payload"),
        (r#"[{"payload": 1}]"#, "it has no topic"),
        (r#"[{"topic": "a", "payload": 1, "payload_base64": ""}]"#, "both payload and payload_base64"),
        (r#"[{"topic": "a", "payload": 1, "key": 5}]"#, "its key is not a string"),
        (r#"[{}]"#, "message 1 refused: it is empty"),
        (r#"[{"topic": "a b", "payload": 1}]"#, "topic 'a b' contains ' '"),
    ];
    for (messages, expected) in refused {
        let answer =
            sqlx::query("select outbox.publish_many($1::text)").bind(messages).execute(env.app()).await;
        let (message, hint) = refusal(answer);
        assert!(message.contains(expected) && !hint.is_empty(), "{messages}: {message}");
    }
}

#[tokio::test]
async fn serialized_writers_of_a_key_take_turns_until_they_commit() {
    let env = Env::new().await;
    let mut first = env.app().begin().await.expect("begin");
    publish(&mut first, &Message::new("t").key("k").payload("1").serialize()).await.expect("publish");

    let mut second = env.app().begin().await.expect("begin");
    sqlx::raw_sql("set local lock_timeout = '50ms'").execute(&mut *second).await.expect("set");
    publish(&mut second, &Message::new("t").key("other").payload("2").serialize())
        .await
        .expect("another key goes on");
    publish(&mut second, &Message::new("u").key("k").payload("2").serialize())
        .await
        .expect("another topic goes on");
    let waits = publish(&mut second, &Message::new("t").key("k").payload("2").serialize()).await;
    assert!(matches!(waits, Err(PublishError::Database(_))), "{waits:?}");
    second.rollback().await.expect("rollback");
    first.commit().await.expect("commit");

    let keyless =
        publish(&mut env.app().acquire().await.expect("connect"), &Message::new("t").serialize()).await;
    assert!(
        matches!(&keyless, Err(PublishError::Refused { reason, .. }) if reason.contains("needs a key")),
        "{keyless:?}"
    );
}

#[tokio::test]
async fn a_rust_service_publishes_in_its_own_transaction() {
    let env = Env::new().await;
    let event_id = Uuid::from_u128(42);
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_micros(2_000_000_000_000_001);
    let message = Message::new("orders")
        .key("o-1")
        .json(&[1, 2])
        .expect("an array is JSON")
        .header("tag", "a")
        .header("tag", "b")
        .partition(1)
        .deliver_after(at)
        .expires_at(at + std::time::Duration::from_micros(1))
        .event_id(event_id);
    let mut transaction = env.app().begin().await.expect("begin");
    assert_eq!(publish(&mut transaction, &message).await.expect("publish"), event_id);
    transaction.rollback().await.expect("rollback");
    assert_eq!(one::<i64>(env.admin(), "select count(*) from outbox.message").await, 0);

    let mut transaction = env.app().begin().await.expect("begin");
    publish(&mut transaction, &message).await.expect("publish");
    transaction.commit().await.expect("commit");
    let text: String = one(
        env.admin(),
        "select concat_ws(' ', convert_from(key, 'UTF8'), convert_from(payload, 'UTF8'), headers, partition, \
            extract(epoch from deliver_after), extract(epoch from expires_at)) from outbox.message",
    )
    .await;
    assert_eq!(text, r#"o-1 [1,2] {"tag": ["a", "b"]} 1 2000000000.000001 2000000000.000002"#);

    let mut app = env.app().acquire().await.expect("connect");
    let refused = publish(&mut app, &Message::new("no spaces")).await;
    let Err(PublishError::Refused { reason, hint }) = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("contains ' '") && hint.is_some());
    let mut stranger = PgConnection::connect(&env.relay_url()).await.expect("connect");
    let denied = publish(&mut stranger, &Message::new("t")).await;
    assert!(matches!(denied, Err(PublishError::NotAllowed(_))), "{denied:?}");
    let unmigrated = Env::builder().unmigrated().start().await;
    let missing =
        publish(&mut unmigrated.admin().acquire().await.expect("connect"), &Message::new("t")).await;
    assert!(matches!(missing, Err(PublishError::NoOutbox(_))), "{missing:?}");
}

/// Nine messages: 1 and 3 published, 2 without a known offset, 4 retried and 5 behind it, 6 scheduled, 7 dead, 8 expired,
/// 9 not read. Receipts: partition 2 offset 300; partition 7; partition 2 offset 299.
const HISTORY: &str = r"
    insert into outbox.message (topic, key, payload) select 'orders', 'k', 'x' from generate_series(1, 9);
    insert into outbox.ledger (epoch, seq, snapshot, high, as_of, published, receipts, expired)
    values (1, 1, pg_current_snapshot(), 8, pg_current_xact_id(), '{[1,4)}', '\x0105d8040e0503', '{[8,9)}');
    insert into outbox.deferred (id, event_id, topic, key, created_at, reason, due_at, attempts, error, first_rejected_at)
    select id, event_id, topic, key, created_at, reason, due, tries, fault, since
    from outbox.message join (values
        (4, 'retry', now(), 2, 'too large', now()), (5, 'behind', null, 0, null, null), (6, 'scheduled', now(), 0, null, null)
    ) as put_off (id, reason, due, tries, fault, since) using (id);
    insert into outbox.dead_letter (id, event_id, topic, created_at, reason_class, fingerprint, error, attempts,
        first_failed_at, last_failed_at)
    select id, event_id, topic, created_at, 'invalid', 'f1', 'bad record', 10, now(), now() from outbox.message where id = 7";

#[tokio::test]
async fn status_says_of_every_message_what_became_of_it() {
    let env = Env::new().await;
    env.execute(HISTORY).await;
    let rows: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', id, state, record_partition, record_offset, attempts, error, 'behind ' || behind_id, \
            case when published_at is not null then 'at' end) from outbox.status order by id",
    )
    .fetch_all(env.admin())
    .await
    .expect("status");
    let expected = [
        "1 published 2 300 at",
        "2 published 7 at",
        "3 published 2 299 at",
        "4 retrying 2 too large",
        "5 behind 0 behind 4",
        "6 scheduled 0",
        "7 dead 10 bad record",
        "8 expired",
        "9 pending",
    ];
    assert_eq!(rows, expected);
    let state: String = one(
        env.admin(),
        "select state from outbox.status where event_id = (select event_id from outbox.message where id = 3)",
    )
    .await;
    assert_eq!(state, "published");
    // The message's slot was emptied: what still waits or died must not vanish with it.
    env.execute("truncate outbox.message").await;
    let left: Vec<i64> = sqlx::query_scalar("select id from outbox.status order by id")
        .fetch_all(env.admin())
        .await
        .expect("status");
    assert_eq!(left, [4, 5, 6, 7]);
}

#[tokio::test]
async fn backlog_blocked_keys_and_dead_letters_are_counted() {
    let env = Env::new().await;
    let backlog = "select string_agg(concat_ws(' ', coalesce(topic, '-'), waiting, retrying, behind, scheduled, oldest is null), ', ' \
        order by topic nulls first) from outbox.backlog";
    assert_eq!(one::<String>(env.admin(), backlog).await, "- 0 0 0 0 t");
    env.execute(HISTORY).await;
    assert_eq!(one::<String>(env.admin(), backlog).await, "- 1 0 0 0 f, orders 0 1 1 1 f");
    let blocked = "select concat_ws(' ', topic, convert_from(key, 'UTF8'), head_id, waiting, attempts, error) from outbox.blocked_key";
    assert_eq!(one::<String>(env.admin(), blocked).await, "orders k 4 1 2 too large");
    let dead = "select concat_ws(' ', fingerprint, reason_class, letters, topics, sample_id, error) from outbox.dead_letter_group";
    assert_eq!(one::<String>(env.admin(), dead).await, "f1 invalid 1 {orders} 7 bad record");
}

#[tokio::test]
async fn a_receipt_of_another_format_is_unknown_and_no_error() {
    let env = Env::new().await;
    for bytes in [r"\x", r"\x02", r"\x01", r"\x0180", r"\x0103", r"\x010380"] {
        let sql = format!("select (outbox.receipt('{bytes}', '{{[5,6)}}', 5)).record_partition is null");
        assert!(one::<bool>(env.admin(), &sql).await, "{bytes}");
    }
    let other = r"select (outbox.receipt('\x010100', '{[5,6)}', 6)).record_partition is null";
    assert!(one::<bool>(env.admin(), other).await, "an id that is not among the published");
}

#[tokio::test]
async fn the_schema_is_the_one_in_the_golden_file() {
    let env = Env::new().await;
    let lines: Vec<String> = sqlx::query_scalar(include_str!("schema.golden.query.sql"))
        .fetch_all(env.admin())
        .await
        .expect("describe schema");
    let mut schema = String::new();
    for line in lines {
        let _ = writeln!(schema, "{line}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/schema.golden.sql");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &schema).expect("write the golden file");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = schema.lines().zip(golden.lines()).find(|(now, before)| now != before);
    assert!(
        schema == golden,
        "the schema changed; first at {changed:?}; if that is meant, run this test with {UPDATE}=1 and review the difference"
    );
}
