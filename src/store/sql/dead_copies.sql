-- Dead letters behind $3 of which a topic is to get a copy, lowest ids first, at most $1; payloads above $2 stay behind. The columns
-- are those of an outbox row that goes to that topic, with the original's coordinates among its headers. No row: nothing is owed.
-- Uses dead_letter_copy_idx.
select d.id, d.event_id, d.copy_topic as topic, d.key, case when octet_length(d.payload) <= $2 then d.payload end as payload,
       octet_length(d.payload) as payload_bytes,
       coalesce(d.headers, '{}') || jsonb_build_object(
           'dead-letter-topic', d.topic, 'dead-letter-reason', d.reason_class, 'dead-letter-error', d.error,
           'dead-letter-attempts', d.attempts::text, 'dead-letter-fingerprint', d.fingerprint,
           'dead-letter-partition', d.partition::text, 'dead-letter-first-failed-at', d.first_failed_at::text,
           'dead-letter-last-failed-at', d.last_failed_at::text) as headers,
       null::integer as partition, d.created_at, null::timestamptz as deliver_after, null::timestamptz as expires_at
  from outbox.dead_letter d
 where d.copy_topic is not null and d.copied_at is null and d.id > $3
 order by d.id
 limit $1
