-- 0009 operators: what operators look at, and who looked at payloads.
-- Makes: the functions outbox.as_text and outbox.reveal; requests of kind reveal, which only reveal makes.
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
