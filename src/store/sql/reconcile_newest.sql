-- What reconciliations have found and no later one over the same window has found otherwise, and when the newest one ended (Unix
-- seconds; null: there was none). One row always. Of the newest twenty that found something; those whose rows retention has removed
-- cannot be repeated and do not count, and of a window only what is left has to be covered. Windows overlap, so the largest number
-- counts and not the sum. Uses reconciliation_found_idx, the primary key, and one probe of message_id_idx.
with notes as materialized (
    select n.id, n.from_id, n.until_id, n.missing, n.duplicates
      from outbox.reconciliation n where n.missing > 0 or n.duplicates > 0 order by n.id desc limit 20
), oldest as (
    select coalesce((select m.id from outbox.message m order by m.id limit 1), 9223372036854775807) as id
), standing as (
    select n.missing, n.duplicates
      from notes n, oldest o
     where n.until_id >= o.id
       and not exists (select from outbox.reconciliation later
                        where later.id > n.id and later.from_id <= greatest(n.from_id, o.id) and later.until_id >= n.until_id)
)
select coalesce(max(s.missing), 0) as missing, coalesce(max(s.duplicates), 0) as duplicates,
       (select extract(epoch from n.ended_at)::double precision from outbox.reconciliation n order by n.id desc limit 1) as ended
  from standing s
