-- Rows of topic $2 that wait for their next try are due now: those of key $3 (text) or $4 (base64), or of all keys when both are
-- null; and, whatever it waits for, row $5. Returns how many. No row: the lease is not ours under epoch $1.
-- Rows that wait for their topic (due at infinity) are woken with it. Uses deferred_parked_idx and the primary key.
with ours as (
    select l.epoch from outbox.lease l where l.one and l.epoch = $1 for share
), nudged as (
    update outbox.deferred d
       set due_at = clock_timestamp()
      from ours
     where d.topic = $2 and d.reason = 'retry' and d.due_at > clock_timestamp()
       and case when $5::bigint is null
                then d.due_at < 'infinity'
                     and ($3::text is null or d.key = convert_to($3, 'UTF8')) and ($4::text is null or d.key = decode($4, 'base64'))
                else d.id = $5 end
    returning d.id
)
select (select count(*) from nudged) from ours
