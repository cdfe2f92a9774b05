-- The oldest deferred row of each topic. No row: nothing is deferred.
-- Uses deferred_oldest_idx, whose size retry.deferred_max bounds.
select d.topic, extract(epoch from min(d.created_at))::double precision as oldest
  from outbox.deferred d
 where d.reason <> 'scheduled'
 group by d.topic
