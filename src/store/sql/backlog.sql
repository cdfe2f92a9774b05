-- How far reading is behind, and since when. One row always; costs the same with ten million rows waiting.
-- ready is an upper bound (drawn ids that were rolled back count), exact at zero; while a large late set is paged, everything behind
-- its last page counts, published rows among them too. Uses ledger_newest_idx, message_id_idx.
select case when first.created_at is null then 0
            else s.last_value - case when s.is_called then 0 else 1 end - p.unread end as ready, p.high as position,
       first.topic, first.created_at, l.epoch, extract(epoch from clock_timestamp())::double precision as now
  from outbox.message_id_seq s
       cross join outbox.lease l
       cross join lateral (
           select g.high, coalesce(g.late_after, g.high) as unread
             from outbox.ledger g where g.lane is null order by g.epoch desc, g.seq desc limit 1) p
       left join lateral (
           select m.topic, extract(epoch from m.created_at)::double precision as created_at
             from outbox.message m where m.id > p.unread order by m.id limit 1) first on true
