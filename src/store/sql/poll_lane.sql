-- One page of a lane: what topic $7 has between the lane's position ($1 snapshot, $2 high) and main's ($9 snapshot, $10 high),
-- as of main's snapshot: when a page ends short the lane stands exactly where main stands, and main can take the topic back.
-- First row: facts as in poll.sql. Then late rows (kind 1), then fresh ones (kind 2), by id; kind 3 is the last id looked at
-- where it is none of the topic's. Fresh rows say how many ids were looked at so far.
-- $3 rows and $4 bytes at most of each kind; with more late rows than that none comes, see late_set.sql. $5 rows above this
-- come without payload; $6 incarnation token; $8 no row with id <= $2 has a txid at or above it; $11 ids looked at. Late arms
-- use message_txid_idx, the fresh arm message_id_idx.
with facts as materialized (
    select $9::text::pg_snapshot as seen,
           coalesce((select case i.token when $6::uuid then 'ours' else 'other' end
                       from outbox.incarnation i), 'gone') as incarnation
), guards as materialized (
    select $9::text <> $1::text as moved,
           pg_snapshot_xmax(f.seen) > pg_snapshot_xmax($1::text::pg_snapshot)
           and pg_snapshot_xmax($1::text::pg_snapshot) < $8::text::xid8 as younger
      from facts f
), late as materialized (
    select l.*, sum(l.bytes) over (order by l.id rows unbounded preceding) as upto
      from (select m.*
              from unnest(array(select x.xid from pg_snapshot_xip($1::text::pg_snapshot) as x (xid)
                                 where (select g.moved from guards g)
                                   and pg_visible_in_snapshot(x.xid, (select f.seen from facts f)))) as ended (xid)
                   cross join lateral (
                       select o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                              o.created_at, o.deliver_after, o.expires_at,
                              coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                              + coalesce(pg_column_size(o.headers), 0) as bytes
                         from outbox.message o where o.txid = ended.xid offset 0) m
             where m.id <= $2 and m.topic = $7
            union all
            select m.id, m.event_id, m.topic, m.key, m.payload, m.headers, m.partition,
                   m.created_at, m.deliver_after, m.expires_at, m.bytes
              from (select o.txid, o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                           o.created_at, o.deliver_after, o.expires_at,
                           coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                           + coalesce(pg_column_size(o.headers), 0) as bytes
                      from outbox.message o
                     where o.txid >= pg_snapshot_xmax($1::text::pg_snapshot) and o.txid < $8::text::xid8
                       and (select g.younger from guards g) offset 0) m
             where m.id <= $2 and m.topic = $7 and pg_visible_in_snapshot(m.txid, (select f.seen from facts f))
             limit $3 + 1) l
), fresh as not materialized (
    select w.*
      from (select m.*, lead(m.id) over page is null as last,
                   sum(case when m.skipped then 0 else m.bytes end) over page as upto,
                   row_number() over page as looked_at
              from (select o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                           o.created_at, o.deliver_after, o.expires_at,
                           o.topic <> $7 or not pg_visible_in_snapshot(o.txid, (select f.seen from facts f)) as skipped,
                           coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                           + coalesce(pg_column_size(o.headers), 0) as bytes
                      from outbox.message o
                     where o.id > $2 and o.id <= $10
                       and (select count(*) < $3 and coalesce(max(t.upto), 0) < $4 from late t)
                     order by o.id
                     limit $11) m
            window page as (order by m.id rows unbounded preceding)) w
     where not w.skipped or w.last
     order by w.id
     limit $3
)
select 0 as kind, null::bigint as id, null::uuid as event_id,
       concat_ws(' ', f.seen, f.incarnation,
                 0, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'),
                 (extract(epoch from clock_timestamp()) * 1000000)::bigint, 0, 1,
                 current_setting('synchronous_standby_names') <> '', (select count(*) > $3 from late t)) as topic,
       null::bytea as key, null::bytea as payload, null::integer as payload_bytes, null::jsonb as headers,
       null::integer as partition, null::timestamptz as created_at, null::timestamptz as deliver_after,
       null::timestamptz as expires_at, null::bigint as upto, null::bigint as skips
  from facts f
union all
select 1, l.id, l.event_id, l.topic, l.key,
       case when octet_length(l.payload) <= $5 then l.payload end, octet_length(l.payload), l.headers,
       l.partition, l.created_at, l.deliver_after, l.expires_at, l.upto, 0
  from late l where l.upto - l.bytes < $4 and (select count(*) <= $3 from late t)
union all
select case when m.skipped then 3 else 2 end, m.id, m.event_id, m.topic, m.key,
       case when octet_length(m.payload) <= $5 and not m.skipped then m.payload end, octet_length(m.payload), m.headers,
       m.partition, m.created_at, m.deliver_after, m.expires_at, m.upto, m.looked_at
  from fresh m where m.upto - case when m.skipped then 0 else m.bytes end < $4
