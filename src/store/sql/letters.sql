-- A page of open dead letters in order of id, behind $1, at most $2: those that a request names. After them a row that is no
-- letter says how far was looked: its id is null when none is left. No more than $10 letters are looked at.
-- $3 ids, $4 fingerprint, $5 topic, $6 key or $7 key in base64, dead from $8 to $9, and at $11 when it was asked; null is no
-- condition.
-- One arm for each index, and only one of them runs: the primary key, dead_letter_cause_idx, dead_letter_topic_idx and
-- dead_letter_open_idx. All else is a filter on what was looked at, so a page costs the same however few letters fit.
with wanted as materialized (
    select coalesce(convert_to($6::text, 'UTF8'), decode($7::text, 'base64')) as key,
           $8::text::timestamptz as dead_from, $9::text::timestamptz as dead_until, $11::text::timestamptz as asked_at
), looked as materialized (
    (select d.id, d.topic, d.key, d.fingerprint, d.dead_at from outbox.dead_letter d
      where $3::bigint[] is not null and d.id = any ($3) and d.id > $1 and d.state = 'open'
      order by d.id limit $10)
    union all
    (select d.id, d.topic, d.key, d.fingerprint, d.dead_at from outbox.dead_letter d
      where $3::bigint[] is null and $4::text is not null and d.fingerprint = $4 and d.id > $1 and d.state = 'open'
      order by d.fingerprint, d.id limit $10)
    union all
    (select d.id, d.topic, d.key, d.fingerprint, d.dead_at from outbox.dead_letter d
      where $3::bigint[] is null and $4::text is null and $5::text is not null and d.topic = $5 and d.id > $1
        and d.state = 'open'
      order by d.topic, d.id limit $10)
    union all
    (select d.id, d.topic, d.key, d.fingerprint, d.dead_at from outbox.dead_letter d
      where $3::bigint[] is null and $4::text is null and $5::text is null and d.id > $1 and d.state = 'open'
      order by d.id limit $10)
), fitting as (
    select l.id, l.topic, l.key
      from looked l, wanted w
     where ($4::text is null or l.fingerprint = $4) and ($5::text is null or l.topic = $5)
       and (w.key is null or l.key = w.key) and (w.dead_from is null or l.dead_at >= w.dead_from)
       and (w.dead_until is null or l.dead_at <= w.dead_until) and l.dead_at <= w.asked_at
     order by l.id
     limit $2
)
(select f.id, f.topic, f.key, true as is_letter from fitting f order by f.id)
union all
select max(l.id), null, null, false from looked l
