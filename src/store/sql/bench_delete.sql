-- Deletes what the benchmark has written: messages of topic $1 that carry its mark, with ids above $2 up to $3. One row always: how many.
-- Nobody else's rows have that mark and that topic. Uses message_id_idx; called after all of them were settled.
with gone as (
    delete from outbox.message m
     where m.id > $2::bigint and m.id <= $3::bigint and m.topic = $1::text and m.headers ->> 'outbox-bench' = $1::text
    returning 1
)
select count(*) as gone from gone
