-- Writes one message in the caller's transaction and returns its event id. Times are microseconds since 1970.
-- Always one row; a row that Kafka could not take raises an error.
select outbox.publish(
    topic => $1::text, key => $2::bytea, payload => $3::bytea, headers => $4::text::jsonb, partition => $5::int,
    deliver_after => 'epoch'::timestamptz + $6::bigint * interval '1 microsecond',
    expires_at => 'epoch'::timestamptz + $7::bigint * interval '1 microsecond',
    event_id => $8::uuid, serialize => $9::boolean)
