-- Notes what a request has come to. Returns a row only while the lease is ours: a deposed leader reports nothing.
-- $1 epoch, $2 request, $3 its state, $4 what went wrong. How far a page has brought it is in the page's settlement.
with ours as (
    select l.epoch from outbox.lease l where l.one and l.epoch = $1 for share
)
update outbox.request r
   set state = $3, error = coalesce($4, r.error), begun_at = coalesce(r.begun_at, clock_timestamp()),
       ended_at = case when $3 in ('done', 'expired', 'refused') then clock_timestamp() end
  from ours
 where r.id = $2
returning r.id
