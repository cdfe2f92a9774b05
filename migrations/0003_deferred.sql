-- 0003 deferred rows, dead letters and the settlement.
-- Makes: outbox.deferred, outbox.dead_letter, and the function settle.
-- Locks: new objects only; nothing waits.
-- oldest binary: 0.1.0

-- Full copies of single rows that had to be passed over, so that the main stream can go on.
create table outbox.deferred (
    id                bigint primary key,
    event_id          uuid not null,
    topic             text not null,
    key               bytea,
    payload           bytea,
    headers           jsonb,
    partition         integer,
    deliver_after     timestamptz,
    expires_at        timestamptz,
    created_at        timestamptz not null,
    -- retry: refused, or not deliverable now. behind: an earlier row of its key is deferred. scheduled: deliver_after lies ahead.
    reason            text not null check (reason in ('retry', 'behind', 'scheduled')),
    -- When it is tried next. Null while it waits behind the head of its key.
    due_at            timestamptz,
    -- Tries that were the row's own fault, and all tries (which drive the backoff).
    attempts          integer not null default 0,
    tries             integer not null default 0,
    first_rejected_at timestamptz,
    last_tried_at     timestamptz,
    class             text,
    error             text,
    deferred_at       timestamptz not null default clock_timestamp(),
    check (due_at is not null or reason = 'behind')
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create index deferred_due_idx on outbox.deferred (due_at) where due_at is not null;
-- Scheduled rows block nobody and are not bounded in number, so what looks for waiting rows does not meet them.
create index deferred_key_idx on outbox.deferred (topic, key, id) where reason <> 'scheduled';
create index deferred_oldest_idx on outbox.deferred (topic, created_at) where reason <> 'scheduled';
comment on table outbox.deferred is 'Rows that had to be passed over for now: refused and retried with backoff, waiting behind such a row of their key, or scheduled.';

create table outbox.dead_letter (
    id              bigint primary key,
    event_id        uuid not null,
    topic           text not null,
    key             bytea,
    payload         bytea,
    headers         jsonb,
    partition       integer,
    deliver_after   timestamptz,
    expires_at      timestamptz,
    created_at      timestamptz not null,
    reason_class    text not null,
    -- Equal for rows that died of the same cause: they are looked at and requeued together.
    fingerprint     text not null,
    error           text not null,
    attempts        integer not null,
    first_failed_at timestamptz not null,
    last_failed_at  timestamptz not null,
    replay_count    integer not null default 0,
    state           text not null default 'open' check (state in ('open', 'requeued', 'discarded')),
    dead_at         timestamptz not null default clock_timestamp()
);
create index dead_letter_group_idx on outbox.dead_letter (fingerprint, dead_at) where state = 'open';
comment on table outbox.dead_letter is 'Rows that need a human.';

-- Writes one settlement: all of it or nothing, under the caller's epoch, as its next seq.
--   settled     it was written now
--   repeated    it had been written before (the answer got lost): nothing is done twice
--   lease_lost  another epoch holds the lease: nothing was written
--   forgotten   the server crashed or was promoted since the takeover: nothing was written
--   out_of_turn seq is not the next one: nothing was written
-- The lease row is locked for share first. A takeover waits for it, and it waits for a takeover, so a deposed
-- leader can never write after its successor has read the position. One call is one message and one transaction:
-- a client that freezes in the middle holds no lock.
-- p_defer_* are parallel arrays, one element per row that is put off (again); p_defer_delay_ms null means "behind".
-- p_settled_deferred are deferred rows that left (published or expired).
create function outbox.settle(
    p_epoch bigint, p_seq bigint, p_token uuid, p_durable boolean,
    p_snapshot pg_snapshot, p_high bigint, p_late_snapshot pg_snapshot, p_late_after bigint, p_moved boolean,
    p_published int8multirange, p_receipts bytea, p_expired int8multirange,
    p_settled_deferred bigint[],
    p_defer_ids bigint[], p_defer_reasons text[], p_defer_delays_ms bigint[],
    p_defer_attempts integer[], p_defer_tries integer[], p_defer_classes text[], p_defer_errors text[]
) returns text
language plpgsql as $$
declare
    newest  bigint;
    bound   xid8;
    touched bigint := coalesce(cardinality(p_defer_ids), 0);
    known   bigint;
    added   bigint;
    gone_topics text[];
    gone_keys   bytea[];
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

    -- A mark that is lost in a crash of the server only repeats its rows. A deferral or a deletion that is lost
    -- would lose them, so those wait for the disk (and for synchronous standbys, if the server has any).
    if p_durable or touched > 0 or cardinality(p_settled_deferred) > 0 then
        if current_setting('synchronous_commit') = 'off' then
            perform set_config('synchronous_commit', 'on', true);
        end if;
    else
        perform set_config('synchronous_commit', 'off', true);
    end if;

    insert into outbox.ledger (epoch, seq, snapshot, high, as_of, late_snapshot, late_after,
                               published, deferred, expired, receipts)
    values (p_epoch, p_seq, p_snapshot, p_high, case when p_moved then pg_current_xact_id() else bound end,
            p_late_snapshot, p_late_after, p_published,
            coalesce((select range_agg(int8range(d, d, '[]')) from unnest(p_defer_ids) d), '{}'), p_expired, p_receipts);

    if touched = 0 and coalesce(cardinality(p_settled_deferred), 0) = 0 then
        return 'settled';
    end if;

    with gone as (
        delete from outbox.deferred where id = any (p_settled_deferred) returning topic, key
    ), keys as (
        select distinct topic, key from gone where key is not null
    )
    select array_agg(topic), array_agg(key) into gone_topics, gone_keys from keys;

    update outbox.deferred d
       set reason = u.reason, due_at = clock_timestamp() + u.delay_ms * interval '1 millisecond',
           attempts = u.attempts, tries = u.tries, class = u.class, error = u.error,
           last_tried_at = clock_timestamp(), first_rejected_at = coalesce(d.first_rejected_at, clock_timestamp())
      from unnest(p_defer_ids, p_defer_reasons, p_defer_delays_ms, p_defer_attempts, p_defer_tries,
                  p_defer_classes, p_defer_errors)
           as u (id, reason, delay_ms, attempts, tries, class, error)
     where d.id = u.id;
    get diagnostics known = row_count;

    insert into outbox.deferred (id, event_id, topic, key, payload, headers, partition, deliver_after, expires_at,
                                 created_at, reason, due_at, attempts, tries, class, error,
                                 first_rejected_at, last_tried_at)
    select m.id, m.event_id, m.topic, m.key, m.payload, m.headers, m.partition, m.deliver_after, m.expires_at,
           m.created_at, u.reason, clock_timestamp() + u.delay_ms * interval '1 millisecond',
           u.attempts, u.tries, u.class, u.error,
           case when u.reason = 'retry' then clock_timestamp() end, case when u.tries > 0 then clock_timestamp() end
      from unnest(p_defer_ids, p_defer_reasons, p_defer_delays_ms, p_defer_attempts, p_defer_tries,
                  p_defer_classes, p_defer_errors)
           as u (id, reason, delay_ms, attempts, tries, class, error)
      join outbox.message m on m.id = u.id
     where not exists (select from outbox.deferred d where d.id = u.id);
    get diagnostics added = row_count;
    if known + added <> touched then
        raise exception 'outbox.settle put off % rows but found %', touched, known + added
            using hint = 'Rows of outbox.message were changed or deleted by hand. Nothing was settled.';
    end if;

    -- The lowest waiting row of a key is its head and must be due. A row settled as "behind" after its head had
    -- already left would otherwise wait for ever.
    update outbox.deferred d
       set due_at = clock_timestamp()
      from (select t.topic, t.key from unnest(gone_topics, gone_keys) as t (topic, key)
            union
            select n.topic, n.key from unnest(p_defer_ids) as u (id) join outbox.deferred n on n.id = u.id
             where n.key is not null) k
           cross join lateral (
               select h.id, h.due_at from outbox.deferred h
                where h.topic = k.topic and h.key = k.key and h.reason <> 'scheduled'
                order by h.id limit 1) head
     where d.id = head.id and head.due_at is null;
    return 'settled';
end $$;
