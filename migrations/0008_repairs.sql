-- 0008 repairs: settlements that go on when somebody has changed rows by hand, requests that say what they mean and can be cancelled.
-- Makes: outbox.ledger.lacking, outbox.settle, is_askable and discard anew, the functions cancel and fix_times, lanes in
--        outbox.backlog, and an index of owed copies by topic.
-- Locks: outbox.ledger and request for an instant; outbox.dead_letter for the index, while writers of letters wait: a second
--        for a hundred thousand letters.
-- oldest binary: 0.1.0

-- Rows that this settlement was to put off, bury, requeue or discard, and that somebody had changed or deleted meanwhile: what
-- was to become of them did not. Null in all other settlements.
alter table outbox.ledger add column lacking int8multirange;

-- Writes one settlement: all of it or nothing, under the caller's epoch, as its next seq.
--   settled     it was written now
--   repeated    it had been written before (the answer got lost): nothing is done twice
--   settled_without, repeated_without   the same, but for the rows in `lacking` of its row in the ledger
--   lease_lost  another epoch holds the lease: nothing was written
--   forgotten   the server crashed or was promoted since the takeover: nothing was written
--   out_of_turn seq is not the next one: nothing was written
-- The lease row is locked for share first. A takeover waits for it, and it waits for a takeover, so a deposed
-- leader can never write after its successor has read the position. One call is one message and one transaction:
-- a client that freezes in the middle holds no lock.
-- p_defer_* are parallel arrays, one element per row that is put off (again); a delay that is null means "behind",
-- a negative one "parked". p_settled_deferred are deferred rows that left (published, expired or dropped).
-- p_rare is null in ordinary traffic. It may hold:
--   lanes      positions of lanes: lane, cause, snapshot, high, as_of, late_snapshot, late_after, closed, waiting. They take
--              the numbers p_seq, p_seq + 1, ...; the main row comes last, so that the newest row is always a main one.
--   dead       rows that become dead letters: id, class, fingerprint, error, attempts, copy
--   attempts   attempts that failed: id, class, error
--   requeued   ids of dead letters that enter outbox.deferred again;  discarded  ids that are given up
--   passable   ids among those requeued that later rows of their key may pass
--   request    whose page the requeued or discarded ones are: id, last_id. Its progress stands or falls with the settlement.
--   copied     ids of dead letters whose copy was confirmed
--   woken      parked rows that are due now: topic, rows
-- A row that is not what it was when the caller read it is left out. Raising an error instead would repeat the same settlement,
-- and with it everybody's, until somebody looks.
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
                select id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at, created_at, first_rejected_at
                  from gone
                union all
                select m.id, m.event_id, m.topic, m.key, m.payload, m.headers, m.partition, m.deliver_after, m.expires_at,
                       m.created_at, null
                  from doomed join outbox.message m on m.id = doomed.id
                 where not exists (select from gone where gone.id = doomed.id)
            ), written as (
                insert into outbox.dead_letter as l (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                                     created_at, reason_class, fingerprint, error, attempts, first_failed_at,
                                                     last_failed_at, copy_topic)
                select d.id, d.event_id, d.topic, d.key, d.payload, d.headers, d.partition, d.deliver_after, d.expires_at,
                       d.created_at, doomed.class, doomed.fingerprint, doomed.error, doomed.attempts,
                       coalesce(d.first_rejected_at, clock_timestamp()), clock_timestamp(), doomed.copy
                  from dying d join doomed on doomed.id = d.id
                -- A letter that was requeued has died again.
                on conflict (id) do update
                   set state = 'open', reason_class = excluded.reason_class, fingerprint = excluded.fingerprint,
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
                returning l.*
            ), entered as (
                insert into outbox.deferred (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                             created_at, reason, due_at, passable)
                select id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at, created_at, 'retry',
                       clock_timestamp(), coalesce(p_rare -> 'passable' @> to_jsonb(id), false)
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
                               published, deferred, dead, dropped, expired, receipts, lacking)
    values (p_epoch, p_seq + coalesce(jsonb_array_length(p_rare -> 'lanes'), 0), p_snapshot, p_high,
            case when p_moved then pg_current_xact_id() else bound end,
            p_late_snapshot, p_late_after, p_published,
            coalesce((select range_agg(int8range(d, d, '[]')) from unnest(put_off) d), '{}'),
            coalesce((select range_agg(int8range(d, d, '[]')) from unnest(dead_ids) d), '{}'),
            p_dropped, p_expired, p_receipts,
            (select range_agg(int8range(d, d, '[]')) from unnest(lacking) d));
    return case when lacking = '{}' then 'settled' else 'settled_without' end;
end $$;

