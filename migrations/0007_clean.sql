-- 0007 clean: emptying the slots of the rings once their rows are old and accounted for.
-- Makes: outbox.ring, the functions empty_slot, set_slot_width and forget_letters, and indexes on outbox.ledger, attempt and
--        dead_letter.
-- Locks: outbox.ledger, attempt and dead_letter for the indexes: every row is looked at once, and who writes there waits.
-- oldest binary: 0.1.0

-- "Which settlement put this id off, or buried it?" Rare outcomes, so the indexes stay small.
create index ledger_deferred_idx on outbox.ledger using gist (deferred) where deferred <> '{}';
create index ledger_dead_idx on outbox.ledger using gist (dead) where dead <> '{}';

-- "How old is the newest attempt of this slot?"
create index attempt_at_idx on outbox.attempt (at);

-- "Which dead letters are older than the operator wants to keep?"
create index dead_letter_age_idx on outbox.dead_letter (coalesce(changed_at, dead_at));

-- How long one slot of each ring is filled. Eight of them have to cover the retention and two more, or a slot is filled again
-- before its newest row is old enough to go. Settlements may be kept longer than rows, so each ring has a width of its own.
create table outbox.ring (
    ring  text primary key check (ring in ('message', 'ledger', 'attempt')),
    width integer not null default 14400 check (width > 0)
);
insert into outbox.ring (ring) values ('message'), ('ledger'), ('attempt');
comment on table outbox.ring is 'How many seconds a slot of each ring of partitions is filled; derived from retention.published and retention.receipts.';

