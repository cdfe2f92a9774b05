-- The oldest row of each topic that waits in its lane. No row: no lane has anything to read that is known.
-- Looks at no more than 20,000 ids behind a lane's position, and ends at the first one of the topic: a lane that stands has it
-- right before it, one that flows reads it next. Uses ledger_lane_idx, ledger_newest_idx and message_id_idx.
select l.topic, extract(epoch from first.created_at)::double precision as oldest
  from outbox.open_lane l
       cross join lateral (
           select g.high from outbox.ledger g where g.lane is null order by g.epoch desc, g.seq desc limit 1) main
       cross join lateral (
           select near.created_at
             from (select m.id, m.topic, m.created_at from outbox.message m
                    where m.id > coalesce(l.late_after, l.high) and m.id <= main.high order by m.id limit 20000) near
            where near.topic = l.topic
            order by near.id
            limit 1) first
