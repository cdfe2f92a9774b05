-- Requests, the newest first, at most $1, with numbers below $2, those of the states $3, each as a JSON document.
-- No row: there is none.
select jsonb_build_object(
           'id', r.id, 'kind', r.kind, 'topic', r.topic, 'filter', r.filter, 'value', r.value, 'pace', r.pace, 'why', r.why,
           'who', r.who, 'asked_at', r.asked_at, 'expires_at', r.expires_at, 'state', r.state, 'done', r.done, 'error', r.error,
           'begun_at', r.begun_at, 'ended_at', r.ended_at)::text
  from outbox.request r
 where r.id < $2 and r.state = any ($3::text[])
 order by r.id desc
 limit $1
