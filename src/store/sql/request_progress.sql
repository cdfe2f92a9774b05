-- Notes how far a request has come. Returns a row only while the lease is ours: a deposed leader reports nothing.
-- Written twice it says the same, so it may be repeated when its answer was lost. One that is over stays over.
-- $1 epoch, $2 request, $3 its state, $4 rows done, $5 the last of them, $6 rows of the page begun with, $7 the last of those,
-- $8 what went wrong.
with ours as (
    select l.epoch from outbox.lease l where l.one and l.epoch = $1 for share
)
update outbox.request r
   set state = case when r.state in ('asked', 'running') then $3 else r.state end,
       done = greatest(r.done, $4), last_id = greatest(r.last_id, $5), planned = $6, planned_id = $7,
       error = coalesce($8, r.error), begun_at = coalesce(r.begun_at, clock_timestamp()),
       ended_at = case when $3 <> 'running' then coalesce(r.ended_at, clock_timestamp()) else r.ended_at end
  from ours
 where r.id = $2
returning r.id
