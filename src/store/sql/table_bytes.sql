-- How large each table is with its indexes, and when the oldest transaction that has a number began (null: none, or the login
-- may not know). The transaction of this very statement does not count. One row always.
select (select sum(pg_total_relation_size(i.inhrelid)) from pg_inherits i where i.inhparent = 'outbox.message'::regclass)::bigint as message,
       (select sum(pg_total_relation_size(i.inhrelid)) from pg_inherits i where i.inhparent = 'outbox.ledger'::regclass)::bigint as ledger,
       (select sum(pg_total_relation_size(i.inhrelid)) from pg_inherits i where i.inhparent = 'outbox.attempt'::regclass)::bigint as attempt,
       pg_total_relation_size('outbox.deferred') as deferred,
       pg_total_relation_size('outbox.dead_letter') as dead_letter,
       (select extract(epoch from min(a.xact_start))::double precision from pg_stat_activity a
         where (a.backend_xid is not null or a.backend_xmin is not null) and a.pid <> pg_backend_pid()) as oldest_transaction
