-- The newest attempts that failed, at most $1, each as a JSON document. No row: none has failed.
-- Uses attempt_at_idx.
select jsonb_build_object('id', a.id, 'at', a.at, 'class', a.class, 'error', a.error)::text
  from outbox.attempt a
 order by a.at desc
 limit $1
