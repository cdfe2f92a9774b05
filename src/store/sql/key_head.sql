-- The message that key $2 (text) or $3 (base64) of topic $1 waits for. No row: none is in the way.
-- Uses deferred_key_idx.
select d.id
  from outbox.deferred d
 where d.topic = $1 and d.key = coalesce(convert_to($2::text, 'UTF8'), decode($3::text, 'base64'))
   and d.reason <> 'scheduled' and not d.passable
 order by d.id
 limit 1
