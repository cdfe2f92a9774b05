-- Slots of the ledger ($1 ledger) or of the attempts that hold rows, none of them younger than $2 seconds, and that the clock does
-- not fill now. No row: nothing is old enough. Two index probes for each slot: the primary key, attempt_at_idx.
select s.slot
  from generate_series(0, 7) as s (slot)
       join outbox.ring r on r.ring = $1
       cross join lateral (
           (select l.at from outbox.ledger l where $1 = 'ledger' and l.slot = s.slot order by l.epoch desc, l.seq desc limit 1)
           union all
           (select a.at from outbox.attempt a where $1 = 'attempt' and a.slot = s.slot order by a.at desc limit 1)) newest
 where newest.at < clock_timestamp() - $2 * interval '1 second'
   and s.slot <> floor(extract(epoch from clock_timestamp()) / r.width)::bigint % 8
 order by s.slot
