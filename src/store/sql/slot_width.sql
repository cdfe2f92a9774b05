-- Makes slots of ring $2 last $3 seconds, under epoch $1, waiting at most $4 ms for the table; true when they last so long now.
-- One row always; false when somebody uses the table or the lease is another's. See migrations/0007_clean.sql.
select r.width = $3 or outbox.set_slot_width($1, $2, $3, $4) as done from outbox.ring r where r.ring = $2
