-- One page of a late set that is too large for one poll, along the id index.
-- Rows with $2 < id <= $3 that are visible in $4 (the snapshot that found the set) and not in $1 (the position's).
-- $5 rows and $6 bytes at most, among the next $7 ids; $8 rows above this come without payload; $9 incarnation token.
-- $10 topics that are skipped; $11 the only topic that is not, or null.
-- First row: facts as in poll.sql. Then the rows (kind 1), by id; if the last id looked at is none of them it comes as kind 3,
-- without its content, unless rows or bytes have cut the page before. Rows say how many late ones were skipped so far.
with facts as materialized (
    select $1::text::pg_snapshot as known, $4::text::pg_snapshot as seen,
           coalesce((select case i.token when $9::uuid then 'ours' else 'other' end
                       from outbox.incarnation i), 'gone') as incarnation
), late as not materialized (
    select w.*
      from (select m.*, lead(m.id) over page is null as last,
                   sum(case when m.is_late and not m.skipped then m.bytes else 0 end) over page as upto,
                   count(*) filter (where m.is_late and m.skipped) over page as skips
              from (select o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                           o.created_at, o.deliver_after, o.expires_at,
                           o.topic in (select unnest($10::text[])) or coalesce(o.topic <> $11, false) as skipped,
                           pg_visible_in_snapshot(o.txid, (select f.seen from facts f))
                           and not pg_visible_in_snapshot(o.txid, (select f.known from facts f)) as is_late,
                           coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                           + coalesce(pg_column_size(o.headers), 0) as bytes
                      from outbox.message o
                     where o.id > $2 and o.id <= $3
                     order by o.id
                     limit $7) m
            window page as (order by m.id rows unbounded preceding)) w
     where w.is_late and not w.skipped or w.last
     order by w.id
     limit $5
)
select 0 as kind, null::bigint as id, null::uuid as event_id,
       concat_ws(' ', f.seen, f.incarnation,
                 0, 0, 0, (extract(epoch from clock_timestamp()) * 1000000)::bigint, 0, 1, false, false) as topic,
       null::bytea as key, null::bytea as payload, null::integer as payload_bytes, null::jsonb as headers,
       null::integer as partition, null::timestamptz as created_at, null::timestamptz as deliver_after,
       null::timestamptz as expires_at, null::bigint as upto, null::bigint as skips
  from facts f
union all
select case when l.is_late and not l.skipped then 1 else 3 end, l.id, l.event_id, l.topic, l.key,
       case when octet_length(l.payload) <= $8 and l.is_late and not l.skipped then l.payload end, octet_length(l.payload),
       l.headers, l.partition, l.created_at, l.deliver_after, l.expires_at, l.upto, l.skips
  from late l
 where l.upto - case when l.is_late and not l.skipped then l.bytes else 0 end < $6
