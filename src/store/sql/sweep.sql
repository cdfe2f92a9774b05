-- One page of the sweep: rows of slot $1 behind id $2, at most $3, and which of them nobody accounts for. Ledger and rows in one
-- statement and therefore one snapshot, which comes back as text.
-- One row always. unaccounted: the first $4 ids, and lost: the number of all, that the position of their topic has passed and
-- that no settlement names; open: whether there are rows that it has not passed, so that the slot has to stay. A row of a lane
-- is its lane's business. Rows above main's high are not looked at: nobody has passed them.
-- A position has passed what its snapshot sees, and what no reader looks for: a txid at or above as_of, which no row up to high
-- has unless somebody wrote it there.
-- Uses message_id_idx and the gist indexes on the ledger's ranges.
with positions as materialized (
    (select null::text as topic, l.snapshot, l.high, l.as_of from outbox.ledger l where l.lane is null
      order by l.epoch desc, l.seq desc limit 1)
    union all
    select o.topic, o.snapshot, o.high, o.as_of from outbox.open_lane o
), page as materialized (
    select m.id, m.txid, m.topic from outbox.message m
     where m.slot = $1 and m.id > $2 and m.id <= (select x.high from positions x where x.topic is null)
     order by m.id limit $3
), span as materialized (
    select int8multirange(int8range(min(p.id), max(p.id), '[]')) as ids from page p
), named as materialized (
    select range_agg(run) as ids
      from (select unnest(l.published) as run from outbox.ledger l where l.published && (select s.ids from span s)
            union all
            select unnest(l.deferred) from outbox.ledger l where l.deferred && (select s.ids from span s) and l.deferred <> '{}'
            union all
            select unnest(l.dead) from outbox.ledger l where l.dead && (select s.ids from span s) and l.dead <> '{}'
            union all
            select unnest(l.dropped) from outbox.ledger l where l.dropped && (select s.ids from span s) and l.dropped <> '{}'
            union all
            select unnest(l.expired) from outbox.ledger l where l.expired && (select s.ids from span s) and l.expired <> '{}') runs
), left_over as materialized (
    select p.id, p.id <= w.high and (pg_visible_in_snapshot(p.txid, w.snapshot) or p.txid >= w.as_of) as passed
      from page p
           cross join lateral (select x.snapshot, x.high, x.as_of from positions x
                                where x.topic = p.topic or x.topic is null order by x.topic nulls last limit 1) w
     where not coalesce((select n.ids from named n) @> p.id, false)
)
select pg_current_snapshot()::text as snapshot, (select max(p.id) from page p) as last_id, (select count(*) from page p) as rows,
       coalesce((select array_agg(u.id order by u.id) from (select l.id from left_over l where l.passed order by l.id limit $4) u), '{}')
           as unaccounted,
       (select count(*) from left_over l where l.passed) as lost,
       exists (select from left_over l where not l.passed)
           or (select count(*) from page p) < $3
              and exists (select from outbox.message m
                           where m.slot = $1 and m.id > (select x.high from positions x where x.topic is null)) as open
