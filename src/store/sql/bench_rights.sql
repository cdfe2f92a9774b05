-- Whether this login may write messages, and may delete its own afterwards. One row always.
-- Reads the catalog only; asked before anything is written, so that nothing stays that cannot be taken away.
select has_table_privilege('outbox.message', 'insert') as may_write,
       has_table_privilege('outbox.message', 'select') and has_table_privilege('outbox.message', 'delete') as may_delete
