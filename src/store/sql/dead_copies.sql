-- Dead letters of which a topic is to get a copy, at most $1: of each topic its share, lowest ids first, so that one that takes
-- none does not hold up the others; of the topics $3 none. $2 payloads above this stay behind. The columns are those of an outbox
-- row that goes to that topic, with the original's coordinates among its headers. No row: nothing is owed.
-- Goes from topic to topic along dead_letter_copy_topic_idx.
with recursive topics as (
    (select d.copy_topic from outbox.dead_letter d
      where d.copy_topic is not null and d.copied_at is null order by d.copy_topic limit 1)
    union all
    select (select d.copy_topic from outbox.dead_letter d
             where d.copy_topic > topics.copy_topic and d.copied_at is null order by d.copy_topic limit 1)
      from topics where topics.copy_topic is not null
), wanted as (
    select t.copy_topic, greatest($1 / count(*) over (), 1) as share
      from topics t where t.copy_topic is not null and t.copy_topic <> all ($3)
)
select d.id, d.event_id, d.copy_topic as topic, d.key, case when octet_length(d.payload) <= $2 then d.payload end as payload,
       octet_length(d.payload) as payload_bytes,
       coalesce(d.headers, '{}') || jsonb_build_object(
           'dead-letter-topic', d.topic, 'dead-letter-reason', d.reason_class, 'dead-letter-error', d.error,
           'dead-letter-attempts', d.attempts::text, 'dead-letter-fingerprint', d.fingerprint,
           'dead-letter-partition', d.partition::text, 'dead-letter-first-failed-at', d.first_failed_at::text,
           'dead-letter-last-failed-at', d.last_failed_at::text) as headers,
       null::integer as partition, d.created_at, null::timestamptz as deliver_after, null::timestamptz as expires_at
  from wanted w
       cross join lateral (
           select l.* from outbox.dead_letter l
            where l.copy_topic = w.copy_topic and l.copied_at is null order by l.id limit w.share) d
 limit $1
