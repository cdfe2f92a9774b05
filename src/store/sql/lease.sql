-- What a candidate watches: who leads, under which epoch, and the beat. One row always.
-- Locks nothing. The identity stands beside it so that a copy of the database is noticed before it takes over.
select l.holder, l.holder_name, l.epoch, b.n as beat, l.system_identifier, l.database_oid::bigint as database_oid,
       l.kafka_cluster_id, l.timeline
  from outbox.lease l cross join outbox.beat b
 where l.one and b.one
