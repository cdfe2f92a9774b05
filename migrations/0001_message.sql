-- 0001 message: the table that services write to, and the functions that write to it for them.
-- Makes: outbox.message (ring of 8), its checks, and the functions publish and publish_many.
-- Locks: new objects only; nothing waits.
-- oldest binary: 0.1.0

-- The one check. A check constraint can only report its own name, so this function returns true or raises an error that
-- says what is wrong. It is one expression, and the constraint one short call, because Postgres reads the text of every
-- check constraint anew for every insert statement: six checks in plain operators cost 48 us a statement and 3 us a
-- row, this call 3.5 us and 1.2 us (with three headers 1.8 us) [measured].
create function outbox.is_sendable(
    topic text, event_id uuid, headers jsonb, partition int, deliver_after timestamptz, expires_at timestamptz
) returns boolean
language plpgsql immutable parallel safe as $$
begin
    return octet_length(topic) between 1 and 249 and topic !~ '[^A-Za-z0-9._-]' and topic not in ('.', '..')
        and event_id <> '00000000-0000-0000-0000-000000000000'
        and (headers is null
            or jsonb_typeof(headers) = 'object'
                and not headers ?| '{event-id,outbox-seq,outbox-replay,outbox-epoch,""}'
                -- Strict keeps the path from looking into nested arrays by itself.
                and not jsonb_path_exists(headers, 'strict $.* ? (@.type() != "string" && @.type() != "null" &&
                    (@.type() != "array" || exists (@[*] ? (@.type() != "string" && @.type() != "null"))))'))
        and (partition is null or partition >= 0)
        and (deliver_after is null or isfinite(deliver_after))
        and (expires_at is null or isfinite(expires_at) and (deliver_after is null or expires_at > deliver_after))
        or outbox.refuse(topic, event_id, headers, partition, deliver_after, expires_at);
end $$;

comment on function outbox.is_sendable(text, uuid, jsonb, int, timestamptz, timestamptz) is
    'True for a row that the relay can make a Kafka record of. For any other it raises an error that says why not.';

-- Says what is wrong with a row, the first thing it finds. Names of headers appear in the error, values and payloads
-- never: they may be secret, and errors end up in logs.
create function outbox.refuse(
    topic text, event_id uuid, headers jsonb, partition int, deliver_after timestamptz, expires_at timestamptz
) returns boolean
language plpgsql immutable parallel safe as $$
declare
    topic_rule constant text :=
        'A Kafka topic name has 1 to 249 characters out of a-z, A-Z, 0-9, dot, underscore and hyphen.';
    headers_rule constant text :=
        'Headers are an object such as {"traceparent": "00-...", "tag": ["a", "b"], "empty": null}: each value is a '
        'string, null, or an array of strings and nulls (a header that occurs several times).';
    relay_rule constant text :=
        'The relay adds this header itself. Give the header another name; an event id of your own goes into event_id.';
    found record;
begin
    select field, reason, rule into found
    from (
        select 1, 'topic', 'the topic is empty', topic_rule where topic = ''
        union all
        select 2, 'topic', format('topic %L contains %L', topic, illegal), topic_rule
        from substring(topic from '[^A-Za-z0-9._-]') as illegal where illegal is not null
        union all
        select 3, 'topic', format('the topic name has %s characters, Kafka allows 249', length(topic)), topic_rule
        where length(topic) > 249
        union all
        select 4, 'topic', format('%L is not a legal Kafka topic name', topic), topic_rule where topic in ('.', '..')
        union all
        select 5, 'event_id', 'event_id is the nil uuid, so consumers would take this event for a copy of another',
            'Leave event_id out and the database draws one, or give every event an id of its own.'
        where event_id = '00000000-0000-0000-0000-000000000000'
        union all
        select 6, 'headers', format('headers are a JSON %s, not an object', jsonb_typeof(headers)), headers_rule
        where jsonb_typeof(headers) <> 'object'
        union all
        select 7, 'headers', 'a header has an empty name', headers_rule where headers ? ''
        union all
        select 8, 'headers', format('header %L belongs to the relay', name), relay_rule
        from unnest('{event-id,outbox-seq,outbox-replay,outbox-epoch}'::text[]) as name where headers ? name
        union all
        select 9, 'headers', format('header %L is a JSON %s', name, jsonb_typeof(value)), headers_rule
        from jsonb_each(case jsonb_typeof(headers) when 'object' then headers end) as header (name, value)
        where jsonb_typeof(value) not in ('string', 'null', 'array')
        union all
        select 10, 'headers', format('header %L has a JSON %s in its array', name, jsonb_typeof(item)), headers_rule
        from jsonb_each(case jsonb_typeof(headers) when 'object' then headers end) as header (name, value),
            jsonb_array_elements(case jsonb_typeof(value) when 'array' then value end) as item
        where jsonb_typeof(item) not in ('string', 'null')
        union all
        select 11, 'partition', 'the partition is negative',
            'Partitions count from 0. Leave the partition out to let the key choose it.'
        where partition < 0
        union all
        select 12, 'deliver_after', 'deliver_after is infinite', 'Give a time, or leave it out to send at once.'
        where not isfinite(deliver_after)
        union all
        select 13, 'expires_at', 'expires_at is infinite', 'Give a time, or leave it out if the message never expires.'
        where not isfinite(expires_at)
        union all
        select 14, 'expires_at', 'the message expires before it may be delivered',
            'expires_at must be later than deliver_after.'
        where expires_at <= deliver_after
    ) as fault (rank, field, reason, rule)
    order by rank
    limit 1;
    raise exception using
        errcode = 'check_violation',
        message = 'outbox message refused: ' || coalesce(found.reason, 'it cannot become a Kafka record'),
        hint = coalesce(found.rule, ''),
        schema = 'outbox', table = 'message', column = coalesce(found.field, ''), constraint = 'message_is_sendable';
end $$;

comment on function outbox.refuse(text, uuid, jsonb, int, timestamptz, timestamptz) is
    'Raises the error that tells a producer what is wrong with its row. Never returns.';

-- Producers only insert; nobody updates or deletes. Order is `id`, identity is `event_id`: after a failover a
-- sequence value can be handed out twice, a random uuid cannot. The relay finds out by `txid` what has committed
-- since it last looked, so neither `txid` nor `id` may come from a producer: the grants leave these columns out.
-- A payload above the relay's `max_row_bytes`, or above its topic's limit, is not refused here: both can change
-- without a migration, so the relay judges them.
create table outbox.message (
    txid xid8 not null default pg_current_xact_id(),
    id bigint generated always as identity,
    -- The slot of a ring of eight times four hours, by the clock. A slot is emptied as a whole once its rows are old.
    slot smallint not null default (floor(date_part('epoch', clock_timestamp()) / 14400)::bigint % 8)::smallint,
    event_id uuid not null default gen_random_uuid(),
    topic text not null,
    key bytea,
    payload bytea,
    headers jsonb,
    partition int,
    deliver_after timestamptz,
    expires_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),

    constraint message_is_sendable check (
        outbox.is_sendable(topic, event_id, headers, partition, deliver_after, expires_at))
) partition by list (slot);

