-- How many rows are deferred, by reason. One row always.
-- Read once per lease, and for the gauges; reads the whole table, which retry.deferred_max bounds.
select count(*) filter (where reason = 'retry') as retrying,
       count(*) filter (where reason = 'behind') as behind,
       count(*) filter (where reason = 'scheduled') as scheduled
  from outbox.deferred
