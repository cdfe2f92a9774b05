-- The newest settlement of the main stream: where reading goes on. No row: the ledger was emptied by hand.
-- Uses ledger_newest_idx.
select l.epoch, l.seq, l.snapshot::text as snapshot, l.high, l.as_of::text as as_of,
       l.late_snapshot::text as late_snapshot, l.late_after
  from outbox.ledger l
 where l.lane is null
 order by l.epoch desc, l.seq desc
 limit 1
