-- Keys whose messages wait behind one that failed, the longest first, at most $1, each as a JSON document; of topic $2, unless it
-- is null. No row: no key is blocked.
select jsonb_build_object(
           'topic', k.topic, 'key', outbox.as_text(k.key), 'head_id', k.head_id, 'since', k.since, 'waiting', k.waiting,
           'attempts', k.attempts, 'due_at', case when isfinite(k.due_at) then k.due_at end, 'error', k.error)::text
  from outbox.blocked_key k
 where $2::text is null or k.topic = $2
 order by k.since, k.topic, k.head_id
 limit $1
