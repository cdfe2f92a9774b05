-- The topics of rows that wait, and of the newest rows, each as a JSON document with what a broker could refuse about its rows.
-- No row: the outbox is empty. Looks at $1 rows of each source: the first unread ones, the newest, deferred ones, open dead
-- letters; then at the topics with lanes. Sizes do not count what the relay adds. Uses message_id_idx from both ends.
with looked as (
    select p.topic, p.key, p.payload, p.headers, true as pending
      from (select g.high from outbox.ledger g where g.lane is null order by g.epoch desc, g.seq desc limit 1) position
           cross join lateral (select m.topic, m.key, m.payload, m.headers from outbox.message m
                                where m.id > position.high order by m.id limit $1) p
    union all
    select n.topic, n.key, n.payload, n.headers, n.id > n.high
      from (select m.topic, m.key, m.payload, m.headers, m.id, position.high
              from (select g.high from outbox.ledger g where g.lane is null order by g.epoch desc, g.seq desc limit 1) position
                   cross join lateral (select m.* from outbox.message m order by m.id desc limit $1) m) n
    union all
    select d.topic, d.key, d.payload, d.headers, true
      from (select d.topic, d.key, d.payload, d.headers from outbox.deferred d limit $1) d
    union all
    select d.topic, d.key, d.payload, d.headers, true
      from (select d.topic, d.key, d.payload, d.headers from outbox.dead_letter d where d.state = 'open' limit $1) d
)
select jsonb_build_object(
           'topic', coalesce(r.topic, l.topic), 'pending', coalesce(r.pending, true), 'cause', l.cause,
           'largest', coalesce(r.largest, 0), 'without_key', coalesce(r.without_key, false))::text
  from (select k.topic, bool_or(k.pending) as pending, bool_or(k.pending and k.key is null) as without_key,
               max(case when k.pending then coalesce(octet_length(k.key), 0) + coalesce(octet_length(k.payload), 0)
                                            + coalesce(octet_length(k.headers::text), 0) else 0 end) as largest
          from looked k group by k.topic) r
       full join outbox.open_lane l on l.topic = r.topic
 order by coalesce(r.topic, l.topic)
