-- The ids that the settlements of the last $1 seconds name as published, and how far main has come: first_id (null: they name
-- none), last_id that was drawn, high. One row always.
-- Walks the ledger backwards from its newest row (ledger_newest_idx), so it costs what it finds.
with newest as materialized (
    select l.epoch, l.seq, l.high from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1
)
select (select min(lower(l.published)) from outbox.ledger l
         where l.at >= clock_timestamp() - $1::double precision * interval '1 second' and l.published <> '{}') as first_id,
       coalesce((select m.id from outbox.message m order by m.id desc limit 1), 0) as last_id,
       (select n.high from newest n) as high
