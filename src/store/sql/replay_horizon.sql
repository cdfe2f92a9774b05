-- What is left of the rows that a request to send rows again names. One row always: first_id and first_at of the oldest row that is
-- left (null: none is), whether some with ids from $1 on have been removed before it, and which of the ids $2 are not there.
-- Removed is what a settlement names as published below the oldest row, or what every settlement that is left has passed.
-- A few index probes: message_id_idx, ledger_published_idx and the primary key of the ledger's slots.
with first as materialized (
    select m.id, m.created_at from outbox.message m order by m.id limit 1
), below as (
    select int8multirange(int8range($1::bigint, coalesce((select f.id from first f), 9223372036854775807), '[)')) as ids
     where coalesce((select f.id from first f), 9223372036854775807) > $1::bigint
)
select (select f.id from first f) as first_id, to_jsonb((select f.created_at from first f)) #>> '{}' as first_at,
       exists (select from below b where exists (select from outbox.ledger l where l.published && b.ids)
                                      or (select l.high from outbox.ledger l order by l.epoch, l.seq limit 1) >= $1::bigint) as removed,
       coalesce((select array_agg(asked.id order by asked.id) from unnest($2::bigint[]) as asked (id)
                  where not exists (select from outbox.message m where m.id = asked.id)), '{}') as missing
