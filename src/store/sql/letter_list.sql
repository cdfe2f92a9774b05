-- Dead letters in order of id, behind $1, at most $2, each as a JSON document without payload and headers. No row: none is left.
-- $3 ids, $4 fingerprint, $5 topic, $6 key or $7 key in base64, dead from $8 to $9, $10 states; null is no condition. The
-- conditions mean what they mean in a request (letters.sql); what `list` shows is what `requeue` with the same filter takes.
select jsonb_build_object(
           'id', d.id, 'event_id', d.event_id, 'topic', d.topic, 'key', outbox.as_text(d.key), 'reason', d.reason_class,
           'fingerprint', d.fingerprint, 'error', d.error, 'attempts', d.attempts, 'requeued', d.replay_count, 'state', d.state,
           'created_at', d.created_at, 'first_failed_at', d.first_failed_at, 'last_failed_at', d.last_failed_at,
           'dead_at', d.dead_at, 'changed_at', d.changed_at, 'copy_topic', d.copy_topic, 'copied_at', d.copied_at)::text
  from outbox.dead_letter d
 where d.id > $1
   and d.state = any ($10::text[])
   and ($3::bigint[] is null or d.id = any ($3))
   and ($4::text is null or d.fingerprint = $4)
   and ($5::text is null or d.topic = $5)
   and ($6::text is null or d.key = convert_to($6, 'UTF8'))
   and ($7::text is null or d.key = decode($7, 'base64'))
   and ($8::text is null or d.dead_at >= $8::timestamptz)
   and ($9::text is null or d.dead_at <= $9::timestamptz)
 order by d.id
 limit $2
