-- Forgets whom and what the lease belonged to; the next relay that takes it writes down its own surroundings.
-- The epoch grows, so whoever led before can settle nothing more.
update outbox.lease
set holder = null, holder_name = null, epoch = $1, since = clock_timestamp(), system_identifier = null,
    database_oid = null, timeline = null, kafka_cluster_id = null
where one
