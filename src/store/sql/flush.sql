-- Makes everything committed so far durable: an own commit that waits for the disk and for synchronous standbys.
-- A transactional message is needed, because a transaction number alone does not make a commit flush. Says whether the server is
-- the one that $1 (incarnation token) was written to; a crash after that fails the commit.
select coalesce((select case i.token when $1 then 'ours' else 'other' end from outbox.incarnation i), 'gone') as incarnation,
       pg_logical_emit_message(true, 'outbox-relay', 'flush')::text as lsn
