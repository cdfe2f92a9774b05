-- Event ids that more than one row with an id from $1 to $2 carries: how many, and the first ten. One row always.
-- A hash of all event ids in between, which spills to the server's disk beyond work_mem.
select count(*) as event_ids, coalesce((array_agg(t.event_id::text order by t.event_id))[1:10], '{}') as first_ten
  from (select m.event_id from outbox.message m where m.id between $1 and $2 group by m.event_id having count(*) > 1) t
