-- As reconcile_rows.sql, with a digest of each payload: the first eight bytes of its SHA-256; null: a tombstone.
-- Uses message_id_idx, and reads what lies out of line: a gigabyte of payloads takes some seconds.
with positions as materialized (
    (select null::text as topic, l.snapshot, l.high, l.as_of from outbox.ledger l where l.lane is null
      order by l.epoch desc, l.seq desc limit 1)
    union all
    select o.topic, o.snapshot, o.high, o.as_of from outbox.open_lane o
)
select p.id, p.event_id, p.topic, p.key, substr(sha256(p.payload), 1, 8) as payload_digest,
       p.id <= w.high and (pg_visible_in_snapshot(p.txid, w.snapshot) or p.txid >= w.as_of) as passed
  from (select m.id, m.txid, m.event_id, m.topic, m.key, m.payload from outbox.message m
         where m.id > $1 and m.id <= $2 order by m.id limit $3) p
       cross join lateral (select x.snapshot, x.high, x.as_of from positions x
                            where x.topic = p.topic or x.topic is null order by x.topic nulls last limit 1) w
 order by p.id
