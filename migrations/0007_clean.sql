-- 0007 clean: emptying the slots of the rings once their rows are old and accounted for.
-- Makes: outbox.ring, the functions empty_slot, set_slot_width and forget_letters, and small indexes on outbox.ledger.
-- Locks: outbox.ledger for the indexes: their predicates are rare, but every row is looked at once.
-- oldest binary: 0.1.0

-- "Which settlement put this id off, or buried it?" Rare outcomes, so the indexes stay small.
create index ledger_deferred_idx on outbox.ledger using gist (deferred) where deferred <> '{}';
create index ledger_dead_idx on outbox.ledger using gist (dead) where dead <> '{}';

-- "How old is the newest attempt of this slot?"
create index attempt_at_idx on outbox.attempt (at);

-- How long one slot of the rings is filled. Eight of them have to cover the retention and two more.
create table outbox.ring (
    one   boolean primary key default true check (one),
    width integer not null default 14400 check (width > 0)
);
insert into outbox.ring default values;
comment on table outbox.ring is 'How many seconds a slot of the ring partitions is filled; derived from retention.published.';

-- Empties one slot of a ring: emptied, busy (somebody uses it), changed (a row has come since the caller looked), held (it
-- holds what is still needed), lease_lost or forgotten.
-- The caller has looked before, without a lock, in snapshot p_snapshot. The lock is taken on the child alone and not waited
-- for: waiting would queue polls and inserts behind a backup. What follows the lock are new statements with new snapshots, so a
-- row that was committed between the look and the lock is seen; under repeatable read it would not be, and would be lost.
-- With the rights of the owner, because TRUNCATE is not to be had by itself: a client that freezes holds no lock, for one call
-- is one transaction.
create function outbox.empty_slot(
    p_epoch bigint, p_token uuid, p_ring text, p_slot int, p_snapshot pg_snapshot, p_before timestamptz
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    child text := format('%s_%s', p_ring, p_slot);
    found_row boolean;
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
        -- The newest row of main and of every open lane is where somebody goes on; and a row whose message is still there is
        -- what says that it was published.
        execute format(
            'select exists (select from outbox.%I l where l.at >= $1)
                 or exists (select from (select n.slot from outbox.ledger n where n.lane is null
                                          order by n.epoch desc, n.seq desc limit 1) newest where newest.slot = $2)
                 or exists (select from outbox.open_lane o join outbox.%I l
                              on l.lane = o.topic and l.epoch = o.epoch and l.seq = o.seq)
                 or (select max(upper(range_merge(l.published + l.deferred + l.dead + l.dropped + l.expired)))
                       from outbox.%I l
                      where l.published + l.deferred + l.dead + l.dropped + l.expired <> ''{}'')
                    > (select min(m.id) from outbox.message m)', child, child, child)
           into found_row using p_before, p_slot;
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

-- Makes slots of another width. Rows keep the slots that they have; nothing assumes that slots are in order of age.
-- Does not wait for the locks: false when somebody uses the tables.
create function outbox.set_slot_width(p_epoch bigint, p_seconds int) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    ring text;
begin
    perform from outbox.lease where one and epoch = p_epoch for share;
    if not found then
        return false;
    end if;
    begin
        foreach ring in array '{message,ledger,attempt}'::text[] loop
            execute format('lock table only outbox.%I in access exclusive mode nowait', ring);
        end loop;
    exception when lock_not_available then
        return false;
    end;
    foreach ring in array '{message,ledger,attempt}'::text[] loop
        execute format('alter table only outbox.%I alter column slot set default '
            '(floor(extract(epoch from clock_timestamp()) / %s)::bigint %% 8)::smallint', ring, p_seconds);
    end loop;
    update outbox.ring set width = p_seconds where one;
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
                   order by l.id limit p_rows);
    get diagnostics gone = row_count;
    return gone;
end $$;

comment on function outbox.empty_slot(bigint, uuid, text, int, pg_snapshot, timestamptz) is 'Empties one slot of a ring, if nothing in it is needed any more. Only the leader can.';
comment on function outbox.set_slot_width(bigint, int) is 'Makes slots of the rings last so many seconds. Only the leader can.';
comment on function outbox.forget_letters(bigint, timestamptz, int) is 'Deletes old dead letters. Only the leader can.';
