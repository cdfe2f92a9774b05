-- 0010 replay and reconcile: published rows go out again, and somebody compares receipts with the topics.
-- Makes: outbox.ledger.replayed, outbox.deferred.replay and dead_letter.replay, outbox.ring.emptied_to, outbox.reconciliation, the
--        functions replay, is_replayable, is_wanted and note_reconciliation, empty_slot, settle and fix_times anew, and requests of the kinds replay and repair.
-- Locks: outbox.ledger, deferred, dead_letter and request for an instant.
-- oldest binary: 0.1.0

-- A copy that a request has asked for. It goes through the pipeline like every deferred row, but it is no row of its topic that
-- has yet to be published: what becomes of it is written into `replayed`, not into `published`.
alter table outbox.deferred add column replay bigint;
alter table outbox.dead_letter add column replay bigint;
comment on column outbox.deferred.replay is 'The request whose copy of a published row this is; null: it has not been published yet.';
comment on column outbox.dead_letter.replay is 'The request whose copy of a published row this is.';

-- [{"request": .., "topic": .., "ids": multirange, "receipts": hex}]: where the copies are. Null in all other settlements.
alter table outbox.ledger add column replayed jsonb;
create index ledger_replayed_idx on outbox.ledger (epoch, seq) where replayed is not null;

-- Says of a request to send published rows again whether it can be carried out, or raises the error that tells why not.
create function outbox.is_replayable(kind text, topic text, filter jsonb, value jsonb, pace int) returns boolean
language plpgsql immutable as $$
declare
    reason text;
    names  constant text[] := '{ids,from_id,until_id,written_from,written_until,topic,key,key_base64,max}';
    field  record;
begin
    reason := case
        when jsonb_typeof(filter) <> 'object' then 'the filter is no JSON object'
        when topic is not null then format('%s names a topic in its filter: {"topic": ..}', kind)
        when exists (select from jsonb_object_keys(filter) as name where name <> all (names))
            then format('the filter has unknown fields; there are %s', array_to_string(names, ', '))
        when kind = 'repair' and (not filter ? 'ids' or filter - 'ids' <> '{}') then 'repair needs ids and nothing else: {"ids": [..]}'
        when filter - 'max' = '{}'
            then 'it names no messages; to mean all that are left give written_until, such as {"written_until": "now"}'
        when filter ?& '{key,key_base64}' then 'it names the key twice; give key or key_base64'
        when value is not null and jsonb_typeof(value) <> 'object' then format('%s needs a value such as {"to": "orders.again"}', kind)
        when coalesce(value, '{}') - '{to,beyond_window}'::text[] <> '{}'
            then format('the value of %s has unknown fields; there are to and beyond_window', kind)
        when value ? 'to' and coalesce(value ->> 'to', '') !~ '^[a-zA-Z0-9._-]{1,249}$'
            then 'to needs the name of one topic: letters, digits, . _ -'
        when value ? 'beyond_window' and jsonb_typeof(value -> 'beyond_window') <> 'boolean' then 'beyond_window is true or false'
        when pace < 1 then 'the pace is at least 1 row a second'
    end;
    if reason is null then
        for field in select f.key as name, f.value, jsonb_typeof(f.value) as type from jsonb_each(filter) as f order by f.key loop
            reason := case
                when field.type = 'null'
                    then format('%1$s is null, which is no condition; name a value or leave %1$s out', field.name)
                when field.name = 'ids' and field.type <> 'array' then 'ids are no JSON array of numbers'
                when field.name = 'ids' and jsonb_array_length(field.value) not between 1 and 10000
                    then 'ids are between one and ten thousand; name more of them by from_id and until_id, by topic or time'
                when field.name = 'ids'
                    and exists (select from jsonb_array_elements(field.value) as id where id::text !~ '^[0-9]{1,18}$')
                    then 'ids are no JSON array of numbers, each the id of an outbox row'
                when field.name in ('from_id', 'until_id') and field.value::text !~ '^[0-9]{1,18}$'
                    then format('%s is no number, the id of an outbox row', field.name)
                when field.name = 'max' and field.value::text !~ '^[1-9][0-9]{0,17}$' then 'max is no whole number of at least 1'
                when field.name in ('written_from', 'written_until', 'topic', 'key', 'key_base64') and field.type <> 'string'
                    then format('%s is no JSON string', field.name)
            end;
            exit when reason is not null;
        end loop;
    end if;
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
comment on function outbox.is_replayable(text, text, jsonb, jsonb, int) is
    'True for a request to send published rows again that the relay understands. For any other it raises an error that says why not.';

