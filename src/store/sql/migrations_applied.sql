-- The migrations that were applied, in order. The caller knows that outbox.migration exists.
-- Zero rows: the table was made and nothing else.
select version, name, checksum, oldest_binary, applied_at::text from outbox.migration order by version
