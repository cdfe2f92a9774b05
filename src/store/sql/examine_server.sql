-- What kind of server answers, and what on it could hold the relay up, as one JSON document. One row always. Works on a replica,
-- on any version, and without the schema. Of sessions the login sees only its own, unless it may read statistics (sees_all).
select jsonb_build_object(
           'version', current_setting('server_version_num')::int, 'version_name', current_setting('server_version'),
           'user', current_user, 'database', current_database(), 'encrypted', coalesce((select s.ssl from pg_stat_ssl s where s.pid = pg_backend_pid()), false),
           'replica', pg_is_in_recovery(), 'read_only', current_setting('transaction_read_only') = 'on',
           'settings_kept', current_setting('plan_cache_mode') = 'force_generic_plan'
               and current_setting('enable_seqscan') = 'off' and current_setting('jit') = 'off'
               and current_setting('max_parallel_workers_per_gather') = '0'
               and current_setting('default_transaction_isolation') = 'read committed',
           'autovacuum', current_setting('autovacuum') = 'on' and current_setting('track_counts') = 'on',
           'not_vacuumed', (select coalesce(jsonb_agg(format('outbox.%I', c.relname) order by c.relname), '[]')
                              from pg_class c cross join lateral pg_options_to_table(c.reloptions) o
                             where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'outbox')
                               and o.option_name = 'autovacuum_enabled' and not o.option_value::boolean),
           'sees_all', pg_has_role(current_user, 'pg_read_all_stats', 'usage'),
           'oldest', (select jsonb_build_object('pid', a.pid, 'who', a.usename, 'application', a.application_name, 'state', a.state,
                                                 'seconds', extract(epoch from clock_timestamp() - a.xact_start))
                        from pg_stat_activity a
                       where (a.backend_xid is not null or a.backend_xmin is not null) and a.pid <> pg_backend_pid()
                         and a.backend_type = 'client backend'
                       order by a.xact_start limit 1),
           'prepared', (select jsonb_build_object('gid', p.gid, 'seconds', extract(epoch from clock_timestamp() - p.prepared))
                          from pg_prepared_xacts p where p.database = current_database() order by p.prepared limit 1))::text