comment on table outbox.message is
    'The outbox: one row per message, inserted in the transaction that changes the business data. Ask outbox.status what became of a row.';
comment on column outbox.message.txid is 'The transaction that wrote the row. Filled by the database, never by a producer.';
comment on column outbox.message.id is 'Order. Filled by the database, never by a producer.';
comment on column outbox.message.slot is 'Where the row lies in the ring of partitions. Filled by the database.';
comment on column outbox.message.event_id is 'Identity, for consumers to recognise a second copy by. Bring your own if the business operation has one.';
comment on column outbox.message.key is 'Kafka key: equal keys go to one partition and keep their order. Null: no order.';
comment on column outbox.message.payload is 'Kafka value, byte for byte. Null: a tombstone.';
comment on column outbox.message.headers is 'Object: each value a string, null, or an array of strings and nulls.';
comment on column outbox.message.partition is 'Kafka partition, for those who choose it themselves. Null: the key chooses.';

do $$
begin
    for n in 0..7 loop
        -- Nothing here dies but the rows of rolled back transactions, and TRUNCATE takes those along. A vacuum that is
        -- set off by inserts would read and freeze every page for nothing; the one against wraparound still comes.
        -- Analyze stays on. No vacuum may lock the table to give back its tail.
        execute format('create table outbox.message_%s partition of outbox.message for values in (%s) with ('
            'autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1, '
            'vacuum_truncate = off, toast.vacuum_truncate = off)', n, n);
    end loop;
end $$;

