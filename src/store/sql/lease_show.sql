-- Who leads, and the last ten leases with their first and last settlement, as one JSON document. One row always.
-- Goes from epoch to epoch along ledger_newest_idx.
with recursive epochs (epoch, n) as (
    (select l.epoch, 1 from outbox.ledger l where l.epoch > 0 order by l.epoch desc, l.seq desc limit 1)
    union all
    select (select l.epoch from outbox.ledger l where l.epoch < epochs.epoch and l.epoch > 0 order by l.epoch desc, l.seq desc limit 1),
           epochs.n + 1
      from epochs where epochs.epoch is not null and epochs.n < 10
)
select jsonb_build_object(
           'holder', l.holder_name, 'epoch', l.epoch, 'since', l.since, 'beat', b.n, 'last_beat_at', b.at,
           'history', (select coalesce(jsonb_agg(jsonb_build_object('epoch', e.epoch, 'first_settled_at', f.at, 'last_settled_at', t.at,
                                                                     'settlements', t.seq) order by e.epoch desc), '[]')
                         from epochs e
                              cross join lateral (select f.at from outbox.ledger f where f.epoch = e.epoch
                                                   order by f.epoch, f.seq limit 1) f
                              cross join lateral (select t.at, t.seq from outbox.ledger t where t.epoch = e.epoch
                                                   order by t.epoch desc, t.seq desc limit 1) t
                        where e.epoch is not null))::text
  from outbox.lease l cross join outbox.beat b
 where l.one and b.one
