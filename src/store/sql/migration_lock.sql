-- Lets one migrate, down or rebase at a time work on this database. Held until the transaction ends.
-- The transaction must be read committed: a snapshot from before the wait would not show what the other one did.
select pg_advisory_xact_lock(hashtextextended('outbox-relay migrate', 0))
