-- 0006 requests: operators ask, the leader does and reports.
-- Makes: outbox.request, the functions requeue, discard, pause, resume, set_rate and set_policy, and indexes of open dead letters.
-- Locks: outbox.dead_letter for the indexes: a second for a hundred thousand letters, writers of letters wait.
-- oldest binary: 0.1.0

-- Says of a request whether it can be carried out, or raises the error that tells why not.
create function outbox.is_askable(kind text, topic text, filter jsonb, value jsonb, pace int) returns boolean
language plpgsql immutable as $$
declare
    reason text;
    names  constant text[] := '{ids,fingerprint,topic,key,key_base64,dead_from,dead_until,max}';
begin
    reason := case
        when kind not in ('requeue', 'discard', 'pause', 'resume', 'rate', 'policy')
            then format('%L is no kind of request; there are requeue, discard, pause, resume, rate and policy', kind)
        when jsonb_typeof(filter) <> 'object' then 'the filter is no JSON object'
        when exists (select from jsonb_object_keys(filter) as name where name <> all (names))
            then format('the filter has unknown fields; there are %s', array_to_string(names, ', '))
        when kind in ('requeue', 'discard') and filter - 'max' = '{}'
            then 'it names no dead letters; to mean all of them give dead_until, such as {"dead_until": "now"}'
        when filter ? 'ids' and jsonb_typeof(filter -> 'ids') <> 'array' then 'ids are no JSON array of numbers'
        when kind in ('pause', 'resume', 'policy') and topic is null then format('%s needs a topic', kind)
        when kind = 'rate' and coalesce(jsonb_typeof(value -> 'rate'), '') not in ('number', 'null')
            then 'a rate needs a value such as {"rate": 500}; null takes the limit away'
        when kind = 'rate' and (value ->> 'rate')::numeric < 1 then 'a rate is at least 1 record a second; to stop a topic, pause it'
        when kind = 'policy' and coalesce(jsonb_typeof(value), '') <> 'object'
            then 'a policy needs a value such as {"attempts": 30}, with the keys of a [[topic]] section'
        when pace < 1 then 'the pace is at least 1 row a second'
    end;
    if reason is null then
        return true;
    end if;
    raise exception using errcode = 'check_violation', message = 'request refused: ' || reason,
        schema = 'outbox', table = 'request', constraint = 'request_is_askable';
end $$;

comment on function outbox.is_askable(text, text, jsonb, jsonb, int) is
    'True for a request that the relay understands. For any other it raises an error that says why not.';

-- The audit trail as well: who asked for what and why, and what came of it. Rows stay.
create table outbox.request (
    id         bigint generated always as identity primary key,
    kind       text        not null,
    -- Of pause, resume and rate: the topic (null: all topics, for a rate). Of policy: a pattern.
    topic      text,
    -- Of requeue and discard: which dead letters. All conditions hold together.
    filter     jsonb       not null default '{}',
    -- Of rate and policy.
    value      jsonb,
    -- Rows a second, of requeue and discard.
    pace       int,
    why        text,
    who        text        not null default session_user,
    asked_at   timestamptz not null default clock_timestamp(),
    -- When it ends by itself.
    expires_at timestamptz,
    -- asked -> running (in effect, or being worked on) -> done, expired or refused.
    state      text        not null default 'asked' check (state in ('asked', 'running', 'done', 'expired', 'refused')),
    done       bigint      not null default 0,
    last_id    bigint      not null default 0,
    error      text,
    begun_at   timestamptz,
    ended_at   timestamptz,
    constraint request_is_askable check (outbox.is_askable(kind, topic, filter, value, pace))
);
create index request_open_idx on outbox.request (id) where state in ('asked', 'running');
comment on table outbox.request is
    'What operators asked of the relay: who, why, and how far it has come. Ask with outbox.requeue, discard, pause, resume, set_rate, set_policy.';

-- Pages of letters in order of id, by cause, by topic, and of all.
create index dead_letter_cause_idx on outbox.dead_letter (fingerprint, id) where state = 'open';
create index dead_letter_topic_idx on outbox.dead_letter (topic, id) where state = 'open';
create index dead_letter_open_idx on outbox.dead_letter (id) where state = 'open';

create function outbox.requeue(filter jsonb, why text default null, pace int default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, filter, why, pace) values ('requeue', requeue.filter, requeue.why, requeue.pace) returning id;
end;
create function outbox.discard(filter jsonb, why text) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, filter, why) values ('discard', discard.filter, discard.why) returning id;
end;
create function outbox.pause(topic text, duration interval default null, why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, topic, expires_at, why)
    values ('pause', pause.topic, clock_timestamp() + pause.duration, pause.why) returning id;
end;
create function outbox.resume(topic text, why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, topic, why) values ('resume', resume.topic, resume.why) returning id;
end;
create function outbox.set_rate(topic text, per_second int, duration interval default null, why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, topic, value, expires_at, why)
    values ('rate', set_rate.topic, jsonb_build_object('rate', set_rate.per_second), clock_timestamp() + set_rate.duration, set_rate.why)
    returning id;
end;
create function outbox.set_policy(topics text, policy jsonb, duration interval default null, why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, topic, value, expires_at, why)
    values ('policy', set_policy.topics, set_policy.policy, clock_timestamp() + set_policy.duration, set_policy.why) returning id;
end;

comment on function outbox.requeue(jsonb, text, int) is
    'Asks the relay to send dead letters again: {"ids": [..]}, {"fingerprint": ..}, {"topic": ..}, {"key": ..}, {"dead_from": .., "dead_until": ..}, with "max". Returns the request.';
comment on function outbox.discard(jsonb, text) is 'Asks the relay to give dead letters up; the filter is that of requeue. Returns the request.';
comment on function outbox.pause(text, interval, text) is 'Asks the relay to hold a topic back, for a while or until it is resumed. Returns the request.';
comment on function outbox.resume(text, text) is 'Asks the relay to go on with a topic. Returns the request.';
comment on function outbox.set_rate(text, int, interval, text) is
    'Asks for a rate of a topic, or of all topics together (null), in records a second; null takes it away. Returns the request.';
comment on function outbox.set_policy(text, jsonb, interval, text) is
    'Asks for another policy of the topics that fit a pattern: the keys of a [[topic]] section. Returns the request.';
