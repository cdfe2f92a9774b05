-- How many rows are deferred, by reason; of scheduled ones at most $1 are counted. One row always.
-- Read once per lease, and for the gauges. Waiting rows are bounded by retry.deferred_max (deferred_oldest_idx),
-- scheduled ones are not.
select (select count(*) from outbox.deferred d where d.reason <> 'scheduled' and d.due_at is not null) as retrying,
       (select count(*) from outbox.deferred d where d.reason <> 'scheduled' and d.due_at is null) as behind,
       (select count(*) from (select from outbox.deferred d where d.reason = 'scheduled' limit $1) s) as scheduled
