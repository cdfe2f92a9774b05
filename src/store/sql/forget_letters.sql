-- Deletes at most $3 dead letters whose last change is older than $2 seconds, under epoch $1.
-- Returns how many it were; none when the lease is another's. See migrations/0007_clean.sql.
select outbox.forget_letters($1, clock_timestamp() - $2 * interval '1 second', $3)
