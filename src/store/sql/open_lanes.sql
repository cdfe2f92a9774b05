-- The topics that are read on their own, and where; the one whose position was written last comes first. No row: there is no lane.
-- Read once per lease; the view goes from lane to lane along ledger_lane_idx.
select l.topic, coalesce(l.cause, '') as cause, l.snapshot::text as snapshot, l.high, l.as_of::text as as_of,
       l.late_snapshot::text as late_snapshot, l.late_after, l.waiting
  from outbox.open_lane l
 order by l.epoch desc, l.seq desc
