-- Notes what a request has come to. Returns a row only while the lease is ours: a deposed leader reports nothing.
-- Written twice it says the same, so it may be repeated when its answer was lost. A request that is over stays as it is.
-- $1 epoch, $2 request, $3 its state, $4 the last dead letter that was looked at, $5 what went wrong. How many are done, and how
-- far a page that moves some has brought it, is in the page's settlement.
with ours as (
    select l.epoch from outbox.lease l where l.one and l.epoch = $1 for share
), reported as (
    update outbox.request r
       set state = $3, last_id = greatest(r.last_id, $4), error = coalesce($5, r.error),
           begun_at = coalesce(r.begun_at, clock_timestamp()), ended_at = case when $3 <> 'running' then clock_timestamp() end
      from ours
     where r.id = $2 and r.state in ('asked', 'running')
)
select ours.epoch from ours
