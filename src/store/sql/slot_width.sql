-- Makes slots of the rings last $2 seconds, under epoch $1, if they do not; true when they do now.
-- One row always; false when somebody uses the tables or the lease is another's. See migrations/0007_clean.sql.
select r.width = $2 or outbox.set_slot_width($1, $2) as done from outbox.ring r
