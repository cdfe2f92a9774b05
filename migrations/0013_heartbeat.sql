-- 0013 heartbeat: a row of the relay's own that goes the way of every message, so that a quiet outbox shows that this way is open.
-- Makes: outbox.heartbeat and the function write_heartbeat.
-- Locks: new objects only; nothing waits.
-- oldest binary: 0.1.0

-- Which row is the newest, and how far they have come. One row, updated once per heartbeat, like outbox.beat.
create table outbox.heartbeat (
    one                  boolean primary key default true check (one),
    -- The newest one; null: none was ever written.
    id                   bigint,
    written_at           timestamptz,
    -- When the last one was written whose confirm has been seen.
    confirmed_written_at timestamptz
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
insert into outbox.heartbeat default values;
comment on table outbox.heartbeat is
    'The newest heartbeat row of the relay (heartbeat.topic), and when the last one was written that Kafka has confirmed.';

-- Writes the next heartbeat row, unless the last one has still to come to an end: while Kafka is away one of them waits and not one
-- for each interval. Returns written, waits, lease_lost or forgotten. With the rights of the owner, because a relay may not write
-- messages. What became of the last one is a look by its id into outbox.status.
create function outbox.write_heartbeat(p_epoch bigint, p_token uuid, p_topic text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    newest outbox.heartbeat;
    found_state text;
    found_published timestamptz;
begin
    perform from outbox.lease where one and epoch = p_epoch for share;
    if not found then
        return 'lease_lost';
    end if;
    perform from outbox.incarnation where one and token = p_token;
    if not found then
        return 'forgotten';
    end if;
    select * into newest from outbox.heartbeat where one for update;
    if newest.id is not null then
        select s.state, s.published_at into found_state, found_published from outbox.status s where s.id = newest.id;
        if found_state in ('pending', 'retrying', 'behind', 'scheduled') then
            return 'waits';
        end if;
        -- Retention may have taken the row; then nobody knows any more, and the next one will tell.
        if found_published is not null then
            newest.confirmed_written_at := newest.written_at;
        end if;
    end if;
    insert into outbox.message (topic, payload)
    values (p_topic, convert_to(json_build_object('epoch', p_epoch, 'written_at', clock_timestamp())::text, 'UTF8'))
    returning id, created_at into newest.id, newest.written_at;
    update outbox.heartbeat
       set id = newest.id, written_at = newest.written_at, confirmed_written_at = newest.confirmed_written_at
     where one;
    return 'written';
end $$;
comment on function outbox.write_heartbeat(bigint, uuid, text) is
    'For the leader: writes a heartbeat row, unless the last one still waits.';
