-- What a late set that is too large for one poll consists of: of each topic the lowest id and the number of rows.
-- The set is what poll.sql and poll_lane.sql look for: rows with id <= $2 that are visible in $3 (the snapshot that found the
-- set) and not in $1 (the position's), whose txid is below $4, of topics other than $5, and of $6 alone if it is not null.
-- Reads each row of the set once, by message_txid_idx, and sorts none: 0.35 s for a million, once for such a set. Its first
-- page, found by sorting the rows by id, took 1.8 s and 300 MB of temporary files [both measured].
with facts as materialized (
    select $1::text::pg_snapshot as known, $3::text::pg_snapshot as seen
)
select m.topic, min(m.id) as first, count(*) as rows
  from (select o.id, o.topic
          from unnest(array(select x.xid from facts f, pg_snapshot_xip(f.known) as x (xid)
                             where pg_visible_in_snapshot(x.xid, f.seen))) as ended (xid)
               cross join lateral (
                   select r.id, r.topic from outbox.message r where r.txid = ended.xid offset 0) o
         where o.id <= $2
        union all
        select o.id, o.topic
          from (select r.id, r.topic, r.txid from outbox.message r
                 where r.txid >= (select pg_snapshot_xmax(f.known) from facts f)
                   and r.txid < (select least($4::text::xid8, pg_snapshot_xmax(f.seen)) from facts f) offset 0) o
         where o.id <= $2 and pg_visible_in_snapshot(o.txid, (select f.seen from facts f))) m
 where m.topic not in (select unnest($5::text[])) and ($6::text is null or m.topic = $6)
 group by m.topic
