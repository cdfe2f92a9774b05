-- Takes the lease if nothing moved since the caller looked. Null: somebody was quicker.
-- The guards and the locks are in the function; see migrations/0002_ledger.sql.
select outbox.take_over($1, $2, $3, $4, $5, $6, $7::bigint::oid, $8, $9) as epoch