-- A kind that does not exist is told which there are. Only that sentence of the function changes.
do $$
begin
    execute replace(pg_get_functiondef('outbox.is_askable(text, text, jsonb, jsonb, int)'::regprocedure),
                    'retry_now, skip_head and release', 'retry_now, skip_head, release, replay and repair');
end $$;

-- As in 0008_repairs.sql, with the times of a replay.
create or replace function outbox.fix_times() returns trigger
language plpgsql as $$
declare
    name text;
begin
    foreach name in array '{dead_from,dead_until,written_from,written_until}'::text[] loop
        -- Everything else about it is the check's business.
        continue when jsonb_typeof(new.filter -> name) is distinct from 'string';
        begin
            new.filter := jsonb_set(new.filter, array[name], to_jsonb((new.filter ->> name)::timestamptz));
        exception when data_exception then
            raise exception using errcode = 'check_violation',
                message = format('request refused: %s is no time: %L', name, new.filter ->> name),
                hint = 'Give one such as 2026-01-31 12:00+01; without a zone it is in that of your session. Words such as now and yesterday are understood.',
                schema = 'outbox', table = 'request', constraint = 'request_is_askable';
        end;
    end loop;
    return new;
end $$;

alter table outbox.request
    drop constraint request_is_askable,
    add constraint request_is_askable check (
        case when kind = 'reveal' then state = 'done'
             when kind in ('replay', 'repair') then outbox.is_replayable(kind, topic, filter, value, pace)
             else outbox.is_askable(kind, topic, filter, value, pace) end) not valid;

-- The rows stay in outbox.message, in their slots, until they have gone: at most a day, unless the caller says otherwise.
create function outbox.replay(
    filter jsonb, why text, "to" text default null, pace int default null, beyond_window boolean default false,
    duration interval default '1 day'
) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, filter, value, pace, why, expires_at)
    values ('replay', replay.filter,
            jsonb_strip_nulls(jsonb_build_object('to', replay."to", 'beyond_window', nullif(replay.beyond_window, false))),
            replay.pace, replay.why, clock_timestamp() + replay.duration)
    returning id;
end;
comment on function outbox.replay(jsonb, text, text, int, boolean, interval) is
    'Asks the relay to send published rows again, to their topic or to another one: {"ids": [..]}, {"from_id": .., "until_id": ..}, {"written_from": .., "written_until": ..}, {"topic": ..}, {"key": ..}, with "max". Returns the request.';

-- Slots need not go in order of age, so what is left may have holes: from here on it is whole.
alter table outbox.ring add column emptied_to bigint not null default 0;
comment on column outbox.ring.emptied_to is 'The highest id that has gone with its slot (ring message): of the rows up to it some are no longer there.';

-- Whether a replay that is open has still to come to rows with ids from first_id to last_id.
create function outbox.is_wanted(first_id bigint, last_id bigint) returns boolean
language sql stable
return exists (
    select from outbox.request r
     where r.state in ('asked', 'running') and r.kind in ('replay', 'repair') and is_wanted.last_id > r.last_id
       and (r.expires_at is null or r.expires_at > clock_timestamp())
       and case when r.filter ? 'ids'
                then is_wanted.last_id >= (select min(i::bigint) from jsonb_array_elements_text(r.filter -> 'ids') i)
                     and is_wanted.first_id <= (select max(i::bigint) from jsonb_array_elements_text(r.filter -> 'ids') i)
                else is_wanted.last_id >= coalesce((r.filter ->> 'from_id')::bigint, 0)
                     and is_wanted.first_id <= coalesce((r.filter ->> 'until_id')::bigint, is_wanted.first_id) end);
comment on function outbox.is_wanted(bigint, bigint) is 'Whether an open replay has still to come to rows between these ids.';

