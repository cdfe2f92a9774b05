-- A page of open dead letters in order of id, behind $1, at most $2: those that a request names. No row: that were all.
-- $3 ids, $4 fingerprint, $5 topic, $6 key or $7 key in base64, died from $8 to $9; null is no condition.
-- One arm for each index, and only one of them runs: the primary key, dead_letter_cause_idx, dead_letter_topic_idx and
-- dead_letter_open_idx.
with wanted as materialized (
    select $4::text as fingerprint, $5::text as topic, coalesce(convert_to($6::text, 'UTF8'), decode($7::text, 'base64')) as key,
           $8::text::timestamptz as dead_from, $9::text::timestamptz as dead_until
)
select l.id, l.topic, l.key
  from (
    (select d.id, d.topic, d.key from outbox.dead_letter d, wanted w
      where $3::bigint[] is not null and d.id = any ($3) and d.id > $1 and d.state = 'open'
        and (w.fingerprint is null or d.fingerprint = w.fingerprint) and (w.topic is null or d.topic = w.topic)
        and (w.key is null or d.key = w.key) and (w.dead_from is null or d.dead_at >= w.dead_from)
        and (w.dead_until is null or d.dead_at <= w.dead_until)
      order by d.id limit $2)
    union all
    (select d.id, d.topic, d.key from outbox.dead_letter d, wanted w
      where $3::bigint[] is null and $4::text is not null and d.fingerprint = $4 and d.id > $1 and d.state = 'open'
        and (w.fingerprint is null or d.fingerprint = w.fingerprint) and (w.topic is null or d.topic = w.topic)
        and (w.key is null or d.key = w.key) and (w.dead_from is null or d.dead_at >= w.dead_from)
        and (w.dead_until is null or d.dead_at <= w.dead_until)
      order by d.id limit $2)
    union all
    (select d.id, d.topic, d.key from outbox.dead_letter d, wanted w
      where $3::bigint[] is null and $4::text is null and $5::text is not null and d.topic = $5 and d.id > $1 and d.state = 'open'
        and (w.fingerprint is null or d.fingerprint = w.fingerprint) and (w.topic is null or d.topic = w.topic)
        and (w.key is null or d.key = w.key) and (w.dead_from is null or d.dead_at >= w.dead_from)
        and (w.dead_until is null or d.dead_at <= w.dead_until)
      order by d.id limit $2)
    union all
    (select d.id, d.topic, d.key from outbox.dead_letter d, wanted w
      where $3::bigint[] is null and $4::text is null and $5::text is null and d.id > $1 and d.state = 'open'
        and (w.fingerprint is null or d.fingerprint = w.fingerprint) and (w.topic is null or d.topic = w.topic)
        and (w.key is null or d.key = w.key) and (w.dead_from is null or d.dead_at >= w.dead_from)
        and (w.dead_until is null or d.dead_at <= w.dead_until)
      order by d.id limit $2)
  ) l
 order by l.id
 limit $2
