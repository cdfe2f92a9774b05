-- How far the WAL is on disk, in bytes; and whether commits wait for standbys, so that the disk alone is not enough.
-- One row always. Fails on a replica, which has no WAL position of its own.
select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint as flushed,
       current_setting('synchronous_standby_names') <> '' as standbys