-- Fresh rows and pages in order.
create index message_id_idx on outbox.message (id);
-- Rows that committed late. Equal txids share an index entry: 10 bytes a row with 20 rows a transaction.
create index message_txid_idx on outbox.message (txid);

-- Waits until every other transaction that asked for this topic and key has ended, and holds the turn until the caller's
-- own transaction ends. Two keys may share a lock (one hash in 2^64): they wait for each other, nothing worse.
create function outbox.take_turn(topic text, key bytea) returns void
language plpgsql volatile as $$
begin
    if take_turn.key is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'outbox message refused: serialize needs a key',
            hint = 'Messages take turns by topic and key. Without a key there is no order that could be kept.';
    end if;
    perform pg_advisory_xact_lock(
        hashtextextended(encode(take_turn.key, 'hex'), hashtextextended(take_turn.topic, 0)));
end $$;

comment on function outbox.take_turn(text, bytea) is
    'Makes transactions that write to the same topic and key take turns until they end.';

-- publish(topic, key, payload, ...): one message, returns its event id. The key is text or bytea; the payload is json, jsonb,
-- text or bytea. There is one body, for bytea; the others are SQL expressions that the planner inlines. Texts become UTF-8.
-- json and text go out byte for byte, jsonb as Postgres prints it. Untyped literals and parameters count as text.
-- `payload` has no default, so that nobody writes a tombstone by forgetting it.
-- `serialize` is for writers of one key that do not already wait for each other, for lack of a row that both lock: the
-- turn is taken before the id is drawn. Several keys in one transaction: always in the same order, or writers deadlock.
create function outbox.publish(
    topic text, key bytea, payload bytea, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language plpgsql volatile as $$
declare
    identity uuid := coalesce(publish.event_id, gen_random_uuid());
begin
    if publish.serialize then
        perform outbox.take_turn(publish.topic, publish.key);
    end if;
    insert into outbox.message (event_id, topic, key, payload, headers, partition, deliver_after, expires_at)
    values (identity, publish.topic, publish.key, publish.payload, publish.headers, publish.partition,
            publish.deliver_after, publish.expires_at);
    return identity;
end $$;

create function outbox.publish(
    topic text, key bytea, payload text, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, key, convert_to(payload, 'UTF8'), headers, partition,
    deliver_after, expires_at, event_id, serialize);

create function outbox.publish(
    topic text, key bytea, payload json, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, key, convert_to(payload::text, 'UTF8'), headers, partition,
    deliver_after, expires_at, event_id, serialize);

create function outbox.publish(
    topic text, key bytea, payload jsonb, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, key, convert_to(payload::text, 'UTF8'), headers, partition,
    deliver_after, expires_at, event_id, serialize);

create function outbox.publish(
    topic text, key text, payload bytea, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, convert_to(key, 'UTF8'), payload, headers, partition,
    deliver_after, expires_at, event_id, serialize);

create function outbox.publish(
    topic text, key text, payload text, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, convert_to(key, 'UTF8'), convert_to(payload, 'UTF8'), headers, partition,
    deliver_after, expires_at, event_id, serialize);

create function outbox.publish(
    topic text, key text, payload json, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, convert_to(key, 'UTF8'), convert_to(payload::text, 'UTF8'), headers, partition,
    deliver_after, expires_at, event_id, serialize);

create function outbox.publish(
    topic text, key text, payload jsonb, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language sql volatile
return outbox.publish(topic, convert_to(key, 'UTF8'), convert_to(payload::text, 'UTF8'), headers, partition,
    deliver_after, expires_at, event_id, serialize);

do $$
declare
    overload regprocedure;
begin
    for overload in select oid from pg_proc where pronamespace = 'outbox'::regnamespace and proname = 'publish' loop
        execute format('comment on function %s is %L', overload,
            'Writes one message into the outbox, in the caller''s transaction. Returns its event id.');
    end loop;
end $$;

-- publish_many('[{"topic": ..., "key": ..., "payload": ...}, ...]'): many messages in one statement, ids and event ids in the order
-- of the array. One JSON parameter, because every language and ORM can bind one, where arrays of bytea or jsonb need a
-- driver that knows them (with such a driver, insert from unnest($1::text[], $2::bytea[], ...)). Fields are publish's
-- parameters. A payload that is a JSON string is that text; every other JSON is itself, byte for byte where `messages`
-- is text or json; null is a tombstone. Bytes come as key_base64 and payload_base64. Unknown fields are refused: a
-- misspelt key would cost its messages their order without a word.
create function outbox.publish_many(messages json, serialize boolean default false) returns setof uuid
language plpgsql volatile rows 20 as $$
#variable_conflict use_column
declare
    wrong record;
begin
    for wrong in
        select n, field.reason
        from json_array_elements(publish_many.messages) with ordinality as element (message, n)
        cross join lateral (
            select case json_typeof(message) when 'object' then array_agg(name) end as names
            from json_object_keys(case json_typeof(message) when 'object' then message else '{}' end) as name
        ) as given
        cross join lateral (
            select case
                when json_typeof(message) <> 'object' then 'it is not an object'
                when not given.names <@ '{topic,key,key_base64,payload,payload_base64,headers,partition,deliver_after,expires_at,event_id}'
                    then format('field %L is unknown', (
                        select name from unnest(given.names) as name
                        where name <> all ('{topic,key,key_base64,payload,payload_base64,headers,partition,deliver_after,expires_at,event_id}')
                        limit 1))
                when not given.names @> '{topic}' then 'it has no topic'
                when not given.names && '{payload,payload_base64}' then 'it has no payload (a tombstone says "payload": null)'
                when given.names @> '{payload,payload_base64}' then 'it has both payload and payload_base64'
                when given.names @> '{key,key_base64}' then 'it has both key and key_base64'
                when json_typeof(message -> 'topic') <> 'string' then 'its topic is not a string'
                when json_typeof(message -> 'key') not in ('string', 'null') then 'its key is not a string'
            end as reason
        ) as field
        where field.reason is not null or given.names is null
        order by n
        limit 1
    loop
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('outbox message %s refused: %s', wrong.n, coalesce(wrong.reason, 'it is empty')),
            hint = 'Fields: topic, key or key_base64, payload or payload_base64, headers, partition, deliver_after, '
                'expires_at, event_id. The first message has number 1.';
    end loop;

    if publish_many.serialize then
        -- In one order for everybody, so that two calls cannot wait for each other.
        perform outbox.take_turn(turn.topic, turn.key)
        from (
            select distinct message ->> 'topic' as topic,
                coalesce(convert_to(message ->> 'key', 'UTF8'), decode(message ->> 'key_base64', 'base64')) as key
            from json_array_elements(publish_many.messages) as message
            order by 1, 2
        ) as turn;
    end if;

    return query
    with given as materialized (
        select n, message, coalesce((message ->> 'event_id')::uuid, gen_random_uuid()) as identity
        from json_array_elements(publish_many.messages) with ordinality as element (message, n)
    ), inserted as (
        insert into outbox.message (event_id, topic, key, payload, headers, partition, deliver_after, expires_at)
        select identity, message ->> 'topic',
            coalesce(convert_to(message ->> 'key', 'UTF8'), decode(message ->> 'key_base64', 'base64')),
            case json_typeof(message -> 'payload')
                when 'null' then null
                when 'string' then convert_to(message ->> 'payload', 'UTF8')
                else coalesce(convert_to((message -> 'payload')::text, 'UTF8'), decode(message ->> 'payload_base64', 'base64'))
            end,
            -- JSON null is an absent object here, as in SQL.
            nullif((message -> 'headers')::text, 'null')::jsonb, (message ->> 'partition')::int,
            (message ->> 'deliver_after')::timestamptz, (message ->> 'expires_at')::timestamptz
        from given
        order by n
    )
    select identity from given order by n;
end $$;

create function outbox.publish_many(messages text, serialize boolean default false) returns setof uuid
language sql volatile rows 20
begin atomic
    select outbox.publish_many(messages::json, serialize);
end;

create function outbox.publish_many(messages jsonb, serialize boolean default false) returns setof uuid
language sql volatile rows 20
begin atomic
    select outbox.publish_many(messages::text::json, serialize);
end;

comment on function outbox.publish_many(json, boolean) is
    'Writes an array of messages into the outbox, in the caller''s transaction. Returns their event ids in the same order.';
comment on function outbox.publish_many(text, boolean) is
    'Writes an array of messages into the outbox, in the caller''s transaction. Returns their event ids in the same order.';
comment on function outbox.publish_many(jsonb, boolean) is
    'Writes an array of messages into the outbox, in the caller''s transaction. Returns their event ids in the same order.';
