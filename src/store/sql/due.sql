-- Deferred rows whose time has come, and the rows of their keys that wait behind them.
-- $1 rows that are due at most, $2 followers a key, $3 rows above this come without payload, $4 bytes and $6 rows, $5 nothing that was
-- due before this time (microseconds since 1970) is left. First row: facts (how many were due, up to when, the clock).
-- A row that is due while an earlier row of its key waits comes with "waits": it is to be put behind that one. Followers end
-- before one with a time of its own (a late row took its place at the head). Cut by id, so each key keeps a beginning.
-- Uses deferred_due_idx, deferred_key_idx and, one probe a row ("offset 0": a merge join would walk all ids), the primary key. $5 keeps the index scan away from rows that have left, which vacuum cannot
-- remove while somebody holds an old snapshot: a million of them cost 3,000 buffers otherwise. The time is the statement's, because
-- it bounds the index scan too: clock_timestamp() would be a filter, over every row that is scheduled (18 buffers a thousand).
with due as materialized (
    select d.id, d.topic, d.key, d.due_at,
           d.key is not null and not d.passable
           and exists (select from outbox.deferred e
                        where e.topic = d.topic and e.key = d.key and e.id < d.id
                          and e.reason <> 'scheduled' and not e.passable) as waits
      from (select d.id, d.topic, d.key, d.due_at, d.passable
              from outbox.deferred d
             where d.due_at >= timestamptz 'epoch' + $5 * interval '1 microsecond' and d.due_at <= statement_timestamp()
             order by d.due_at
             limit $1) d
), picked as (
    select u.id from due u
    union
    select f.id
      from due u
           cross join lateral (
               select w.id, bool_or(w.due_at is not null) over (order by w.id) as ended
                 from (select d.id, d.due_at from outbox.deferred d
                        where d.topic = u.topic and d.key = u.key and d.id > u.id
                          and d.reason <> 'scheduled' and not d.passable
                        order by d.id limit $2 offset 0) w) f
     where not u.waits and not f.ended
), page as materialized (
    -- Numbers only: full rows would be sorted just to be left behind.
    select s.id, sum(s.bytes) over (order by s.id) - s.bytes as before, row_number() over (order by s.id) as nth
      from (select p.id, d.bytes
              from picked p
                   cross join lateral (
                       select coalesce(octet_length(w.key), 0) + coalesce(pg_column_size(w.headers), 0)
                              + case when octet_length(w.payload) <= $3 then octet_length(w.payload) else 0 end as bytes
                         from outbox.deferred w where w.id = p.id offset 0) d) s
)
select null::bigint as id, null::uuid as event_id, null::text as topic, null::bytea as key, null::bytea as payload,
       null::integer as payload_bytes, null::jsonb as headers, null::integer as partition, statement_timestamp() as created_at,
       (select max(u.due_at) from due u) as deliver_after, null::timestamptz as expires_at, null::text as reason,
       (select count(*)::integer from due u) as attempts,
       -- How many of those that are due the limit of bytes has cut.
       (select count(*)::integer from due u join page p on p.id = u.id where p.before >= $4 or p.nth > $6) as tries,
       null::timestamptz as first_rejected_at, null::boolean as passable, null::boolean as waits,
       null::bigint as replay
union all
(select d.id, d.event_id, d.topic, d.key, case when octet_length(d.payload) <= $3 then d.payload end,
        octet_length(d.payload), d.headers, d.partition, d.created_at, d.deliver_after, d.expires_at,
        d.reason, d.attempts, d.tries, d.first_rejected_at, d.passable, coalesce(u.waits, false),
        d.replay
   from page p
        cross join lateral (select w.* from outbox.deferred w where w.id = p.id offset 0) d
        left join due u on u.id = p.id
  where p.before < $4 and p.nth <= $6
  order by d.id)
