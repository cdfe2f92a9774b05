-- 0005 failures: attempts, lanes, dead letters with copies, and the settlement that carries them.
-- Makes: outbox.attempt (ring of 8), lanes in outbox.ledger, the view outbox.open_lane, and outbox.settle anew.
-- Locks: outbox.message, ledger, deferred and dead_letter for an instant (no rewrite, no scan; the indexes are small).
-- oldest binary: 0.1.0

-- Every attempt that was not a confirm, so that "what happened to my message?" has an answer. Appended, never changed.
create table outbox.attempt (
    slot  smallint    not null default (floor(extract(epoch from clock_timestamp()) / 14400)::bigint % 8)::smallint,
    id    bigint      not null,
    at    timestamptz not null default clock_timestamp(),
    class text        not null,
    error text
) partition by list (slot);

comment on table outbox.attempt is 'One row per attempt that failed: which message, when, the class of the error, and what Kafka said.';

do $$
begin
    for n in 0..7 loop
        execute format('create table outbox.attempt_%s partition of outbox.attempt for values in (%s) with (fillfactor = 100)', n, n);
    end loop;
end $$;

create index attempt_id_idx on outbox.attempt (id);

-- A lane: one topic that is read on its own, at a position of its own. The newest row of a lane is its state.
alter table outbox.ledger
    -- Why the topic has a lane: missing, forbidden, paused, at_most_once, ...
    add column cause text,
    -- The main stream has taken the topic back.
    add column closed boolean not null default false,
    -- Rows of the topic that the main stream has skipped and the lane has not read, as far as is known.
    add column waiting bigint;

create index ledger_lane_idx on outbox.ledger (lane, epoch, seq) where lane is not null;

create view outbox.open_lane as
with recursive lanes as (
    -- From name to name along the index: a lane that flows writes many rows, and only the newest counts.
    (select l.lane from outbox.ledger l where l.lane is not null order by l.lane limit 1)
    union all
    select (select l.lane from outbox.ledger l where l.lane > lanes.lane order by l.lane limit 1)
      from lanes where lanes.lane is not null
)
select newest.lane as topic, newest.cause, newest.snapshot, newest.high, newest.as_of, newest.late_snapshot,
       newest.late_after, newest.waiting, newest.epoch, newest.seq, newest.at
  from lanes
       cross join lateral (
           select l.* from outbox.ledger l
            where l.lane = lanes.lane order by l.epoch desc, l.seq desc limit 1) newest
 where not newest.closed;

comment on view outbox.open_lane is
    'Topics that are read on their own, why, and how far: all others are read together.';

-- Under the policy on_failure = skip a row that failed holds nobody back: later rows of its key pass it.
alter table outbox.deferred add column passable boolean not null default false;
drop index outbox.deferred_key_idx;
create index deferred_key_idx on outbox.deferred (topic, key, id) where reason <> 'scheduled' and not passable;
-- A row whose topic stands still is parked: it is due at infinity, until its topic is woken.
create index deferred_parked_idx on outbox.deferred (topic, id) where due_at = 'infinity';

alter table outbox.dead_letter
    -- The topic that gets a copy, if the policy asks for one, and when Kafka confirmed it.
    add column copy_topic text,
    add column copied_at timestamptz,
    -- When an operator's request changed its state.
    add column changed_at timestamptz;
create index dead_letter_copy_idx on outbox.dead_letter (id) where copy_topic is not null and copied_at is null;

drop function outbox.settle(bigint, bigint, uuid, boolean, pg_snapshot, bigint, pg_snapshot, bigint, boolean,
    int8multirange, bytea, int8multirange, bigint[], bigint[], text[], bigint[], integer[], integer[], text[], text[]);

