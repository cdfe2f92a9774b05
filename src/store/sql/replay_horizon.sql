-- What is left of the rows that a request to send rows again names. One row always: first_id and first_at of the row from which on
-- nothing has been removed (null: there is none), whether some with ids from $1 on have been, and which of the ids $2 are not there.
-- A few index probes: message_id_idx, and one for each of $2.
with ring as materialized (
    select r.emptied_to from outbox.ring r where r.ring = 'message'
), first as materialized (
    select m.id, m.created_at from outbox.message m where m.id > (select r.emptied_to from ring r) order by m.id limit 1
)
select (select f.id from first f) as first_id, to_jsonb((select f.created_at from first f)) #>> '{}' as first_at,
       (select r.emptied_to >= $1::bigint from ring r) as removed,
       coalesce((select array_agg(asked.id order by asked.id) from unnest($2::bigint[]) as asked (id)
                  where not exists (select from outbox.message m where m.id = asked.id)), '{}') as missing
