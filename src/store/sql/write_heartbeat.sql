-- Writes the next heartbeat row ($3: its topic), unless the last one still waits. Returns written, waits, lease_lost or forgotten.
-- The guards (lease, incarnation) are in the function; see migrations/0013_heartbeat.sql.
select outbox.write_heartbeat($1, $2, $3) as outcome
