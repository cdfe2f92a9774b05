-- One page of a late set that is too large for one poll, along the id index.
-- Rows with $2 < id <= $3 that are visible in $4 (the snapshot that found the set) and not in $1 (the position's).
-- $5 rows and $6 bytes at most, among the next $7 ids; $8 rows above this come without payload; $9 incarnation token.
-- $10 topics that are skipped; $11 the only topic that is not, or null.
-- First row: facts as in poll.sql, with the last id looked at in place of the last id drawn.
with facts as materialized (
    select $1::text::pg_snapshot as known, $4::text::pg_snapshot as seen,
           coalesce((select case i.token when $9::uuid then 'ours' else 'other' end
                       from outbox.incarnation i), 'gone') as incarnation
), late as materialized (
    select l.*, sum(l.bytes) over (order by l.id rows unbounded preceding) as upto
      from (select m.*
              from (select o.id, o.txid, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                           o.created_at, o.deliver_after, o.expires_at,
                           coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                           + coalesce(pg_column_size(o.headers), 0) as bytes
                      from outbox.message o
                     where o.id > $2 and o.id <= $3
                     order by o.id
                     limit $7) m
             where pg_visible_in_snapshot(m.txid, (select f.seen from facts f))
               and not pg_visible_in_snapshot(m.txid, (select f.known from facts f))
               and m.topic <> all ($10::text[]) and ($11::text is null or m.topic = $11)
             limit $5) l
), page as materialized (
    select * from late l where l.upto - l.bytes < $6
)
select 0 as kind, null::bigint as id, null::uuid as event_id,
       concat_ws(' ', f.seen, f.incarnation,
                 case when (select count(*) from page) = $5 or (select max(p.upto) from page p) >= $6
                      then (select max(p.id) from page p)
                      else coalesce((select o.id from outbox.message o where o.id > $2 and o.id <= $3
                                      order by o.id offset $7 - 1 limit 1), $3) end,
                 0, 0, (extract(epoch from clock_timestamp()) * 1000000)::bigint, 0, 1, false) as topic,
       null::bytea as key, null::bytea as payload, null::integer as payload_bytes, null::jsonb as headers,
       null::integer as partition, null::timestamptz as created_at, null::timestamptz as deliver_after,
       null::timestamptz as expires_at, null::bigint as upto, null::bigint as skips
  from facts f
union all
select 1, p.id, p.event_id, p.topic, p.key,
       case when octet_length(p.payload) <= $8 then p.payload end, octet_length(p.payload), p.headers,
       p.partition, p.created_at, p.deliver_after, p.expires_at, p.upto, 0
  from page p
