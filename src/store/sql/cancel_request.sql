-- Ends request $3 because request $2 asks for it, and says so in both, under epoch $1. Returns the state of $2: done, or refused
-- when there is nothing to end. No row: the lease is another's.
with ours as (
    select l.epoch from outbox.lease l where l.one and l.epoch = $1 for share
), ended as (
    update outbox.request r
       set state = 'cancelled', error = format('cancelled by request %s', $2::bigint), ended_at = clock_timestamp()
      from ours
     where r.id = $3 and r.id <> $2 and r.state in ('asked', 'running')
    returning r.id
)
update outbox.request r
   set state = case when exists (select from ended) then 'done' else 'refused' end,
       error = case when not exists (select from ended)
                    then format('request %s is over, or there is none; outbox.request shows what became of it', $3::bigint) end,
       begun_at = clock_timestamp(), ended_at = clock_timestamp()
  from ours
 where r.id = $2
returning r.state
