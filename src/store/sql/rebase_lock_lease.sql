-- Keeps every relay from settling and from taking over while the numbering changes. First lock, as in settle.
-- Zero rows: somebody emptied outbox.lease.
select epoch from outbox.lease where one for update