-- A page of owed copies takes its share of each topic, so that a topic that gets none does not hold up the others.
create index dead_letter_copy_topic_idx on outbox.dead_letter (copy_topic, id) where copy_topic is not null and copied_at is null;
drop index outbox.dead_letter_copy_idx;

-- What waits. The row without a topic counts unread messages that the main stream has not come to: ids drawn above its
-- position, so rolled back ones count too; it is exact at zero, and costs the same with ten million waiting. Which topics they
-- belong to is not known before they are read. The rows with a topic count what was read and put off, and, where the topic has a
-- lane, what the main stream has left to it: that looks at each message between the lane and the main stream.
create or replace view outbox.backlog as
with position as (
    select snapshot, high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1
), unread as (
    select greatest(sequence.last_value - position.high, 1) as waiting, message.created_at as oldest
    from position
    cross join outbox.message_id_seq as sequence
    cross join lateral (
        select created_at from outbox.message where message.id > position.high order by message.id limit 1
    ) as message
), laned as (
    select lane.topic, count(message.id) as waiting, min(message.created_at) as oldest
    from outbox.open_lane as lane
    cross join position
    left join outbox.message
        on message.topic = lane.topic and message.id > lane.high and message.id <= position.high
    group by lane.topic
), put_off as (
    select topic,
        count(*) filter (where reason = 'retry') as retrying,
        count(*) filter (where reason = 'behind') as behind,
        count(*) filter (where reason = 'scheduled') as scheduled,
        min(created_at) filter (where reason <> 'scheduled') as oldest
    from outbox.deferred
    group by topic
)
select null::text as topic,
    coalesce(max(waiting), 0) as waiting,
    0::bigint as retrying,
    0::bigint as behind,
    0::bigint as scheduled,
    max(oldest) as oldest
from unread
union all
select topic,
    coalesce(laned.waiting, 0),
    coalesce(put_off.retrying, 0),
    coalesce(put_off.behind, 0),
    coalesce(put_off.scheduled, 0),
    least(laned.oldest, put_off.oldest)
from laned
full join put_off using (topic);

comment on view outbox.backlog is
    'What waits: unread messages of all topics in the row without a topic (an upper bound, exact at zero), and per topic those that wait in its lane, are retried, behind another of their key, or scheduled.';

-- A request that is open and that the rules below would refuse could not be reported on any more.
update outbox.request
   set state = 'refused', ended_at = clock_timestamp(),
       error = 'asked of an older release, which read it in another way; ask again'
 where state in ('asked', 'running')
   and case when kind in ('requeue', 'discard') or filter <> '{}' then true
            when kind in ('pause', 'resume') then topic !~ '^[a-zA-Z0-9._-]{1,249}$'
            when topic !~ '^[a-zA-Z0-9._*?-]{1,249}$' then true
            when kind = 'rate' then (value ->> 'rate')::numeric % 1 <> 0 or (value ->> 'rate')::numeric > 2147483647
       end;

-- Says of a request whether it can be carried out, or raises the error that tells why not. A field of a filter that is null or of
-- another type must not count as no condition: the request would mean more letters than it names.
create or replace function outbox.is_askable(kind text, topic text, filter jsonb, value jsonb, pace int) returns boolean
language plpgsql immutable as $$
declare
    reason  text;
    letters constant boolean := kind in ('requeue', 'discard');
    names   constant text[] := '{ids,fingerprint,topic,key,key_base64,dead_from,dead_until,max}';
    field   record;
begin
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
        when filter ?& '{key,key_base64}' then 'it names the key twice; give key or key_base64'
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
            then 'cancel needs the number of a request, such as {"request": 7}'
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
comment on function outbox.fix_times() is 'Turns the times of a filter into points in time, as whoever asks means them.';
create trigger fix_times before insert on outbox.request for each row execute function outbox.fix_times();

alter table outbox.request
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

comment on table outbox.request is
    'What operators asked of the relay: who, why, and how far it has come. Ask with outbox.requeue, discard, pause, resume, set_rate, set_policy, cancel.';
comment on function outbox.requeue(jsonb, text, int) is
    'Asks the relay to send dead letters again: {"ids": [..]}, {"fingerprint": ..}, {"topic": ..}, {"key": ..}, {"dead_from": .., "dead_until": ..}, with "max". Those that die later are not meant. Times without a zone, and words such as "yesterday", are those of whoever asks. Returns the request.';
comment on function outbox.discard(jsonb, text, int) is
    'Asks the relay to give dead letters up; the filter is that of requeue. Returns the request.';
comment on function outbox.cancel(bigint, text) is
    'Asks the relay to end a request: a requeue or discard goes no further (what has entered goes on), anything else is no longer in effect. Returns the request to cancel.';
