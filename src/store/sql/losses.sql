-- What dropping the schema would lose, besides the history. Always one row; the caller knows that the views exist.
-- Unread is what no position has passed: that of its lane for the rows of a topic that has one, main's for all others. A
-- transaction that is still open may add to them. Reads every row once.
with positions as materialized (
    (select null::text as topic, snapshot, high, as_of, late_snapshot, late_after
       from outbox.ledger where lane is null order by epoch desc, seq desc limit 1)
    union all
    select topic, snapshot, high, as_of, late_snapshot, late_after from outbox.open_lane
)
select
    (select count(*)
       from outbox.message
            left join lateral (
                select * from positions where positions.topic = message.topic or positions.topic is null
                 order by positions.topic nulls last limit 1) as position on true
      where position.high is null
         or message.id > position.high
         or not pg_visible_in_snapshot(message.txid, position.snapshot)
            and coalesce(message.txid < position.as_of, true)
            and not coalesce(
                message.id <= position.late_after and pg_visible_in_snapshot(message.txid, position.late_snapshot), false)
    ) as unread,
    (select count(*) from outbox.deferred) as deferred,
    (select count(*) from outbox.dead_letter where state = 'open') as dead_letters