-- Empties one slot of a ring: emptied, busy (somebody uses it), changed (a row has come since the caller looked), held (it
-- holds what is still needed), lease_lost or forgotten.
-- The long look comes before, without a lock, in snapshot p_snapshot: that every message is accounted for, that no message of
-- these settlements is left. The lock is taken on the child alone and not waited for: waiting would queue polls and inserts
-- behind a backup. What follows the lock are new statements with new snapshots, so a row that was committed between the look
-- and the lock is seen; under repeatable read it would not be, and would be lost. They are a few index probes, because whoever
-- needs the slot meanwhile waits for them.
-- With the rights of the owner, because the right to TRUNCATE is the right to do so without any of this. A client that freezes
-- holds no lock, for one call is one transaction.
create function outbox.empty_slot(
    p_epoch bigint, p_token uuid, p_ring text, p_slot int, p_snapshot pg_snapshot, p_before timestamptz
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    child text := format('%s_%s', p_ring, p_slot);
    found_row boolean;
    was_seen boolean;
    is_old boolean;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'outbox.empty_slot needs read committed, not %', current_setting('transaction_isolation')
            using hint = 'Under repeatable read it would truncate rows that it cannot see.';
    end if;
    if p_ring not in ('message', 'ledger', 'attempt') or p_slot not between 0 and 7 then
        raise exception 'outbox.empty_slot: there is no slot % of %', p_slot, p_ring;
    end if;
    perform from outbox.lease where one and epoch = p_epoch for share;
    if not found then
        return 'lease_lost';
    end if;
    perform from outbox.incarnation where one and token = p_token;
    if not found then
        return 'forgotten';
    end if;
    begin
        execute format('lock table outbox.%I in access exclusive mode nowait', child);
    exception when lock_not_available then
        return 'busy';
    end;
    if p_ring = 'message' then
        execute format('select exists (select from outbox.%I m where m.txid >= pg_snapshot_xmax($1))
                            or exists (select from outbox.%I m
                                        where m.txid = any (array(select x from pg_snapshot_xip($1) as x)))', child, child)
           into found_row using p_snapshot;
        if found_row then
            return 'changed';
        end if;
    elsif p_ring = 'ledger' then
        -- Each settlement is newer than all before it, so if the newest one here was seen and is old, all are.
        execute format('select pg_visible_in_snapshot(l.txid, $1), l.at < $2 from outbox.%I l
                         where l.slot = $3 order by l.epoch desc, l.seq desc limit 1', child)
           into was_seen, is_old using p_snapshot, p_before, p_slot;
        if not was_seen then
            return 'changed';
        elsif not is_old then
            return 'held';
        end if;
        -- The newest settlement of main and of every open lane is where somebody goes on. The one that closed a lane stays
        -- while an older one of the lane is left in another slot, or that one would be the newest and the lane open again.
        with recursive lanes as (
            (select l.lane from outbox.ledger l where l.lane is not null order by l.lane limit 1)
            union all
            select (select l.lane from outbox.ledger l where l.lane > lanes.lane order by l.lane limit 1)
              from lanes where lanes.lane is not null
        )
        select exists (select from (select l.slot from outbox.ledger l where l.lane is null
                                     order by l.epoch desc, l.seq desc limit 1) newest
                        where newest.slot = p_slot)
            or exists (select from lanes
                              cross join lateral (select l.slot, l.closed from outbox.ledger l where l.lane = lanes.lane
                                                   order by l.epoch desc, l.seq desc limit 1) newest
                        where newest.slot = p_slot
                          and (not newest.closed
                               or exists (select from outbox.ledger o where o.lane = lanes.lane and o.slot <> p_slot)))
          into found_row;
        if found_row then
            return 'held';
        end if;
    else
        execute format('select exists (select from outbox.%I a where a.at >= $1)', child) into found_row using p_before;
        if found_row then
            return 'held';
        end if;
    end if;
    execute format('truncate table only outbox.%I', child);
    return 'emptied';
end $$;

-- Makes slots of one ring last so long from now on. Rows keep the slots that they have; nothing assumes that slots are in order
-- of age. It needs the table for an instant and waits at most p_wait_ms for it, in which inserts wait behind: false when
-- somebody used it all the time.
create function outbox.set_slot_width(p_epoch bigint, p_ring text, p_seconds int, p_wait_ms int) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if p_ring not in ('message', 'ledger', 'attempt') or p_wait_ms not between 1 and 1000 then
        raise exception 'outbox.set_slot_width: there is no ring %, or % ms is no wait', p_ring, p_wait_ms;
    end if;
    perform from outbox.lease where one and epoch = p_epoch for share;
    if not found then
        return false;
    end if;
    perform set_config('lock_timeout', p_wait_ms::text, true);
    begin
        execute format('lock table only outbox.%I in access exclusive mode', p_ring);
    exception when lock_not_available then
        return false;
    end;
    execute format('alter table only outbox.%I alter column slot set default '
        '(floor(extract(epoch from clock_timestamp()) / %s)::bigint %% 8)::smallint', p_ring, p_seconds);
    update outbox.ring set width = p_seconds where ring = p_ring;
    return true;
end $$;

-- Deletes dead letters whose last change is older than this, at most so many; returns how many it were.
create function outbox.forget_letters(p_epoch bigint, p_before timestamptz, p_rows int) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gone bigint;
begin
    perform from outbox.lease where one and epoch = p_epoch for share;
    if not found then
        return 0;
    end if;
    delete from outbox.dead_letter
     where id in (select l.id from outbox.dead_letter l
                   where coalesce(l.changed_at, l.dead_at) < p_before
                     -- One that waits for its next try may die again.
                     and not exists (select from outbox.deferred d where d.id = l.id)
                   order by coalesce(l.changed_at, l.dead_at) limit p_rows);
    get diagnostics gone = row_count;
    return gone;
end $$;

comment on function outbox.empty_slot(bigint, uuid, text, int, pg_snapshot, timestamptz) is 'Empties one slot of a ring, if nothing in it is needed any more. Only the leader can.';
comment on function outbox.set_slot_width(bigint, text, int, int) is 'Makes slots of a ring last so many seconds. Only the leader can.';
comment on function outbox.forget_letters(bigint, timestamptz, int) is 'Deletes old dead letters. Only the leader can.';
