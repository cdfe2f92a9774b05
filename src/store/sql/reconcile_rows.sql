-- Rows of outbox.message behind id $1 and up to $2, at most $3, in order of id, and whether the position of their topic has passed
-- them. payload_digest: null here; see reconcile_rows_payload.sql for logins that may read payloads.
-- Positions and rows in one statement and therefore one snapshot: what was passed in it is named by a settlement that every later
-- statement sees. The rule is that of sweep.sql. Uses message_id_idx.
with positions as materialized (
    (select null::text as topic, l.snapshot, l.high, l.as_of from outbox.ledger l where l.lane is null
      order by l.epoch desc, l.seq desc limit 1)
    union all
    select o.topic, o.snapshot, o.high, o.as_of from outbox.open_lane o
)
select p.id, p.event_id, p.topic, p.key, null::bytea as payload_digest,
       p.id <= w.high and (pg_visible_in_snapshot(p.txid, w.snapshot) or p.txid >= w.as_of) as passed
  from (select m.id, m.txid, m.event_id, m.topic, m.key from outbox.message m where m.id > $1 and m.id <= $2 order by m.id limit $3) p
       cross join lateral (select x.snapshot, x.high, x.as_of from positions x
                            where x.topic = p.topic or x.topic is null order by x.topic nulls last limit 1) w
 order by p.id
