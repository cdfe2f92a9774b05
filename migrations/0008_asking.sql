-- 0008 asking: what a request says is looked at more closely, times are those of whoever asks, requests can be cancelled.
-- Makes: outbox.is_askable and outbox.discard anew, outbox.cancel, a trigger and two columns of outbox.request.
-- Locks: outbox.request for an instant; it is small.
-- oldest binary: 0.1.0

-- Says of a request whether it can be carried out, or raises the error that tells why not. A condition of another type than
-- is meant, null included, must not pass: to be ignored would make it mean all dead letters.
create or replace function outbox.is_askable(kind text, topic text, filter jsonb, value jsonb, pace int) returns boolean
language plpgsql immutable as $$
declare
    reason  text;
    wrong   text;
    letters constant boolean := kind in ('requeue', 'discard');
    names   constant text[] := '{ids,fingerprint,topic,key,key_base64,dead_from,dead_until,max}';
begin
    select name into wrong from jsonb_each(case jsonb_typeof(filter) when 'object' then filter else '{}' end) as f (name, given)
     where name not in ('ids', 'max') and jsonb_typeof(given) <> 'string' order by name limit 1;
    reason := case
        when kind not in ('requeue', 'discard', 'pause', 'resume', 'rate', 'policy', 'cancel')
            then format('%L is no kind of request; there are requeue, discard, pause, resume, rate, policy and cancel', kind)
        when jsonb_typeof(filter) <> 'object' then 'the filter is no JSON object'
        when not letters and filter <> '{}' then format('%s has no filter', kind)
        when letters and topic is not null then format('%s names a topic in its filter: {"topic": ..}', kind)
        when exists (select from jsonb_object_keys(filter) as name where name <> all (names))
            then format('the filter has unknown fields; there are %s', array_to_string(names, ', '))
        when letters and filter - 'max' = '{}'
            then 'it names no dead letters; to mean all of them give dead_until, such as {"dead_until": "now"}'
        when filter ? 'ids' and jsonb_typeof(filter -> 'ids') <> 'array' then 'ids are no JSON array of numbers'
        when filter ? 'ids' and jsonb_array_length(filter -> 'ids') not between 1 and 10000
            then 'ids are between one and ten thousand; name more of them by topic, cause or time'
        when exists (select from jsonb_array_elements(filter -> 'ids') as id where id::text !~ '^[0-9]{1,18}$')
            then 'ids are no JSON array of numbers, each the id of an outbox row'
        when wrong is not null then format('%s is no JSON string', wrong)
        when filter ? 'max' and (filter -> 'max')::text !~ '^[1-9][0-9]{0,17}$' then 'max is no whole number of at least 1'
        when filter ? 'key' and filter ? 'key_base64' then 'key and key_base64 are two ways to say the same; give one'
        when kind in ('pause', 'resume', 'policy') and topic is null then format('%s needs a topic', kind)
        when kind in ('pause', 'resume') and topic !~ '^[a-zA-Z0-9._-]{1,249}$'
            then format('%s needs the name of one topic: letters, digits, . _ -', kind)
        when kind in ('rate', 'policy') and topic !~ '^[a-zA-Z0-9._*?-]{1,249}$'
            then format('%s needs a pattern of topic names: letters, digits, . _ - and * for any, ? for one', kind)
        when kind = 'rate' and coalesce(jsonb_typeof(value -> 'rate'), '') not in ('number', 'null')
            then 'a rate needs a value such as {"rate": 500}; null takes the limit away'
        when kind = 'rate' and (value ->> 'rate')::numeric < 1 then 'a rate is at least 1 record a second; to stop a topic, pause it'
        when kind = 'rate' and ((value ->> 'rate')::numeric % 1 <> 0 or (value ->> 'rate')::numeric > 2147483647)
            then 'a rate is a whole number of records a second, at most 2147483647'
        when kind = 'policy' and coalesce(jsonb_typeof(value), '') <> 'object'
            then 'a policy needs a value such as {"attempts": 30}, with the keys of a [[topic]] section'
        when kind = 'cancel' and coalesce((value -> 'request')::text, '') !~ '^[1-9][0-9]{0,17}$'
            then 'cancel needs the number of a request: {"request": ..}'
        when pace < 1 then 'the pace is at least 1 row a second'
    end;
    if reason is null and filter ? 'key_base64' then
        begin
            perform decode(filter ->> 'key_base64', 'base64');
        exception when data_exception then
            reason := 'key_base64 is not base64';
        end;
    end if;
    if reason is null then
        return true;
    end if;
    raise exception using errcode = 'check_violation', message = 'request refused: ' || reason,
        schema = 'outbox', table = 'request', constraint = 'request_is_askable';
end $$;

-- "now", "yesterday" and times without a zone mean what they mean to whoever asks, at the time of asking. Left as they are,
-- they would mean something else with every page, and to a relay in another time zone.
create function outbox.fix_times() returns trigger
language plpgsql as $$
declare
    name text;
begin
    foreach name in array '{dead_from,dead_until}'::text[] loop
        -- Everything else about it is the check's business.
        continue when jsonb_typeof(new.filter) <> 'object' or jsonb_typeof(new.filter -> name) is distinct from 'string';
        begin
            new.filter := new.filter || jsonb_build_object(name, (new.filter ->> name)::timestamptz);
        exception when data_exception then
            raise exception using errcode = 'check_violation',
                message = format('request refused: %s is no time: %L', name, new.filter ->> name),
                schema = 'outbox', table = 'request', constraint = 'request_is_askable';
        end;
    end loop;
    return new;
end $$;

create trigger request_times before insert on outbox.request for each row execute function outbox.fix_times();

alter table outbox.request
    -- The page that the leader has begun with: how many letters, and the last of them. Its settlement moves all of them or none,
    -- so the next leader can tell which it was, and counts the page or sends it.
    add column planned int not null default 0,
    add column planned_id bigint not null default 0,
    drop constraint request_state_check,
    add constraint request_state_check check (state in ('asked', 'running', 'done', 'expired', 'refused', 'cancelled'));

drop function outbox.discard(jsonb, text);
create function outbox.discard(filter jsonb, why text, pace int default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, filter, why, pace) values ('discard', discard.filter, discard.why, discard.pace) returning id;
end;
create function outbox.cancel(request bigint, why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, value, why)
    values ('cancel', jsonb_build_object('request', cancel.request), cancel.why) returning id;
end;

comment on function outbox.fix_times() is 'Turns the times of a filter into points in time, as whoever asks means them.';
comment on function outbox.discard(jsonb, text, int) is
    'Asks the relay to give dead letters up; the filter is that of requeue. Returns the request.';
comment on function outbox.cancel(bigint, text) is
    'Asks the relay to stop working on a request, or to end what it has put into effect. What is done stays done. Returns the request.';
