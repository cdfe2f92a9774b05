-- How far the WAL is on disk, in bytes; whether commits wait for standbys, so that the disk alone is not enough; and whether the
-- server is the one that $1 (incarnation token) was written to: after a crash it knows nothing of what was read before.
-- One row always. Fails on a replica, which has no WAL position of its own.
select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint as flushed,
       current_setting('synchronous_standby_names') <> '' as standbys,
       coalesce((select case i.token when $1 then 'ours' else 'other' end from outbox.incarnation i), 'gone') as incarnation
