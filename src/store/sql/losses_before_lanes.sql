-- As losses.sql, for a schema from before the lanes (migrations 3 and 4). Always one row.
-- Unread rows are those above the relay's position; a transaction that is still open may add to them.
select
    (select count(*) from outbox.message where id > coalesce(
        (select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1), 0)) as unread,
    (select count(*) from outbox.deferred) as deferred,
    (select count(*) from outbox.dead_letter where state = 'open') as dead_letters
