-- The settlements behind ($1 epoch, $2 seq), at most $3, each as a JSON document: which messages it published, where their
-- records are (in the compact form, as hex), when, and how long ago. No row: nothing has been settled since.
-- A leader's settlements become visible in their order, and a takeover waits for the last one of the leader before, so
-- nothing appears behind a position that was passed. Uses ledger_newest_idx.
select jsonb_build_object(
           'epoch', l.epoch, 'seq', l.seq, 'at', l.at, 'at_seconds', extract(epoch from l.at),
           'age_seconds', extract(epoch from clock_timestamp() - l.at),
           'published', l.published::text, 'receipts', encode(l.receipts, 'hex'))::text
  from outbox.ledger l
 where (l.epoch, l.seq) > ($1::bigint, $2::bigint)
 order by l.epoch, l.seq
 limit $3
