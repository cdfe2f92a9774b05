-- Ids from $1 to $2 whose row is still put off, in ascending order: they are searched by halves. No row: none is.
-- Uses the primary key.
select d.id from outbox.deferred d where d.id between $1 and $2 order by d.id