-- Writes one settlement: all of it or nothing, under the caller's epoch, as its next seq.
--   settled     it was written now
--   repeated    it had been written before (the answer got lost): nothing is done twice
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
--   copied     ids of dead letters whose copy was confirmed
--   woken      parked rows that are due now: topic, rows
create function outbox.settle(
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
    touched bigint := coalesce(cardinality(p_defer_ids), 0);
    known   bigint;
    added   bigint;
    -- Keys of which a row has left: their next row becomes the head.
    gone_topics text[];
    gone_keys   bytea[];
    dead_topics text[];
    dead_keys   bytea[];
    dead_count  bigint := coalesce(jsonb_array_length(p_rare -> 'dead'), 0);
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
    select l.seq, l.as_of into newest, bound from outbox.ledger l
     where l.epoch = p_epoch order by l.epoch desc, l.seq desc limit 1;
    if newest >= p_seq then
        return 'repeated';
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

    if p_rare ? 'lanes' then
        insert into outbox.ledger (epoch, seq, lane, cause, snapshot, high, as_of, late_snapshot, late_after, closed, waiting)
        select p_epoch, p_seq + lane.n - 1, l.lane, l.cause, l.snapshot::pg_snapshot, l.high,
               coalesce(l.as_of::xid8, pg_current_xact_id()), l.late_snapshot::pg_snapshot, l.late_after, l.closed, l.waiting
          from jsonb_array_elements(p_rare -> 'lanes') with ordinality as lane (position, n)
               cross join lateral jsonb_to_record(lane.position) as l (lane text, cause text, snapshot text, high bigint,
                   as_of text, late_snapshot text, late_after bigint, closed boolean, waiting bigint);
    end if;
    insert into outbox.ledger (epoch, seq, snapshot, high, as_of, late_snapshot, late_after,
                               published, deferred, dead, dropped, expired, receipts)
    values (p_epoch, p_seq + coalesce(jsonb_array_length(p_rare -> 'lanes'), 0), p_snapshot, p_high,
            case when p_moved then pg_current_xact_id() else bound end,
            p_late_snapshot, p_late_after, p_published,
            coalesce((select range_agg(int8range(d, d, '[]')) from unnest(p_defer_ids) d), '{}'),
            coalesce((select range_agg(int8range(d.id, d.id, '[]'))
                        from jsonb_to_recordset(p_rare -> 'dead') as d (id bigint)), '{}'),
            p_dropped, p_expired, p_receipts);

    if touched = 0 and coalesce(cardinality(p_settled_deferred), 0) = 0 and p_rare is null then
        return 'settled';
    end if;

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

    if dead_count > 0 then
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
            returning l.topic, l.key
        )
        select array_agg(topic), array_agg(key), count(*) into dead_topics, dead_keys, added from written;
        if added <> dead_count then
            raise exception 'outbox.settle buried % rows but found %', dead_count, added
                using hint = 'Rows of outbox.message were changed or deleted by hand. Nothing was settled.';
        end if;
    end if;

    if p_rare ? 'requeued' then
        with moved as (
            update outbox.dead_letter l
               set state = 'requeued', replay_count = replay_count + 1, changed_at = clock_timestamp()
              from jsonb_array_elements_text(p_rare -> 'requeued') as r (id)
             where l.id = r.id::bigint and l.state = 'open'
            returning l.*
        )
        insert into outbox.deferred (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                     created_at, reason, due_at)
        select id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at, created_at, 'retry',
               clock_timestamp()
          from moved;
        get diagnostics added = row_count;
        if added <> jsonb_array_length(p_rare -> 'requeued') then
            raise exception 'outbox.settle requeued % dead letters but found % open',
                jsonb_array_length(p_rare -> 'requeued'), added
                using hint = 'Dead letters were changed by hand. Nothing was settled.';
        end if;
    end if;
    if p_rare ? 'discarded' then
        update outbox.dead_letter l set state = 'discarded', changed_at = clock_timestamp()
          from jsonb_array_elements_text(p_rare -> 'discarded') as r (id)
         where l.id = r.id::bigint and l.state = 'open';
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
        raise exception 'outbox.settle put off % rows but found %', touched, known + added
            using hint = 'Rows of outbox.message were changed or deleted by hand. Nothing was settled.';
    end if;

    if p_rare ? 'woken' then
        update outbox.deferred d
           set due_at = clock_timestamp()
          from jsonb_to_recordset(p_rare -> 'woken') as w (topic text, rows bigint)
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
    return 'settled';
end $$;

-- A row that is put off is looked up by its key, and an index entry holds 2,700 bytes: a longer key would stop every settlement
-- in which it is put off. It is refused where its producer can see it. (An index on a digest of the key was tried: plans made
-- without statistics walked the whole topic instead.) The function is called as before, once for each row.
create function outbox.is_sendable(
    topic text, event_id uuid, headers jsonb, partition int, deliver_after timestamptz, expires_at timestamptz, key bytea
) returns boolean
language plpgsql immutable parallel safe as $$
begin
    if octet_length(key) > 2000 then
        raise exception using
            errcode = 'check_violation',
            message = format('outbox message refused: the key has %s bytes, 2000 are allowed', octet_length(key)),
            hint = 'A key says which messages keep their order, such as an order number. What is long belongs into the payload.',
            schema = 'outbox', table = 'message', column = 'key', constraint = 'message_is_sendable';
    end if;
    return outbox.is_sendable(topic, event_id, headers, partition, deliver_after, expires_at);
end $$;
comment on function outbox.is_sendable(text, uuid, jsonb, int, timestamptz, timestamptz, bytea) is
    'True for a row that the relay can make a Kafka record of. For any other it raises an error that says why not.';
-- Not valid: rows that are there already are not looked at, and nobody waits for that.
alter table outbox.message
    drop constraint message_is_sendable,
    add constraint message_is_sendable check (
        outbox.is_sendable(topic, event_id, headers, partition, deliver_after, expires_at, key)) not valid;

-- A key that waits for its topic was never rejected.
create or replace view outbox.blocked_key as
select head.topic,
    head.key,
    head.id as head_id,
    coalesce(head.first_rejected_at, head.deferred_at) as since,
    waiting.count as waiting,
    head.attempts,
    head.due_at,
    head.error
from outbox.deferred as head
cross join lateral (
    select count(*) from outbox.deferred as other
    where other.topic = head.topic and other.key = head.key
        and other.reason <> 'scheduled' and not other.passable and other.id > head.id
) as waiting
where head.reason = 'retry' and head.key is not null and not head.passable
    and not exists (
        select from outbox.deferred as earlier
        where earlier.topic = head.topic and earlier.key = head.key
            and earlier.reason <> 'scheduled'
            and not earlier.passable and earlier.id < head.id);
