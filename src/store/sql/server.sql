-- Who answers: a writable primary or not, and whether the settings that the plans depend on were taken over.
-- One row always. Works on a replica.
select pg_is_in_recovery() as replica,
       current_setting('transaction_read_only') = 'on' as read_only,
       current_setting('plan_cache_mode') = 'force_generic_plan'
           and current_setting('enable_seqscan') = 'off'
           and current_setting('jit') = 'off'
           and current_setting('max_parallel_workers_per_gather') = '0'
           and current_setting('default_transaction_isolation') = 'read committed' as settings_kept
