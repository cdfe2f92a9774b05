-- What operators have asked for and is not over, oldest first, with what is in effect; and whether a dead letter is owed to the
-- topic that gets a copy of it. At least one row; without an id: nothing is asked.
-- Read twice a second by the leader; uses request_open_idx and dead_letter_copy_topic_idx.
select owed.copies, r.id, r.kind, r.topic, r.filter::text as filter, r.value::text as value, r.pace, r.state, r.done, r.last_id,
       to_jsonb(r.asked_at) #>> '{}' as asked_at, coalesce(r.expires_at <= clock_timestamp(), false) as expired
  from (select exists (select from outbox.dead_letter d where d.copy_topic is not null and d.copied_at is null) as copies) owed
       left join outbox.request r on r.state in ('asked', 'running')
 order by r.id
