-- The rows that were not published, judged in the numbering in which they and the positions were written: comparing a txid
-- with a stored snapshot is arithmetic and asks nothing of this server. A topic that has a lane is judged by the lane's
-- position, all others by main's. Zero rows: the ledger has no row of main, the position is lost.
-- Reads every row once.
with positions as materialized (
    (select null::text as topic, snapshot, high, late_snapshot, late_after
       from outbox.ledger where lane is null order by epoch desc, seq desc limit 1)
    union all
    select topic, snapshot, high, late_snapshot, late_after from outbox.open_lane
), pending as (
    select message.id
      from outbox.message
           cross join lateral (
               select * from positions where positions.topic = message.topic or positions.topic is null
                order by positions.topic nulls last limit 1) as position
     where message.id > position.high
        or not pg_visible_in_snapshot(message.txid, position.snapshot)
           and not coalesce(
               message.id <= position.late_after and pg_visible_in_snapshot(message.txid, position.late_snapshot), false)
)
select (select count(*) from pending) as unread,
       (select coalesce(range_agg(int8range(id, id, '[]')), '{}')::text from pending) as ids,
       (select count(*) from outbox.deferred) as deferred,
       (select max(epoch) from outbox.ledger) as epoch
  from positions where topic is null
