-- What was done since the last look, as one JSON document: messages that were published and those that died in the settlements
-- behind ($1 epoch, $2 seq), and attempts that failed since $3 (text; null: none are counted). One row always.
-- An attempt becomes visible a moment after its time, so attempts are counted a second late rather than too few.
-- Uses ledger_newest_idx and attempt_at_idx; the cost is that of what was done since.
with newest as materialized (
    select l.epoch, l.seq from outbox.ledger l order by l.epoch desc, l.seq desc limit 1
), behind as materialized (
    select l.published, l.dead from outbox.ledger l where (l.epoch, l.seq) > ($1::bigint, $2::bigint)
), clock as materialized (
    select clock_timestamp() as at
)
select jsonb_build_object(
           'epoch', n.epoch, 'seq', n.seq, 'at', c.at, 'at_seconds', extract(epoch from c.at),
           'published', (select coalesce(sum(upper(run) - lower(run)), 0) from behind b cross join lateral unnest(b.published) as run),
           'dead', (select coalesce(sum(upper(run) - lower(run)), 0) from behind b cross join lateral unnest(b.dead) as run),
           'failed', (select count(*) from outbox.attempt a
                       where a.at > $3::text::timestamptz - interval '1 second' and a.at <= c.at - interval '1 second'))::text
  from newest n cross join clock c
