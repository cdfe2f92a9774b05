-- What the messages $1 (ids) are, each as a JSON document; only those of the key $4 (text) or $5 (base64), if one is given.
-- No row: none of them is of that key, or their slot has been emptied. A key is personal data now and then: it comes only
-- if $3 says so, a hash of it only if $2 does. Uses message_id_idx and the primary key of the dead letters.
select distinct on (r.id) jsonb_build_object(
           'id', r.id, 'event_id', r.event_id, 'topic', r.topic, 'created_at', r.created_at,
           'created_seconds', extract(epoch from r.created_at), 'key_bytes', octet_length(r.key),
           'key_hash', case when $2::bool then left(encode(sha256(r.key), 'hex'), 16) end,
           'key', case when $3::bool then outbox.as_text(r.key) end)::text
  from (select m.id, m.event_id, m.topic, m.key, m.created_at from outbox.message m where m.id = any ($1::bigint[])
        union all
        select d.id, d.event_id, d.topic, d.key, d.created_at from outbox.dead_letter d where d.id = any ($1::bigint[])) r
 where ($4::text is null or r.key = convert_to($4, 'UTF8')) and ($5::text is null or r.key = decode($5, 'base64'))
 order by r.id
