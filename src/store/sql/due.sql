-- Deferred rows whose time has come, and the rows of their keys that wait behind them.
-- $1 heads at most, $2 followers a key, $3 rows above this come without payload, $4 bytes. No row: nothing is due.
-- A row is not due before every earlier row of its key has left, and followers end before one with a time of its own
-- (a late row took its place at the head). Cut by id, so each key keeps a beginning.
-- Uses deferred_due_idx and deferred_key_idx.
with heads as materialized (
    select d.id, d.topic, d.key
      from outbox.deferred d
     where d.due_at <= clock_timestamp()
       and (d.key is null
            or not exists (select from outbox.deferred e
                            where e.topic = d.topic and e.key = d.key and e.id < d.id and e.reason <> 'scheduled'))
     order by d.due_at
     limit $1
), picked as (
    select h.id from heads h
    union
    select f.id
      from heads h
           cross join lateral (
               select w.id, bool_or(w.due_at is not null) over (order by w.id) as ended
                 from (select d.id, d.due_at from outbox.deferred d
                        where d.topic = h.topic and d.key = h.key and d.id > h.id and d.reason <> 'scheduled'
                        order by d.id limit $2 offset 0) w) f
     where not f.ended
), page as materialized (
    -- Numbers only: full rows would be sorted just to be left behind.
    select s.id, sum(s.bytes) over (order by s.id) - s.bytes as before
      from (select d.id, coalesce(octet_length(d.key), 0) + coalesce(pg_column_size(d.headers), 0)
                         + case when octet_length(d.payload) <= $3 then octet_length(d.payload) else 0 end as bytes
              from picked p join outbox.deferred d on d.id = p.id) s
)
select d.id, d.event_id, d.topic, d.key, case when octet_length(d.payload) <= $3 then d.payload end as payload,
       octet_length(d.payload) as payload_bytes, d.headers, d.partition, d.created_at, d.deliver_after, d.expires_at,
       d.reason, d.attempts, d.tries
  from page p join outbox.deferred d on d.id = p.id
 where p.before < $4
 order by d.id
