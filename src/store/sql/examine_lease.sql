-- Who leads and which standbys are connected, what the outbox was last led on and where it is, and whether the server has kept
-- the leader's token, as one JSON document. No row: outbox.lease or outbox.beat is empty. Fails on a replica.
-- Standbys are told by the name of their connection, which every login may read and which a pooler hides.
select jsonb_build_object(
           'holder', l.holder_name, 'held', l.holder is not null, 'epoch', l.epoch,
           'beat_seconds', extract(epoch from clock_timestamp() - b.at), 'led', l.system_identifier is not null,
           'standbys', (select count(*) from pg_stat_activity a
                         where a.datname = current_database() and a.application_name = 'outbox-relay/follow'),
           'other_server', coalesce(l.system_identifier <> (select c.system_identifier from pg_control_system() c), false),
           'other_database', coalesce(l.database_oid::bigint <> (select d.oid::bigint from pg_database d where d.datname = current_database()), false),
           'kafka_cluster_id', l.kafka_cluster_id,
           'sequence_cache', (select s.cache_size from pg_sequences s
                               where s.schemaname = 'outbox' and s.sequencename = 'message_id_seq'),
           'remembers', exists (select from outbox.incarnation))::text
  from outbox.lease l cross join outbox.beat b
 where l.one and b.one
