-- The ids that the settlement ($1 epoch, $2 seq) went on without, because somebody had changed or deleted their rows.
-- Read only after settle has said that there are some. Uses ledger_newest_idx.
select array(select generate_series(lower(run), upper(run) - 1) from unnest(l.lacking) as run)
  from outbox.ledger l
 where l.lane is null and l.epoch = $1 and l.seq = $2
