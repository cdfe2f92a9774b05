-- One poll: what became visible between the position ($1 snapshot, $2 high) and now, in one snapshot.
-- First row: facts. Then late rows (kind 1: id <= high, committed since), then fresh ones (kind 2: id > high), by id.
-- $3 rows and $4 bytes at most of each kind; with more late rows than that none comes: to find the lowest ids among a million
-- rows, all of them would have to be sorted, see late_set.sql. $5 rows above this come without payload; $6 incarnation token;
-- $7 the last page ended short; $8 no row with id <= high has a txid at or above it; $9 topics that have a lane and are
-- skipped, and then at most $10 ids are looked at. If the last of them is skipped it comes as kind 3, without its content:
-- the position has to get past it, unless the bytes have cut the page before. Fresh rows say how many were skipped so far.
-- Late arms use message_txid_idx, the fresh arm message_id_idx; "offset 0" fences keep a generic plan from walking all
-- ids. The guards switch off every arm that cannot find anything: 2 buffers when nothing has ended. Skipped topics are
-- looked up in a hash: "= any" compares one after the other, 12 us a row with a thousand of them.
with facts as materialized (
    select pg_current_snapshot() as seen,
           coalesce((select case i.token when $6::uuid then 'ours' else 'other' end
                       from outbox.incarnation i), 'gone') as incarnation,
           (select s.last_value from outbox.message_id_seq s) as last_id
), guards as materialized (
    select f.seen::text <> $1::text as moved,
           pg_snapshot_xmax(f.seen) > pg_snapshot_xmax($1::text::pg_snapshot)
           and pg_snapshot_xmax($1::text::pg_snapshot) < $8::text::xid8 as younger,
           (f.seen::text <> $1::text or not $7) and f.last_id > $2 as more
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
             where m.id <= $2 and m.topic not in (select unnest($9::text[]))
            union all
            select m.*
              from (select o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                           o.created_at, o.deliver_after, o.expires_at,
                           coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                           + coalesce(pg_column_size(o.headers), 0) as bytes
                      from outbox.message o
                     where o.txid >= pg_snapshot_xmax($1::text::pg_snapshot) and o.txid < $8::text::xid8
                       and (select g.younger from guards g) offset 0) m
             where m.id <= $2 and m.topic not in (select unnest($9::text[]))
             limit $3 + 1) l
), fresh as not materialized (
    -- Two arms, of which one runs: telling skipped rows from others costs a quarter more for each row.
    select m.*, false as skipped, 0::bigint as skips, sum(m.bytes) over (order by m.id rows unbounded preceding) as upto
      from (select o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                   o.created_at, o.deliver_after, o.expires_at,
                   coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                   + coalesce(pg_column_size(o.headers), 0) as bytes
              from outbox.message o
             where $9::text[] = '{}' and o.id > $2 and (select g.more from guards g)
               and (select count(*) < $3 and coalesce(max(t.upto), 0) < $4 from late t)
             order by o.id
             limit $3) m
    union all
    (select w.id, w.event_id, w.topic, w.key, w.payload, w.headers, w.partition, w.created_at, w.deliver_after, w.expires_at,
            w.bytes, w.skipped, w.skips, w.upto
       from (select m.*, lead(m.id) over page is null as last,
                    sum(case when m.skipped then 0 else m.bytes end) over page as upto,
                    count(*) filter (where m.skipped) over page as skips
               from (select o.id, o.event_id, o.topic, o.key, o.payload, o.headers, o.partition,
                            o.created_at, o.deliver_after, o.expires_at, o.topic in (select unnest($9::text[])) as skipped,
                            coalesce(octet_length(o.key), 0) + coalesce(octet_length(o.payload), 0)
                            + coalesce(pg_column_size(o.headers), 0) as bytes
                       from outbox.message o
                      where $9::text[] <> '{}' and o.id > $2 and (select g.more from guards g)
                        and (select count(*) < $3 and coalesce(max(t.upto), 0) < $4 from late t)
                      order by o.id
                      limit $10) m
             window page as (order by m.id rows unbounded preceding)) w
      where not w.skipped or w.last
      order by w.id
      limit $3)
)
select 0 as kind, null::bigint as id, null::uuid as event_id,
       -- Snapshot, whose token, last id drawn, WAL written and flushed in bytes, clock in microseconds, the txid that is
       -- handed out next (age counts from it, as we hold none ourselves), cache of the sequence, whether commits wait for
       -- standbys; whether there are too many late rows.
       concat_ws(' ', f.seen, f.incarnation, f.last_id,
                 pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'),
                 (extract(epoch from clock_timestamp()) * 1000000)::bigint,
                 pg_snapshot_xmax(f.seen)::text::bigint + age(pg_snapshot_xmax(f.seen)::xid),
                 (select p.cache_size from pg_sequence_parameters('outbox.message_id_seq'::regclass) p),
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
       m.partition, m.created_at, m.deliver_after, m.expires_at, m.upto, m.skips
  from fresh m where m.upto - case when m.skipped then 0 else m.bytes end < $4
