-- Whether deferred row $1 still is, and whether later rows of its key may pass it. No row: it is gone.
-- Uses the primary key.
select d.passable from outbox.deferred d where d.id = $1
