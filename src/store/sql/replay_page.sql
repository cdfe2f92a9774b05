-- A page of published rows in order of id, behind $1, at most $2: those that a request to send rows again names. After them a row
-- that is no message says how far was looked: its id is null when none is left. No more than $10 rows are looked at.
-- $3 ids, $4 topic, $5 key or $6 key in base64, written from $7 to $8, and at $9 when it was asked; ids from $11 to $12, not older
-- than $13 seconds when it was asked; null is no condition.
-- A row of which a copy waits in outbox.deferred ends the page before it: two copies of one row cannot wait there at once, and the
-- later request waits for the earlier one.
-- message_id_idx finds the rows, ledger_published_idx which of them are published: one look for the whole page. All else is a filter
-- on what was looked at, so a page costs the same however few rows fit. Ids follow the clock, give or take a moment, so whoever has
-- come to rows that were all written too late has come to the end.
with wanted as materialized (
    select coalesce(convert_to($5::text, 'UTF8'), decode($6::text, 'base64')) as key,
           greatest($7::text::timestamptz, $9::text::timestamptz - $13::double precision * interval '1 second') as written_from, least($8::text::timestamptz, $9::text::timestamptz) as written_until
), looked as materialized (
    (select m.id, m.topic, m.key, m.created_at from outbox.message m
      where $3::bigint[] is not null and m.id = any ($3) and m.id > $1 order by m.id limit $10)
    union all
    (select m.id, m.topic, m.key, m.created_at from outbox.message m
      where $3::bigint[] is null and m.id > $1 and m.id >= coalesce($11::bigint, 0) and m.id <= coalesce($12::bigint, 9223372036854775807)
      order by m.id limit $10)
), span as materialized (
    select int8multirange(int8range(min(l.id), max(l.id), '[]')) as ids from looked l
), named as materialized (
    select range_agg(run) as ids
      from (select unnest(g.published) as run from outbox.ledger g where g.published && (select s.ids from span s)) runs
), meant as materialized (
    select l.id, l.topic, l.key
      from looked l, wanted w, named n
     where n.ids @> l.id and ($4::text is null or l.topic = $4) and (w.key is null or l.key = w.key)
       and (w.written_from is null or l.created_at >= w.written_from) and l.created_at <= w.written_until
     order by l.id
     limit $2
), waits as materialized (
    select min(d.id) as id from meant m join outbox.deferred d on d.id = m.id
)
(select m.id, m.topic, m.key, true as is_message from meant m where m.id < coalesce((select w.id from waits w), 9223372036854775807)
  order by m.id)
union all
select coalesce((select w.id - 1 from waits w),
                case when min(l.created_at) <= (select w.written_until from wanted w) then max(l.id) end), null, null, false
  from looked l
