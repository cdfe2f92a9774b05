-- Writes a request. Returns its number; a bad one is refused by an error with errcode check_violation.
-- $1 kind, $2 topic, $3 filter, $4 value, $5 pace, $6 seconds until it ends by itself, $7 why.
insert into outbox.request (kind, topic, filter, value, pace, expires_at, why)
values ($1, $2, $3::text::jsonb, $4::text::jsonb, $5, clock_timestamp() + $6::double precision * interval '1 second', $7)
returning id
