-- Notes how far a request has come. Returns a row only while the lease is ours: a deposed leader reports nothing.
-- $1 epoch, $2 request, $3 its state, $4 rows done since the last report, $5 the last id, $6 what went wrong.
with ours as (
    select l.epoch from outbox.lease l where l.one and l.epoch = $1 for share
)
update outbox.request r
   set state = $3, done = r.done + $4, last_id = greatest(r.last_id, $5), error = coalesce($6, r.error),
       begun_at = coalesce(r.begun_at, clock_timestamp()),
       ended_at = case when $3 in ('done', 'expired', 'refused') then clock_timestamp() end
  from ours
 where r.id = $2
returning r.id
