-- The first row of poll.sql by itself, for an outbox in which nothing happens: to start the whole statement takes four times as long
-- [measured: 0.43 ms and 0.1 ms]. While the snapshot stands still, the page before it ended short and was empty, poll.sql would find
-- nothing: each of its arms is off. $1 incarnation token.
with facts as materialized (
    select pg_current_snapshot() as seen,
           coalesce((select case i.token when $1::uuid then 'ours' else 'other' end
                       from outbox.incarnation i), 'gone') as incarnation,
           (select s.last_value from outbox.message_id_seq s) as last_id
)
select concat_ws(' ', f.seen, f.incarnation, f.last_id,
                 pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0'), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'),
                 (extract(epoch from clock_timestamp()) * 1000000)::bigint,
                 pg_snapshot_xmax(f.seen)::text::bigint + age(pg_snapshot_xmax(f.seen)::xid),
                 (select p.cache_size from pg_sequence_parameters('outbox.message_id_seq'::regclass) p),
                 current_setting('synchronous_standby_names') <> '', false)
  from facts f
