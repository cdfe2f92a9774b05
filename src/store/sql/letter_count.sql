-- How many open dead letters a filter names, of how many topics and causes, as a JSON document. One row always.
-- The conditions are those of letter_list.sql: $1 ids, $2 fingerprint, $3 topic, $4 key or $5 key in base64, dead from $6 to $7;
-- beyond: those that were written more than $8 seconds ago.
select jsonb_build_object('letters', count(*), 'topics', count(distinct d.topic), 'causes', count(distinct d.fingerprint),
           'beyond', count(*) filter (where d.created_at < clock_timestamp() - $8::double precision * interval '1 second'))::text
  from outbox.dead_letter d
 where d.state = 'open'
   and ($1::bigint[] is null or d.id = any ($1))
   and ($2::text is null or d.fingerprint = $2)
   and ($3::text is null or d.topic = $3)
   and ($4::text is null or d.key = convert_to($4, 'UTF8'))
   and ($5::text is null or d.key = decode($5, 'base64'))
   and ($6::text is null or d.dead_at >= $6::timestamptz)
   and ($7::text is null or d.dead_at <= $7::timestamptz)
