-- Gives the lease back; the epoch stays. One row always; false: it was no longer ours.
-- The guard and the locks are in the function; see migrations/0002_ledger.sql.
select outbox.resign($1, $2) as ours
