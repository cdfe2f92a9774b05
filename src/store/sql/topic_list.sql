-- Every topic that has a lane, waiting rows or dead letters, each as a JSON document. No row: nothing of any topic waits.
-- Counts what waits, as outbox.backlog does.
select jsonb_build_object(
           'topic', topic, 'cause', l.cause, 'since', l.at, 'waiting', coalesce(b.waiting, 0), 'retrying', coalesce(b.retrying, 0),
           'behind', coalesce(b.behind, 0), 'scheduled', coalesce(b.scheduled, 0), 'oldest', b.oldest,
           'dead_letters', coalesce(d.letters, 0))::text
  from (select b.* from outbox.backlog b where b.topic is not null) b
       full join outbox.open_lane l using (topic)
       full join (select d.topic, count(*) as letters from outbox.dead_letter d where d.state = 'open' group by d.topic) d
            using (topic)
 order by topic
