-- The highest id that is left; 0: no row is. One row always.
-- Uses message_id_idx: a probe for each slot.
select coalesce((select m.id from outbox.message m order by m.id desc limit 1), 0) as last_id
