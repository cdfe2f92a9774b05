-- The slots of the ring: the oldest and the newest row of each, its size, and whether the clock fills it now. The next one may
-- go: under a steady flow it is that one whose rows have just become old enough. Eight rows always; null where a slot is empty. held: a replay that is open (request_open_idx) has still to come to
-- rows in it.
-- Uses message_id_idx: two probes for each slot.
select s.slot, first.id as first_id, extract(epoch from first.created_at)::double precision as oldest,
       extract(epoch from last.created_at)::double precision as newest,
       pg_total_relation_size(format('outbox.message_%s', s.slot)::regclass) as bytes,
       s.slot = floor(extract(epoch from clock_timestamp()) / r.width)::bigint % 8 as in_use,
       extract(epoch from clock_timestamp())::double precision as now,
       coalesce(outbox.is_wanted(first.id, last.id), false) as held
  from generate_series(0, 7) as s (slot)
       join outbox.ring r on r.ring = 'message'
       left join lateral (select m.id, m.created_at from outbox.message m where m.slot = s.slot order by m.id limit 1) first on true
       left join lateral (select m.id, m.created_at from outbox.message m where m.slot = s.slot order by m.id desc limit 1) last on true
 order by s.slot
