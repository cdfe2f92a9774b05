-- Says that the holder of this epoch is alive. One row always; false: the epoch is no longer ours.
-- The guard and the locks are in the function; see migrations/0002_ledger.sql.
select outbox.raise_beat($1, $2) as ours
