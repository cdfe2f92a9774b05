-- How many published rows a request would send again, as a JSON document. One row always; published rows only.
-- The conditions are those of replay_page.sql: $1 ids, $2 topic, $3 key or $4 key in base64, written from $5 to $6, ids from $7 to $8;
-- beyond: those that were written more than $9 seconds ago.
-- It looks at every row between the ids, and stops counting behind a million that fit.
with bounds as materialized (
    select coalesce($7::bigint, 0) as from_id, coalesce($8::bigint, 9223372036854775807) as until_id
), meant as materialized (
    select m.id, m.topic, m.created_at from outbox.message m, bounds b
     where m.id >= b.from_id and m.id <= b.until_id
       and ($1::bigint[] is null or m.id = any ($1)) and ($2::text is null or m.topic = $2)
       and ($3::text is null or m.key = convert_to($3, 'UTF8')) and ($4::text is null or m.key = decode($4, 'base64'))
       and ($5::text is null or m.created_at >= $5::timestamptz) and ($6::text is null or m.created_at <= $6::timestamptz)
     limit 1000001
), named as materialized (
    select range_agg(run) as ids
      from (select unnest(l.published) as run from outbox.ledger l
             where l.published && (select int8multirange(int8range(min(m.id), max(m.id), '[]')) from meant m)) runs
)
select jsonb_build_object('rows', count(*), 'topics', count(distinct m.topic), 'first_id', min(m.id), 'last_id', max(m.id),
           'beyond', count(*) filter (where m.created_at < clock_timestamp() - $9::double precision * interval '1 second'))::text
  from meant m, named n
 where n.ids @> m.id
