-- What the server is, as one JSON document, for whoever helps from afar: version, settings that matter here, age of the oldest
-- transaction, and which of our roles this login has. One row always. Needs no schema and names no secret.
select jsonb_build_object(
           'version', version(), 'replica', pg_is_in_recovery(), 'database', current_database(), 'login', current_user,
           'at', clock_timestamp(), 'started_at', pg_postmaster_start_time(),
           'database_bytes', pg_database_size(current_database()),
           'settings', (select jsonb_object_agg(s.name, s.setting || coalesce(' ' || s.unit, ''))
                          from pg_settings s
                         where s.name = any ('{server_version_num,max_connections,shared_buffers,work_mem,wal_level,fsync,full_page_writes,
                                               synchronous_commit,synchronous_standby_names,autovacuum,max_wal_size,checkpoint_timeout,
                                               default_transaction_isolation,statement_timeout,lock_timeout,
                                               idle_in_transaction_session_timeout,max_prepared_transactions,hot_standby_feedback,
                                               plan_cache_mode,enable_seqscan,jit,TimeZone,server_encoding}'::text[])),
           'oldest_transaction_seconds', (select extract(epoch from clock_timestamp() - min(a.xact_start))
                                            from pg_stat_activity a
                                           where (a.backend_xid is not null or a.backend_xmin is not null) and a.pid <> pg_backend_pid()),
           'connections', (select count(*) from pg_stat_activity a where a.datname = current_database()),
           'roles', (select coalesce(jsonb_agg(r.rolname order by r.rolname), '[]')
                       from pg_roles r
                      where r.rolname like 'outbox\_%' and pg_has_role(current_user, r.oid, 'member')))::text
