-- 0002 ledger and lease: what was done with every row, and who may do it.
-- Makes: outbox.ledger (ring of 8), outbox.lease, outbox.beat, outbox.incarnation,
--        and the functions take_over, raise_beat, resign.
-- Locks: new objects only; nothing waits.
-- oldest binary: 0.1.0

-- One row per settlement, never changed. It is the mark (which rows were published, and where their
-- records are) and the cursor (how far the relay has read) in one insert: they cannot disagree.
-- A counter that is updated in place instead gets three times slower under a snapshot that somebody
-- holds open, because every old version has to be stepped over; appended rows do not.
create table outbox.ledger (
    -- Ring partition, from the clock, so that old settlements can be truncated instead of deleted.
    slot          smallint    not null default (floor(extract(epoch from clock_timestamp()) / 14400)::bigint % 8)::smallint,
    -- The lease under which it was written, and its number under that lease (0 is the takeover).
    epoch         bigint      not null,
    seq           bigint      not null,
    txid          xid8        not null default pg_current_xact_id(),
    -- Null is the main stream; other lanes are topics that are read on their own.
    lane          text,
    -- The position. Every row with id <= high that is visible in snapshot has been dealt with, none above high has.
    snapshot      pg_snapshot not null,
    high          bigint      not null check (high >= 0),
    -- Every row with id <= high belongs to a transaction below this one: it drew its txid before it drew its id,
    -- and this settlement was written after high was looked at. It bounds the first page after a long stop.
    as_of         xid8        not null,
    -- While late rows are paged: those with id <= late_after that are visible in late_snapshot are dealt with too.
    late_snapshot pg_snapshot,
    late_after    bigint,
    -- Ids by outcome.
    published     int8multirange not null default '{}',
    deferred      int8multirange not null default '{}',
    dead          int8multirange not null default '{}',
    dropped       int8multirange not null default '{}',
    expired       int8multirange not null default '{}',
    -- Partition and offset of every published id, in the compact form that outbox.receipt reads.
    receipts      bytea,
    at            timestamptz not null default clock_timestamp(),
    primary key (slot, epoch, seq),
    check ((late_snapshot is null) = (late_after is null))
) partition by list (slot);

comment on table outbox.ledger is 'One row per settlement: which outbox rows were published, deferred or expired, where their records are, and how far the relay has read. Only the relay writes here.';

do $$
begin
    for n in 0..7 loop
        -- Inserts only: what is left for autovacuum is freezing, and TRUNCATE takes that away too.
        execute format('create table outbox.ledger_%s partition of outbox.ledger for values in (%s) with (fillfactor = 100)', n, n);
        -- Receipts are compact already. Compressing them again cost a third of the relay's throughput.
        execute format('alter table outbox.ledger_%s alter column receipts set storage external', n);
    end loop;
end $$;

-- The newest settlement, and whether a seq is the next one.
create index ledger_newest_idx on outbox.ledger (epoch, seq);
-- "Which settlement published this id?" for outbox.status. One entry per settlement, so it costs next to nothing.
create index ledger_published_idx on outbox.ledger using gist (published);

-- The beginning: nothing has been read.
insert into outbox.ledger (epoch, seq, snapshot, high, as_of)
values (0, 0, pg_current_snapshot(), 0, pg_current_xact_id());

-- The right to relay. Its epoch grows with every win and never goes back; whatever is written for a relay names its epoch.
create table outbox.lease (
    one               boolean primary key default true check (one),
    holder            uuid,
    holder_name       text,
    epoch             bigint not null default 0,
    since             timestamptz,
    -- Which server, database and Kafka cluster this outbox belongs to. A copy differs in one of them and must not publish.
    system_identifier bigint,
    database_oid      oid,
    kafka_cluster_id  text,
    -- Not identity but memory: another timeline than at takeover is a failover.
    timeline          integer
);
insert into outbox.lease default values;
comment on table outbox.lease is 'Who relays (holder), under which epoch, and which server, database and Kafka cluster this outbox belongs to.';

-- The heartbeat, apart from the lease so that raising it leaves the lease row unchanged.
-- Candidates only watch whether n moves; nobody compares clocks.
create table outbox.beat (
    one boolean primary key default true check (one),
    n   bigint not null default 0,
    at  timestamptz not null default clock_timestamp()
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
insert into outbox.beat default values;

-- A token that only takeover writes. Unlogged on purpose: a server that crashed or was promoted has emptied it,
-- a replica cannot read it, and a clean restart keeps it. A relay whose token is gone must forget what it
-- remembers, because the ids and transaction numbers of the lost tail are handed out again.
create unlogged table outbox.incarnation (
    one   boolean primary key default true check (one),
    token uuid not null
);

-- Takes the lease if nothing moved since the caller looked: same epoch, same beat (or the holder has resigned).
-- Returns the new epoch, or null when somebody was quicker. Locks the lease row, then the beat row, like raise_beat.
-- Every statement in here has a snapshot of its own (read committed): the position is copied after the lock
-- is held, so no settlement of the old epoch can slip in between.
create function outbox.take_over(
    p_holder uuid, p_holder_name text, p_epoch bigint, p_beat bigint, p_token uuid,
    p_system_identifier bigint, p_database_oid oid, p_timeline integer, p_kafka_cluster_id text
) returns bigint
language plpgsql as $$
declare
    seen  outbox.lease;
    beats bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'outbox.take_over needs read committed, not %', current_setting('transaction_isolation');
    end if;
    -- Losing a takeover in a crash would let an epoch be handed out twice.
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    select * into seen from outbox.lease where one for update;
    if seen.epoch <> p_epoch then
        return null;
    end if;
    select n into beats from outbox.beat where one for update;
    if beats <> p_beat and seen.holder is not null and seen.holder <> p_holder then
        return null;
    end if;
    update outbox.lease
       set holder = p_holder, holder_name = p_holder_name, epoch = epoch + 1, since = clock_timestamp(),
           system_identifier = p_system_identifier, database_oid = p_database_oid,
           timeline = p_timeline, kafka_cluster_id = p_kafka_cluster_id
     where one;
    update outbox.beat set n = n + 1, at = clock_timestamp() where one;
    delete from outbox.incarnation;
    insert into outbox.incarnation (token) values (p_token);
    insert into outbox.ledger (epoch, seq, snapshot, high, as_of, late_snapshot, late_after)
    select p_epoch + 1, 0, l.snapshot, l.high, l.as_of, l.late_snapshot, l.late_after
      from outbox.ledger l
     where l.lane is null
     order by l.epoch desc, l.seq desc
     limit 1;
    if not found then
        raise exception 'outbox.ledger is empty: the position is lost'
            using hint = 'Restore the ledger; starting without it would publish every row again.';
    end if;
    return p_epoch + 1;
end $$;

-- Says "the holder of this epoch is alive". False when the epoch is no longer the caller's.
create function outbox.raise_beat(p_holder uuid, p_epoch bigint) returns boolean
language plpgsql as $$
begin
    perform from outbox.lease where one and epoch = p_epoch and holder = p_holder for share;
    if not found then
        return false;
    end if;
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    update outbox.beat set n = n + 1, at = clock_timestamp() where one;
    return true;
end $$;

-- Gives the lease back, so that a standby need not wait. The epoch stays: resetting it would unfence old holders.
create function outbox.resign(p_holder uuid, p_epoch bigint) returns boolean
language plpgsql as $$
begin
    update outbox.lease set holder = null, holder_name = null, since = clock_timestamp()
     where one and epoch = p_epoch and holder = p_holder;
    return found;
end $$;
