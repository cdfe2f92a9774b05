-- Writes one settlement, all of it or nothing; the guards (lease, incarnation, turn) are in the function.
-- Returns settled, repeated, settled_without, repeated_without, lease_lost, forgotten or out_of_turn; see migrations/0008_repairs.sql.
-- One message and one transaction: a client that freezes here holds no lock.
select outbox.settle($1, $2, $3, $4, $5::text::pg_snapshot, $6, $7::text::pg_snapshot, $8, $9,
                     $10::text::int8multirange, $11, $12::text::int8multirange, $13::text::int8multirange,
                     $14, $15, $16, $17, $18, $19, $20, $21, $22, $23::text::jsonb) as outcome
