-- How many rows each topic has deferred, scheduled ones aside, and how many of them are parked. No row: nothing waits.
-- Read once per lease; uses deferred_oldest_idx and deferred_parked_idx, whose sizes retry.deferred_max bounds.
select d.topic, count(*) as waiting, count(*) filter (where d.due_at = 'infinity') as parked
  from outbox.deferred d
 where d.reason <> 'scheduled'
 group by d.topic