-- A slot of messages goes with a note of its highest id, and not while a replay wants its rows: one may have been asked for since the
-- slot was looked at. Only that is put into the function.
do $$
begin
    execute replace(pg_get_functiondef('outbox.empty_slot(bigint, uuid, text, int, pg_snapshot, timestamptz)'::regprocedure),
        E'\n    execute format(''truncate table only outbox.%I'', child);\n',
        E'\n    if p_ring = ''message'' then\n'
        '        execute format(''select coalesce(outbox.is_wanted(min(m.id), max(m.id)), false) from outbox.%I m'', child) into found_row;\n'
        '        if found_row then\n'
        '            return ''held'';\n'
        '        end if;\n'
        '        execute format(''update outbox.ring set emptied_to = greatest(emptied_to, (select coalesce(max(m.id), 0) from outbox.%I m))''\n'
        '                       '' where ring = ''''message'''''', child);\n'
        '    end if;\n'
        '    execute format(''truncate table only outbox.%I'', child);\n');
end $$;

-- What a comparison of the receipts with the topics has found. The relay exports the newest one.
create table outbox.reconciliation (
    id         bigint generated always as identity primary key,
    -- asked: by an operator or a schedule; else by the leader, after something that may have lost or repeated records.
    cause      text        not null check (cause in ('asked', 'takeover', 'promotion', 'producer')),
    who        text        not null,
    begun_at   timestamptz not null,
    ended_at   timestamptz not null default clock_timestamp(),
    from_id    bigint      not null,
    until_id   bigint      not null,
    missing    bigint      not null,
    duplicates bigint      not null,
    -- All counts, and the first ids that were found wanting.
    report     jsonb       not null
);
create index reconciliation_found_idx on outbox.reconciliation (id) where missing > 0 or duplicates > 0;
comment on table outbox.reconciliation is 'What outbox-relay reconcile has found, and what the leader has found by itself; the newest ten thousand.';

-- Notes the end of a comparison. With the rights of the owner, because it also forgets the oldest notes.
create function outbox.note_reconciliation(
    cause text, begun_at timestamptz, from_id bigint, until_id bigint, missing bigint, duplicates bigint, report jsonb
) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    noted bigint;
begin
    insert into outbox.reconciliation (cause, who, begun_at, from_id, until_id, missing, duplicates, report)
    values (note_reconciliation.cause, session_user, note_reconciliation.begun_at, note_reconciliation.from_id,
            note_reconciliation.until_id, note_reconciliation.missing, note_reconciliation.duplicates, note_reconciliation.report)
    returning id into noted;
    delete from outbox.reconciliation r where r.id <= noted - 10000;
    return noted;
end $$;
comment on function outbox.note_reconciliation(text, timestamptz, bigint, bigint, bigint, bigint, jsonb) is
    'Notes what a comparison of receipts with topics has found. Returns the number of the note.';

-- Writes one settlement; what it returns, its guards and its arguments are described in 0008_repairs.sql. New in p_rare:
--   replay     published rows that enter outbox.deferred as copies: ids, and the other topic that they go to, if any. The request
--              is that of `request`.
--   replayed   copies that Kafka has confirmed: request, topic, ids, receipts. They leave outbox.deferred by p_settled_deferred.
--   request    also window_s: letters that were written so many seconds ago get the header outbox-replay when they enter.
create or replace function outbox.settle(
    p_epoch bigint, p_seq bigint, p_token uuid, p_durable boolean,
    p_snapshot pg_snapshot, p_high bigint, p_late_snapshot pg_snapshot, p_late_after bigint, p_moved boolean,
    p_published int8multirange, p_receipts bytea, p_expired int8multirange, p_dropped int8multirange,
    p_settled_deferred bigint[],
    p_defer_ids bigint[], p_defer_reasons text[], p_defer_delays_ms bigint[],
    p_defer_attempts integer[], p_defer_tries integer[], p_defer_classes text[], p_defer_errors text[],
    p_defer_passable boolean[], p_rare jsonb
) returns text
language plpgsql as $$
declare
    newest  bigint;
    bound   xid8;
    -- Of the newest settlement, then of this one.
    lacking bigint[] := '{}';
    lacked  int8multirange;
    touched bigint := coalesce(cardinality(p_defer_ids), 0);
    known   bigint;
    added   bigint;
    put_off bigint[] := p_defer_ids;
    -- Keys of which a row has left: their next row becomes the head.
    gone_topics text[];
    gone_keys   bytea[];
    dead_topics text[];
    dead_keys   bytea[];
    doomed_ids  bigint[] := '{}';
    dead_ids    bigint[] := '{}';
    asked_ids   bigint[];
    entered_ids bigint[] := '{}';
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'outbox.settle needs read committed, not %', current_setting('transaction_isolation');
    end if;
    perform from outbox.lease where one and epoch = p_epoch for share;
    if not found then
        return 'lease_lost';
    end if;
    perform from outbox.incarnation where one and token = p_token;
    if not found then
        return 'forgotten';
    end if;
    select l.seq, l.as_of, l.lacking into newest, bound, lacked from outbox.ledger l
     where l.epoch = p_epoch order by l.epoch desc, l.seq desc limit 1;
    if newest >= p_seq then
        return case when lacked is null then 'repeated' else 'repeated_without' end;
    elsif newest is distinct from p_seq - 1 then
        return 'out_of_turn';
    end if;

    -- A mark that is lost in a crash of the server only repeats its rows. Anything else that is lost would lose rows or
    -- repeat what must not be repeated, so that waits for the disk (and for synchronous standbys, if there are any).
    if p_durable or touched > 0 or cardinality(p_settled_deferred) > 0 or p_rare - 'lanes' <> '{}' or p_dropped <> '{}' then
        if current_setting('synchronous_commit') = 'off' then
            perform set_config('synchronous_commit', 'on', true);
        end if;
    else
        perform set_config('synchronous_commit', 'off', true);
    end if;

    if touched > 0 or cardinality(p_settled_deferred) > 0 or p_rare is not null then
        with gone as (
            delete from outbox.deferred where id = any (p_settled_deferred) returning topic, key
        ), keys as (
            select distinct topic, key from gone where key is not null
        )
        select array_agg(topic), array_agg(key) into gone_topics, gone_keys from keys;

        if p_rare ? 'attempts' then
            insert into outbox.attempt (id, class, error)
            select a.id, a.class, a.error
              from jsonb_to_recordset(p_rare -> 'attempts') as a (id bigint, class text, error text);
        end if;

        if p_rare ? 'dead' then
            doomed_ids := array(select d.id from jsonb_to_recordset(p_rare -> 'dead') as d (id bigint));
            with doomed as (
                select d.* from jsonb_to_recordset(p_rare -> 'dead')
                    as d (id bigint, class text, fingerprint text, error text, attempts integer, copy text)
            ), gone as (
                delete from outbox.deferred d using doomed where d.id = doomed.id returning d.*
            ), dying as (
                select id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at, created_at, first_rejected_at,
                       replay
                  from gone
                union all
                select m.id, m.event_id, m.topic, m.key, m.payload, m.headers, m.partition, m.deliver_after, m.expires_at,
                       m.created_at, null, null
                  from doomed join outbox.message m on m.id = doomed.id
                 where not exists (select from gone where gone.id = doomed.id)
            ), written as (
                insert into outbox.dead_letter as l (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                                     created_at, reason_class, fingerprint, error, attempts, first_failed_at,
                                                     last_failed_at, copy_topic, replay)
                select d.id, d.event_id, d.topic, d.key, d.payload, d.headers, d.partition, d.deliver_after, d.expires_at,
                       d.created_at, doomed.class, doomed.fingerprint, doomed.error, doomed.attempts,
                       coalesce(d.first_rejected_at, clock_timestamp()), clock_timestamp(), doomed.copy, d.replay
                  from dying d join doomed on doomed.id = d.id
                -- A letter that was requeued has died again; or it was published, replayed to another topic, and died there.
                on conflict (id) do update
                   set state = 'open', topic = excluded.topic, headers = excluded.headers, partition = excluded.partition,
                       expires_at = excluded.expires_at, replay = excluded.replay, reason_class = excluded.reason_class, fingerprint = excluded.fingerprint,
                       error = excluded.error, attempts = l.attempts + excluded.attempts,
                       last_failed_at = excluded.last_failed_at, dead_at = clock_timestamp(), changed_at = null,
                       copy_topic = excluded.copy_topic, copied_at = null
                returning l.id, l.topic, l.key
            )
            select array_agg(topic), array_agg(key), coalesce(array_agg(id), '{}') into dead_topics, dead_keys, dead_ids from written;
            if cardinality(dead_ids) <> cardinality(doomed_ids) then
                lacking := lacking || array(select unnest(doomed_ids) except select unnest(dead_ids));
            end if;
        end if;

        if p_rare ? 'requeued' then
            asked_ids := array(select jsonb_array_elements_text(p_rare -> 'requeued')::bigint);
            with moved as (
                update outbox.dead_letter l
                   set state = 'requeued', replay_count = replay_count + 1, changed_at = clock_timestamp()
                 where l.id = any (asked_ids) and l.state = 'open'
                   -- Not while a copy of the same row is on its way: only one of them can be.
                   and not exists (select from outbox.deferred d where d.id = l.id)
                returning l.*
            ), entered as (
                insert into outbox.deferred (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                             created_at, reason, due_at, passable, replay)
                select id, event_id, topic, key, payload,
                       -- Consumers may have forgotten that they know it.
                       case when created_at < clock_timestamp() - (p_rare #>> '{request,window_s}')::bigint * interval '1 second'
                            then coalesce(headers, '{}') || jsonb_build_object('outbox-replay', p_rare #>> '{request,id}')
                            else headers end,
                       partition, deliver_after, expires_at, created_at, 'retry', clock_timestamp(),
                       coalesce(p_rare -> 'passable' @> to_jsonb(id), false), replay
                  from moved
                -- Somebody has opened a letter that was on its way already.
                on conflict (id) do nothing
                returning id
            )
            select coalesce(array_agg(id), '{}') into entered_ids from entered;
            if cardinality(entered_ids) <> cardinality(asked_ids) then
                lacking := lacking || array(select unnest(asked_ids) except select unnest(entered_ids));
            end if;
        end if;
        if p_rare ? 'discarded' then
            asked_ids := array(select jsonb_array_elements_text(p_rare -> 'discarded')::bigint);
            with given_up as (
                update outbox.dead_letter l set state = 'discarded', changed_at = clock_timestamp()
                 where l.id = any (asked_ids) and l.state = 'open'
                returning l.id
            )
            select entered_ids || coalesce(array_agg(id), '{}') into entered_ids from given_up;
            if not entered_ids @> asked_ids then
                lacking := lacking || array(select unnest(asked_ids) except select unnest(entered_ids));
            end if;
        end if;
        if p_rare ? 'replay' then
            asked_ids := array(select jsonb_array_elements_text(p_rare #> '{replay,ids}')::bigint);
            -- In another topic the partition that the producer chose means nothing. A time before which it was not to go, or after
            -- which it was of no use, has been answered when it went.
            with entered as (
                insert into outbox.deferred (id, event_id, topic, key, payload, headers, partition, created_at, reason, due_at,
                                             passable, replay)
                select m.id, m.event_id, coalesce(p_rare #>> '{replay,to}', m.topic), m.key, m.payload,
                       coalesce(m.headers, '{}') || jsonb_build_object('outbox-replay', p_rare #>> '{request,id}'),
                       case when coalesce(p_rare #>> '{replay,to}', m.topic) = m.topic then m.partition end, m.created_at, 'retry',
                       clock_timestamp(), coalesce(p_rare -> 'passable' @> to_jsonb(m.id), false), (p_rare #>> '{request,id}')::bigint
                  from outbox.message m where m.id = any (asked_ids)
                -- It is on its way already.
                on conflict (id) do nothing
                returning id
            )
            select entered_ids || coalesce(array_agg(id), '{}') into entered_ids from entered;
            if not entered_ids @> asked_ids then
                lacking := lacking || array(select unnest(asked_ids) except select unnest(entered_ids));
            end if;
        end if;
        if p_rare ? 'request' then
            -- One that was cancelled meanwhile stays so.
            update outbox.request r
               set state = case when r.state = 'asked' then 'running' else r.state end,
                   done = r.done + cardinality(entered_ids), last_id = greatest(r.last_id, (p_rare #>> '{request,last_id}')::bigint),
                   begun_at = coalesce(r.begun_at, clock_timestamp())
             where r.id = (p_rare #>> '{request,id}')::bigint;
        end if;
        if p_rare ? 'copied' then
            update outbox.dead_letter l set copied_at = clock_timestamp()
              from jsonb_array_elements_text(p_rare -> 'copied') as r (id)
             where l.id = r.id::bigint;
        end if;

        update outbox.deferred d
           set reason = u.reason,
               due_at = case when u.delay_ms < 0 then 'infinity' else clock_timestamp() + u.delay_ms * interval '1 millisecond' end,
               attempts = u.attempts, tries = u.tries, class = u.class, error = u.error, passable = u.passable,
               last_tried_at = clock_timestamp(),
               -- The age of a row counts from the first rejection that was its own fault.
               first_rejected_at = coalesce(d.first_rejected_at, case when u.attempts > 0 then clock_timestamp() end)
          from unnest(p_defer_ids, p_defer_reasons, p_defer_delays_ms, p_defer_attempts, p_defer_tries,
                      p_defer_classes, p_defer_errors, p_defer_passable)
               as u (id, reason, delay_ms, attempts, tries, class, error, passable)
         where d.id = u.id;
        get diagnostics known = row_count;

        insert into outbox.deferred (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                     created_at, reason, due_at, attempts, tries, class, error, passable,
                                     first_rejected_at, last_tried_at)
        select m.id, m.event_id, m.topic, m.key, m.payload, m.headers, m.partition, m.deliver_after, m.expires_at,
               m.created_at, u.reason,
               case when u.delay_ms < 0 then 'infinity' else clock_timestamp() + u.delay_ms * interval '1 millisecond' end,
               u.attempts, u.tries, u.class, u.error, u.passable,
               case when u.attempts > 0 then clock_timestamp() end, case when u.tries > 0 then clock_timestamp() end
          from unnest(p_defer_ids, p_defer_reasons, p_defer_delays_ms, p_defer_attempts, p_defer_tries,
                      p_defer_classes, p_defer_errors, p_defer_passable)
               as u (id, reason, delay_ms, attempts, tries, class, error, passable)
          join outbox.message m on m.id = u.id
         where not exists (select from outbox.deferred d where d.id = u.id);
        get diagnostics added = row_count;
        if known + added <> touched then
            put_off := array(select u.id from unnest(p_defer_ids) u (id) join outbox.deferred d on d.id = u.id);
            lacking := lacking || array(select unnest(p_defer_ids) except select unnest(put_off));
        end if;

        if p_rare ? 'woken' then
            update outbox.deferred d
               set due_at = clock_timestamp()
              -- Summed up: two wakes of a topic that meet in one settlement would find the same rows.
              from (select n.topic, sum(n.rows)::bigint as rows
                      from jsonb_to_recordset(p_rare -> 'woken') as n (topic text, rows bigint) group by n.topic) w
                   cross join lateral (
                       select p.id from outbox.deferred p
                        where p.topic = w.topic and p.due_at = 'infinity' order by p.id limit w.rows) parked
             where d.id = parked.id;
        end if;

        -- The lowest waiting row of a key is its head and must be due. A row settled as "behind" after its head had
        -- already left would otherwise wait for ever.
        update outbox.deferred d
           set due_at = clock_timestamp()
          from (select t.topic, t.key from unnest(gone_topics || dead_topics, gone_keys || dead_keys) as t (topic, key)
                 where t.key is not null
                union
                select n.topic, n.key from unnest(p_defer_ids) as u (id) join outbox.deferred n on n.id = u.id
                 where n.key is not null) k
               cross join lateral (
                   select h.id, h.due_at from outbox.deferred h
                    where h.topic = k.topic and h.key = k.key and h.reason <> 'scheduled' and not h.passable
                    order by h.id limit 1) head
         where d.id = head.id and head.due_at is null;
    end if;

    if p_rare ? 'lanes' then
        insert into outbox.ledger (epoch, seq, lane, cause, snapshot, high, as_of, late_snapshot, late_after, closed, waiting)
        select p_epoch, p_seq + lane.n - 1, l.lane, l.cause, l.snapshot::pg_snapshot, l.high,
               coalesce(l.as_of::xid8, pg_current_xact_id()), l.late_snapshot::pg_snapshot, l.late_after, l.closed, l.waiting
          from jsonb_array_elements(p_rare -> 'lanes') with ordinality as lane (position, n)
               cross join lateral jsonb_to_record(lane.position) as l (lane text, cause text, snapshot text, high bigint,
                   as_of text, late_snapshot text, late_after bigint, closed boolean, waiting bigint);
    end if;
    insert into outbox.ledger (epoch, seq, snapshot, high, as_of, late_snapshot, late_after,
                               published, deferred, dead, dropped, expired, receipts, lacking, replayed)
    values (p_epoch, p_seq + coalesce(jsonb_array_length(p_rare -> 'lanes'), 0), p_snapshot, p_high,
            case when p_moved then pg_current_xact_id() else bound end,
            p_late_snapshot, p_late_after, p_published,
            coalesce((select range_agg(int8range(d, d, '[]')) from unnest(put_off) d), '{}'),
            coalesce((select range_agg(int8range(d, d, '[]')) from unnest(dead_ids) d), '{}'),
            p_dropped, p_expired, p_receipts,
            (select range_agg(int8range(d, d, '[]')) from unnest(lacking) d), p_rare -> 'replayed');
    return case when lacking = '{}' then 'settled' else 'settled_without' end;
end $$;
