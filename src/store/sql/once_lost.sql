-- At-most-once rows that the lease before $1 has settled and nobody has heard of since: they count as lost.
-- Such a row is named as dropped before it is sent; later it is named as published, or as dropped once more when its loss has
-- been counted. No row: nothing was on its way. Only the last $2 seconds of that lease matter, a try is over sooner.
-- Read once per lease; uses ledger_newest_idx.
with last as (
    select l.epoch, l.at from outbox.ledger l where l.epoch < $1 order by l.epoch desc, l.seq desc limit 1
), recent as materialized (
    select l.dropped, l.published
      from outbox.ledger l join last on l.epoch = last.epoch
     where l.at >= last.at - $2 * interval '1 second' and (l.dropped <> '{}' or l.published <> '{}')
), named as (
    select id, count(*) as times
      from recent cross join unnest(recent.dropped) as run
           cross join generate_series(lower(run), upper(run) - 1) as id
     group by id
)
select m.topic, n.id
  from named n join outbox.message m on m.id = n.id
 where n.times = 1 and not exists (select from recent r where r.published @> n.id)
 order by m.topic, n.id
