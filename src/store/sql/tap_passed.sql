-- How many messages were published by the settlements behind ($1 epoch, $2 seq) up to ($3, $4). One row always.
-- Uses ledger_newest_idx; receipts are not touched.
select coalesce(sum(upper(run) - lower(run)), 0)::bigint as messages
  from outbox.ledger l cross join lateral unnest(l.published) as run
 where (l.epoch, l.seq) > ($1::bigint, $2::bigint) and (l.epoch, l.seq) <= ($3::bigint, $4::bigint)
