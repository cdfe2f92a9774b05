-- What operators have asked for and is not over, oldest first, with what is in effect. No row: nothing is asked.
-- Read every second by the leader; uses request_open_idx.
select r.id, r.kind, r.topic, r.filter::text as filter, r.value::text as value, r.pace, r.state, r.done, r.last_id, r.planned,
       r.planned_id, r.asked_at::text as asked_at, coalesce(r.expires_at <= clock_timestamp(), false) as expired
  from outbox.request r
 where r.state in ('asked', 'running')
 order by r.id
