-- 0011 brake: producers may ask how much waits, and a topic may have a quota that refuses more.
-- Makes: outbox.quota, the functions pressure, set_quota and brake, and publish and publish_many anew.
-- Locks: new objects only; nothing waits.
-- oldest binary: 0.1.0

-- Off by default: no row, no brake.
create table outbox.quota (
    topic       text   primary key check (topic ~ '^[a-zA-Z0-9._-]{1,249}$'),
    max_waiting bigint not null check (max_waiting > 0)
);
comment on table outbox.quota is 'Topics of which only so many messages may wait: outbox.publish refuses more. Set with outbox.set_quota.';

-- How much waits: for all topics, or for one of them.
--   waiting  messages that were not dealt with: unread, and put off. Of one topic: those of its lane, those put off, and its share of
--            what is unread, which is estimated from the newest two hundred rows: nobody counts a backlog for a producer.
--   lag      age of the oldest unread message, and of the oldest one of the topic's lane
--   quota    what outbox.publish allows; null: everything
-- The same few index probes with ten million waiting: the sequence, ledger_newest_idx, message_id_idx, and the topic's deferred rows up
-- to the quota. With the rights of the owner, because a producer may read neither.
create function outbox.pressure(
    topic text default null, out waiting bigint, out lag interval, out quota bigint
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    high   bigint;
    unread bigint;
    unread_since timestamptz;
    seen   bigint;
    own    bigint;
    bound  bigint;
begin
    select q.max_waiting into pressure.quota from outbox.quota q where q.topic = pressure.topic;
    select l.high into high from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1;
    select m.created_at into unread_since from outbox.message m where m.id > high order by m.id limit 1;
    unread := case when unread_since is null then 0 else greatest((select s.last_value from outbox.message_id_seq s) - high, 1) end;
    bound := coalesce(pressure.quota, 100000) + 1;
    if pressure.topic is null then
        waiting := unread + (select count(*) from (select from outbox.deferred d where d.reason <> 'scheduled' limit bound) counted);
    else
        if unread > 0 then
            select count(*), count(*) filter (where m.topic = pressure.topic) into seen, own
              from (select r.topic from outbox.message r where r.id > high order by r.id desc limit 200) m;
            unread := case when seen = 0 then 0 else ceil(unread * own::numeric / seen) end;
        end if;
        select least(unread_since, min(lane.oldest)), unread + coalesce(sum(lane.waiting), 0) into unread_since, waiting
          from (select o.waiting, (select m.created_at from outbox.message m where m.id > o.high order by m.id limit 1) as oldest
                  from outbox.open_lane o where o.topic = pressure.topic and o.waiting > 0) lane;
        waiting := waiting + (select count(*) from (select from outbox.deferred d where d.topic = pressure.topic and d.reason <> 'scheduled'
                                                      limit bound) counted);
    end if;
    lag := coalesce(greatest(clock_timestamp() - unread_since, interval '0'), interval '0');
end $$;
comment on function outbox.pressure(text) is
    'How many messages wait, of all topics or (estimated) of one, for how long, and how many may: for producers that can slow down.';

-- Refuses a message of a topic that has used up its quota. Without quotas it costs one look into an empty table.
create function outbox.brake(topic text) returns void
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    found record;
begin
    -- Above read committed the newest rows are not to be seen, and looking at them would make producers fail each other.
    if not exists (select from outbox.quota q where q.topic = brake.topic)
        or current_setting('transaction_isolation') <> 'read committed'
    then
        return;
    end if;
    select * into found from outbox.pressure(brake.topic);
    if found.waiting >= found.quota then
        raise exception using
            errcode = 'configuration_limit_exceeded',
            message = format('outbox message refused: about %s messages of topic %s wait, its quota is %s', found.waiting, brake.topic, found.quota),
            hint = 'The relay is behind or the topic stands still (outbox.pressure tells how far). Try again later, or have outbox.set_quota raise the quota.',
            schema = 'outbox', table = 'quota';
    end if;
end $$;
comment on function outbox.brake(text) is 'Raises an error if the topic has used up its quota (outbox.set_quota). outbox.publish calls it.';

-- Sets, changes or (null) takes away a quota, and notes who did so. Only members of outbox_admin may.
create function outbox.set_quota(topic text, max_waiting bigint, why text default null) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    noted bigint;
begin
    if set_quota.topic is null or set_quota.topic !~ '^[a-zA-Z0-9._-]{1,249}$' or set_quota.max_waiting < 1 then
        raise exception using errcode = 'check_violation',
            message = 'request refused: a quota needs the name of one topic (letters, digits, . _ -) and at least 1 message; null takes it away';
    end if;
    insert into outbox.request (kind, topic, value, why, state, begun_at, ended_at)
    values ('quota', set_quota.topic, jsonb_build_object('max_waiting', set_quota.max_waiting), set_quota.why, 'done', clock_timestamp(),
            clock_timestamp())
    returning id into noted;
    if set_quota.max_waiting is null then
        delete from outbox.quota q where q.topic = set_quota.topic;
    else
        insert into outbox.quota as q (topic, max_waiting) values (set_quota.topic, set_quota.max_waiting)
        on conflict (topic) do update set max_waiting = excluded.max_waiting;
    end if;
    return noted;
end $$;
comment on function outbox.set_quota(text, bigint, text) is
    'Lets only so many messages of a topic wait: outbox.publish refuses more. Null takes the quota away. Returns the number of the note in outbox.request.';

alter table outbox.request
    drop constraint request_is_askable,
    add constraint request_is_askable check (
        case when kind in ('reveal', 'quota') then state = 'done'
             when kind in ('replay', 'repair') then outbox.is_replayable(kind, topic, filter, value, pace)
             else outbox.is_askable(kind, topic, filter, value, pace) end) not valid;

-- As in 0001_message.sql, with the brake.
create or replace function outbox.publish(
    topic text, key bytea, payload bytea, headers jsonb default null, partition int default null,
    deliver_after timestamptz default null, expires_at timestamptz default null, event_id uuid default null,
    serialize boolean default false
) returns uuid
language plpgsql volatile as $$
declare
    identity uuid := coalesce(publish.event_id, gen_random_uuid());
begin
    perform outbox.brake(publish.topic);
    if publish.serialize then
        perform outbox.take_turn(publish.topic, publish.key);
    end if;
    insert into outbox.message (event_id, topic, key, payload, headers, partition, deliver_after, expires_at)
    values (identity, publish.topic, publish.key, publish.payload, publish.headers, publish.partition,
            publish.deliver_after, publish.expires_at);
    return identity;
end $$;

-- The same for many at once: one look for each topic. Only that is put into the function.
do $$
begin
    execute replace(pg_get_functiondef('outbox.publish_many(json, boolean)'::regprocedure), E'\n    if publish_many.serialize then\n',
        E'\n    perform outbox.brake(asked.topic)\n       from (select distinct message ->> ''topic'' as topic from json_array_elements(publish_many.messages) as message) as asked;\n'
        '    if publish_many.serialize then\n');
end $$;
