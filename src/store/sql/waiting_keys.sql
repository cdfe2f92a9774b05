-- The keys that a new leader finds blocked, with their number of waiting rows. No row: no key is blocked.
-- Scheduled rows block nobody, nor do those whose policy lets later rows pass. Read once per lease; uses deferred_key_idx.
select d.topic, d.key, count(*) as waiting
  from outbox.deferred d
 where d.reason <> 'scheduled' and not d.passable and d.key is not null
 group by d.topic, d.key
