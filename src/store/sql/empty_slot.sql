-- Empties a slot of a ring ($3 message, ledger or attempt; $4 slot), as seen in snapshot $5; nothing of ledger and attempt that is
-- younger than $6 seconds. Returns emptied, busy, changed, held, lease_lost or forgotten; see migrations/0007_clean.sql.
select outbox.empty_slot($1, $2, $3, $4, $5::text::pg_snapshot, clock_timestamp() - $6 * interval '1 second') as outcome
