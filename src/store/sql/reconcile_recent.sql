-- What was published before trouble, and how far main has come. One row always.
-- first_id: the lowest id that settlements name as published which are at most $1 seconds older than the newest settlement of a lease
-- before $2 (null: there is none); started: main's high when lease $2 began; high: main's high now; last_id: the highest id that is left.
-- Walks the ledger backwards from there (ledger_newest_idx), so it costs what it finds.
with before as materialized (
    select l.at from outbox.ledger l where l.epoch < $2 and l.published <> '{}' order by l.epoch desc, l.seq desc limit 1
)
select (select min(lower(l.published)) from outbox.ledger l
         where l.at >= (select b.at from before b) - $1::double precision * interval '1 second' and l.published <> '{}') as first_id,
       (select l.high from outbox.ledger l where l.lane is null and l.epoch = $2 order by l.seq limit 1) as started,
       (select l.high from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1) as high,
       coalesce((select m.id from outbox.message m order by m.id desc limit 1), 0) as last_id
