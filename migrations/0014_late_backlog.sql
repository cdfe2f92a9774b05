-- 0014 late_backlog: what waits of a large set of late rows is counted by outbox.backlog and outbox.pressure.
-- Makes: the view outbox.backlog and the function pressure anew.
-- Locks: these two for an instant; nothing waits.
-- oldest binary: 0.1.0

-- What waits. The row without a topic counts unread messages that the main stream has not come to: ids drawn above its
-- position, so rolled back ones count too; it is exact at zero, and costs the same with ten million waiting. While the main stream
-- pages many messages that were committed late, all ids behind its last page count. Which topics they
-- belong to is not known before they are read. The rows with a topic count what was read and put off, and, where the topic has a
-- lane, what the main stream has left to it: that looks at each message between the lane and the main stream.
create or replace view outbox.backlog as
with position as (
    select snapshot, high, coalesce(late_after, high) as read_to
    from outbox.ledger where lane is null order by epoch desc, seq desc limit 1
), unread as (
    select greatest(sequence.last_value - position.read_to, 1) as waiting, message.created_at as oldest
    from position
    cross join outbox.message_id_seq as sequence
    cross join lateral (
        select created_at from outbox.message where message.id > position.read_to order by message.id limit 1
    ) as message
), laned as (
    select lane.topic, count(message.id) as waiting, min(message.created_at) as oldest
    from outbox.open_lane as lane
    cross join position
    left join outbox.message
        on message.topic = lane.topic
        and message.id > coalesce(lane.late_after, lane.high) and message.id <= position.high
        -- Below the lane's high only those wait that were committed late.
        and (message.id > lane.high or not pg_visible_in_snapshot(message.txid, lane.snapshot))
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

-- How much waits: for all topics, or for one of them.
--   waiting  messages that were not dealt with: unread, and put off. Of one topic: those of its lane, those put off, and its share of
--            what is unread, which is estimated from the newest two hundred rows: nobody counts a backlog for a producer.
--   lag      age of the oldest unread message, and of the oldest one of the topic's lane
--   quota    what outbox.publish allows; null: everything
-- The same few index probes with ten million waiting: the sequence, ledger_newest_idx, message_id_idx, and the topic's deferred rows up
-- to the quota. With the rights of the owner, because a producer may read neither.
create or replace function outbox.pressure(
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
    select coalesce(l.late_after, l.high) into high from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1;
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
          from (select o.waiting, (select m.created_at from outbox.message m where m.id > coalesce(o.late_after, o.high)
                                      order by m.id limit 1) as oldest
                  from outbox.open_lane o where o.topic = pressure.topic and o.waiting > 0) lane;
        waiting := waiting + (select count(*) from (select from outbox.deferred d where d.topic = pressure.topic and d.reason <> 'scheduled'
                                                      limit bound) counted);
    end if;
    lag := coalesce(greatest(clock_timestamp() - unread_since, interval '0'), interval '0');
end $$;
