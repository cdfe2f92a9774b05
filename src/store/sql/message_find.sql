-- Ids of rows by event id ($1) or by topic and key ($2, $3 text), the newest first, at most $5, of the last $4 seconds.
-- No row: there is none, or it is older. `outbox.message` has no index of either, as producers would pay for it; the ledger says
-- from which id on the time is meant, and message_id_idx finds those.
with since as materialized (
    select coalesce(min(lower(r.ids)), 0) as id
      from outbox.ledger l
           cross join lateral unnest(l.published + l.dropped + l.expired + l.dead + l.deferred) as r (ids)
     where l.at >= clock_timestamp() - $4::double precision * interval '1 second'
), unread as materialized (
    select l.high + 1 as id from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1
), found as (
    select m.id from outbox.message m
     where m.id >= (select case when s.id = 0 then u.id else least(s.id, u.id) end from since s, unread u)
       and ($1::uuid is null or m.event_id = $1) and ($2::text is null or m.topic = $2)
       and ($3::text is null or m.key = convert_to($3, 'UTF8'))
    union
    select d.id from outbox.deferred d
     where ($1::uuid is null or d.event_id = $1) and ($2::text is null or d.topic = $2)
       and ($3::text is null or d.key = convert_to($3, 'UTF8'))
    union
    select d.id from outbox.dead_letter d
     where ($1::uuid is null or d.event_id = $1) and ($2::text is null or d.topic = $2)
       and ($3::text is null or d.key = convert_to($3, 'UTF8'))
)
select f.id::text from found f order by f.id desc limit $5
