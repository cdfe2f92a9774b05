-- Writes the first settlements of the next epoch ($1): their position is this very transaction, without it.
-- The snapshot is made by hand. pg_current_snapshot() leaves out the caller's own xid and may call it visible, and the
-- pending rows that carry it would count as dealt with. With xmax = own xid they are late rows; as_of is one above, as
-- every row up to high ($2) is below as_of. With $4 the pending ids ($3) and the deferred rows are dropped.
-- Lanes that are open stay open, for their cause may go on here, and move to where main is: their old positions are in the
-- old numbering. Their rows of the ledger come before main's, as in settle.
with position as (
    select format('%s:%s:', own.xid, own.xid)::pg_snapshot as snapshot, (own.xid::text::bigint + 1)::text::xid8 as as_of
      from pg_current_xact_id() as own (xid)
), lane as (
    select topic, cause, case when $4 then 0 else waiting end as waiting, row_number() over (order by topic) - 1 as seq
      from outbox.open_lane
), skipped as (
    delete from outbox.deferred where $4 returning id
), dropped as (
    select coalesce(range_agg(int8range(id, id, '[]')), '{}') as ids from skipped
)
insert into outbox.ledger (epoch, seq, lane, cause, waiting, snapshot, high, as_of, dropped)
select $1::bigint, lane.seq, lane.topic, lane.cause, lane.waiting, position.snapshot, $2::bigint, position.as_of, '{}'
  from lane, position
union all
select $1, (select count(*) from lane), null, null, null, position.snapshot, $2, position.as_of,
    case when $4 then dropped.ids + $3::text::int8multirange else '{}' end
  from dropped, position
