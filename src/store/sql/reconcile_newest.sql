-- What reconciliations have found and no later one over the same window has found otherwise, and when the newest one ended (Unix
-- seconds; null: there was none). One row always. Of the newest fifty; those whose rows retention has removed cannot be repeated and
-- do not count, and of a window only what is left has to be covered. The primary key, and one probe of message_id_idx.
with notes as materialized (
    select n.id, n.from_id, n.until_id, n.missing, n.duplicates, n.ended_at from outbox.reconciliation n order by n.id desc limit 50
), oldest as (
    select coalesce((select m.id from outbox.message m order by m.id limit 1), 9223372036854775807) as id
), standing as (
    select n.missing, n.duplicates
      from notes n, oldest o
     where n.until_id >= o.id
       and not exists (select from notes later where later.id > n.id and later.from_id <= greatest(n.from_id, o.id)
                          and later.until_id >= n.until_id)
)
select coalesce(sum(s.missing), 0)::bigint as missing, coalesce(sum(s.duplicates), 0)::bigint as duplicates,
       (select extract(epoch from max(n.ended_at))::double precision from notes n) as ended
  from standing s
