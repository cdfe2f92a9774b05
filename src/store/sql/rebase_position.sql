-- Writes the first settlement of the next epoch ($1): its position is this very transaction, without it.
-- The snapshot is made by hand. pg_current_snapshot() leaves out the caller's own xid and may call it visible, and the
-- pending rows that carry it would count as dealt with. With xmax = own xid they are late rows; as_of is one above, as
-- every row up to high ($2) is below as_of. With $4 the pending ids ($3) and the deferred rows are dropped.
with skipped as (
    delete from outbox.deferred where $4 returning id
), dropped as (
    select coalesce(range_agg(int8range(id, id, '[]')), '{}') as ids from skipped
)
insert into outbox.ledger (epoch, seq, snapshot, high, as_of, dropped)
select $1, 0, format('%s:%s:', own.xid, own.xid)::pg_snapshot, $2, (own.xid::text::bigint + 1)::text::xid8,
    case when $4 then dropped.ids + $3::text::int8multirange else '{}' end
from dropped, pg_current_xact_id() as own (xid)
