-- The rows that were not published, judged in the numbering in which they and the position were written: comparing a txid
-- with a stored snapshot is arithmetic and asks nothing of this server. Zero rows: the ledger is empty, the position lost.
-- Reads every row once.
select
    count(message.id) as unread,
    coalesce(range_agg(int8range(message.id, message.id, '[]')) filter (where message.id is not null), '{}')::text as ids,
    (select count(*) from outbox.deferred) as deferred,
    (select max(epoch) from outbox.ledger) as epoch
from (
    select snapshot, high, late_snapshot, late_after
    from outbox.ledger where lane is null order by epoch desc, seq desc limit 1
) as position
left join outbox.message on message.id > position.high
    or not pg_visible_in_snapshot(message.txid, position.snapshot)
        and not coalesce(
            message.id <= position.late_after and pg_visible_in_snapshot(message.txid, position.late_snapshot), false)
group by position.high
