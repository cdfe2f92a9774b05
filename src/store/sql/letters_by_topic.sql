-- How many dead letters of each topic are open; of one topic at most $1 are counted. No row: none is.
-- Jumps from topic to topic along dead_letter_topic_idx, and reads nothing but that index.
with recursive topics as (
    (select d.topic from outbox.dead_letter d where d.state = 'open' order by d.topic limit 1)
    union all
    select (select d.topic from outbox.dead_letter d where d.state = 'open' and d.topic > t.topic order by d.topic limit 1)
      from topics t where t.topic is not null
)
select t.topic,
       (select count(*) from (select from outbox.dead_letter d where d.state = 'open' and d.topic = t.topic limit $1) c) as letters
  from topics t
 where t.topic is not null
