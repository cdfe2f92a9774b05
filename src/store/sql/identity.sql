-- Which server and database this is. One row always; fails on a replica.
-- The timeline comes from the current WAL file name, because the control file lags behind a promotion.
select (select c.system_identifier from pg_control_system() c) as system_identifier,
       (select d.oid::bigint from pg_database d where d.datname = current_database()) as database_oid,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer as timeline,
       (select s.cache_size from pg_sequences s
         where s.schemaname = 'outbox' and s.sequencename = 'message_id_seq') as sequence_cache,
       (select s.last_value from outbox.message_id_seq s) as last_id
