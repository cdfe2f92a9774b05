-- 0009 operators: what operators look at, who looked at payloads, and what may be asked about a key.
-- Makes: the functions outbox.as_text and outbox.reveal, and is_askable anew; requests of the kinds resign, retry_now, skip_head and
--        release, and of kind reveal, which only reveal makes.
-- Locks: outbox.request for an instant.
-- oldest binary: 0.1.0

-- A key as people read it: the text that it is, else its base64 behind "base64:".
create function outbox.as_text(bytes bytea) returns text
language plpgsql immutable strict as $$
begin
    return convert_from(bytes, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return 'base64:' || encode(bytes, 'base64');
end $$;
comment on function outbox.as_text(bytea) is 'Bytes as text if they are UTF-8, else in base64.';

-- Says of a request whether it can be carried out, or raises the error that tells why not. A field of a filter that is null or of
-- another type must not count as no condition: the request would mean more letters than it names.
create or replace function outbox.is_askable(kind text, topic text, filter jsonb, value jsonb, pace int) returns boolean
language plpgsql immutable as $$
declare
    reason  text;
    letters constant boolean := kind in ('requeue', 'discard');
    of_key  constant boolean := kind in ('retry_now', 'skip_head', 'release');
    names   constant text[] := '{ids,fingerprint,topic,key,key_base64,dead_from,dead_until,max}';
    field   record;
begin
    reason := case
        when kind not in ('requeue', 'discard', 'pause', 'resume', 'rate', 'policy', 'cancel', 'resign') and not of_key
            then format('%L is no kind of request; there are requeue, discard, pause, resume, rate, policy, cancel, resign, '
                        'retry_now, skip_head and release', kind)
        when jsonb_typeof(filter) <> 'object' then 'the filter is no JSON object'
        when not letters and filter <> '{}' then format('%s has no filter', kind)
        when letters and topic is not null then format('%s names a topic in its filter: {"topic": ..}', kind)
        when exists (select from jsonb_object_keys(filter) as name where name <> all (names))
            then format('the filter has unknown fields; there are %s', array_to_string(names, ', '))
        when letters and filter - 'max' = '{}'
            then 'it names no dead letters; to mean all of them give dead_until, such as {"dead_until": "now"}'
        when filter ?& '{key,key_base64}' then 'it names the key twice; give key or key_base64'
        when (kind in ('pause', 'resume', 'policy') or of_key) and topic is null then format('%s needs a topic', kind)
        when (kind in ('pause', 'resume') or of_key) and topic !~ '^[a-zA-Z0-9._-]{1,249}$'
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
            then 'cancel needs the number of a request, such as {"request": 7}'
        when of_key and value is not null and jsonb_typeof(value) <> 'object' then format('%s needs a value such as {"key": "order-7"}', kind)
        when of_key and coalesce(value, '{}') - '{key,key_base64}'::text[] <> '{}'
            then format('the value of %s has unknown fields; there are key and key_base64', kind)
        when kind in ('skip_head', 'release') and not coalesce(value ?| '{key,key_base64}', false)
            then format('%s needs a key: {"key": ..} or {"key_base64": ..}', kind)
        when of_key and value ?& '{key,key_base64}' then 'it names the key twice; give key or key_base64'
        when of_key and coalesce(jsonb_typeof(value -> 'key'), 'string') <> 'string' then 'key is no JSON string'
        when of_key and coalesce(jsonb_typeof(value -> 'key_base64'), 'string') <> 'string' then 'key_base64 is no JSON string'
        when pace < 1 then 'the pace is at least 1 row a second'
    end;
    if reason is null then
        for field in select f.key as name, f.value, jsonb_typeof(f.value) as type from jsonb_each(filter) as f order by f.key loop
            reason := case
                when field.type = 'null'
                    then format('%1$s is null, which is no condition; name a value or leave %1$s out', field.name)
                when field.name = 'ids' and field.type <> 'array' then 'ids are no JSON array of numbers'
                when field.name = 'ids' and jsonb_array_length(field.value) not between 1 and 10000
                    then 'ids are between one and ten thousand; name more of them by topic, cause or time'
                when field.name = 'ids'
                    and exists (select from jsonb_array_elements(field.value) as id where id::text !~ '^[0-9]{1,18}$')
                    then 'ids are no JSON array of numbers, each the id of an outbox row'
                when field.name = 'max' and field.value::text !~ '^[1-9][0-9]{0,17}$' then 'max is no whole number of at least 1'
                when field.name not in ('ids', 'max') and field.type <> 'string' then format('%s is no JSON string', field.name)
            end;
            exit when reason is not null;
        end loop;
    end if;
    if reason is null and (filter ? 'key_base64' or of_key and value ? 'key_base64') then
        begin
            perform decode(coalesce(filter ->> 'key_base64', value ->> 'key_base64'), 'base64');
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

-- A reading of payloads is written down like anything else that operators do; the relay has nothing to do about it.
alter table outbox.request
    drop constraint request_is_askable,
    add constraint request_is_askable check (
        case kind when 'reveal' then state = 'done' else outbox.is_askable(kind, topic, filter, value, pace) end) not valid;

-- Payload and headers of rows, and a note of who read them. The only way to payloads for whoever does not own the schema.
create function outbox.reveal(ids bigint[], why text default null)
returns table (id bigint, payload bytea, headers jsonb)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    if cardinality(ids) is null or cardinality(ids) not between 1 and 10000 then
        raise exception using errcode = 'check_violation', message = 'reveal takes between one and ten thousand ids';
    end if;
    insert into outbox.request (kind, value, why, state, done, begun_at, ended_at)
    values ('reveal', jsonb_build_object('ids', ids), reveal.why, 'done', cardinality(ids), clock_timestamp(), clock_timestamp());
    return query
    select distinct on (found.id) found.id, found.payload, found.headers
      from (select m.id, m.payload, m.headers from outbox.message m where m.id = any (ids)
            union all
            select d.id, d.payload, d.headers from outbox.deferred d where d.id = any (ids)
            union all
            select l.id, l.payload, l.headers from outbox.dead_letter l where l.id = any (ids)) found
     order by found.id;
end $$;
comment on function outbox.reveal(bigint[], text) is
    'Payload and headers of up to ten thousand rows. outbox.request keeps who read them, when and why.';
