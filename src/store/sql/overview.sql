-- How the relay is, in one JSON document: who leads, what waits, what needs a human. One row always.
-- Counts deferred rows, open dead letters and what stands in lanes; the unread backlog costs the same however long it is.
select jsonb_build_object(
           'holder', l.holder_name, 'epoch', l.epoch, 'since', l.since,
           'beat_seconds', extract(epoch from clock_timestamp() - b.at),
           'ready', w.ready, 'retrying', w.retrying, 'behind', w.behind, 'scheduled', w.scheduled, 'laned', w.laned,
           'oldest', w.oldest, 'lag_seconds', coalesce(extract(epoch from clock_timestamp() - w.oldest), 0),
           'blocked_keys', (select count(*) from outbox.blocked_key),
           'dead_letters', d.letters, 'causes', d.causes, 'oldest_dead_letter', d.oldest,
           'open_requests', (select count(*) from outbox.request r where r.state in ('asked', 'running')),
           'maintenance', (select jsonb_build_object('request', r.id, 'until', r.expires_at, 'overdue', r.expires_at <= clock_timestamp(),
                                                     'who', r.who, 'why', r.why)
                             from outbox.request r where r.kind = 'maintenance' and r.state in ('asked', 'running')
                            order by r.id desc limit 1))::text
  from outbox.lease l
       cross join outbox.beat b
       cross join (select coalesce(sum(b.waiting) filter (where b.topic is null), 0) as ready, coalesce(sum(b.retrying), 0) as retrying,
                          coalesce(sum(b.behind), 0) as behind, coalesce(sum(b.scheduled), 0) as scheduled,
                          coalesce(sum(b.waiting) filter (where b.topic is not null), 0) as laned, min(b.oldest) as oldest
                     from outbox.backlog b) w
       cross join (select count(*) as letters, count(distinct d.fingerprint) as causes, min(d.dead_at) as oldest
                     from outbox.dead_letter d where d.state = 'open') d
 where l.one and b.one
