-- The life of row $1 as a JSON document: what it is, where it stands, every attempt that failed, every time it was published, and
-- what operators did about it (settlements with copies are looked through, ledger_replayed_idx: they are few). No row: there is no such row any more, and no settlement names it.
-- ledger_published_idx, attempt_id_idx and the primary keys find what belongs to it.
select jsonb_build_object(
           'id', w.id, 'event_id', s.event_id, 'topic', s.topic, 'created_at', s.created_at, 'state', coalesce(s.state, 'published'),
           'attempts', s.attempts, 'due_at', case when isfinite(s.due_at) then s.due_at end, 'error', s.error, 'behind_id', s.behind_id,
           'dead_since', d.dead_at, 'requeued', coalesce(d.replay_count, 0), 'changed_at', d.changed_at,
           'failed', coalesce(a.failed, '[]'), 'published', coalesce(p.published, '[]'),
           'replayed', coalesce(y.replayed, '[]'))::text
  from (select $1::bigint as id) w
       left join outbox.status s on s.id = w.id
       left join outbox.dead_letter d on d.id = w.id
       left join lateral (
           select jsonb_agg(jsonb_build_object('at', a.at, 'class', a.class, 'error', a.error) order by a.at) as failed
             from outbox.attempt a where a.id = w.id) a on true
       left join lateral (
           select jsonb_agg(jsonb_build_object('at', l.at, 'epoch', l.epoch, 'partition', r.record_partition, 'offset', r.record_offset)
                            order by l.epoch, l.seq) as published
             from outbox.ledger l
                  left join lateral outbox.receipt(l.receipts, l.published, w.id) r on true
            where l.published @> w.id) p on true
       left join lateral (
           select jsonb_agg(jsonb_build_object('at', l.at, 'request', c.request, 'topic', c.topic, 'partition', r.record_partition,
                                               'offset', r.record_offset) order by l.epoch, l.seq) as replayed
             from outbox.ledger l
                  cross join lateral jsonb_to_recordset(l.replayed) as c (request bigint, topic text, ids text, receipts text)
                  left join lateral outbox.receipt(decode(c.receipts, 'hex'), c.ids::int8multirange, w.id) r on true
            where l.replayed is not null and c.ids::int8multirange @> w.id) y on true
 where s.id is not null or d.id is not null or p.published is not null or a.failed is not null
