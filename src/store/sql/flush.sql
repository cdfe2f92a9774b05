-- Makes everything committed so far durable: an own commit that waits for the disk and for synchronous standbys.
-- A transactional message is needed, because a transaction number alone does not make a commit flush.
select pg_logical_emit_message(true, 'outbox-relay', 'flush')::text
