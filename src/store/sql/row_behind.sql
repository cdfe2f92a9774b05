-- The first row with an id of at least $1: its id, and when it was written (Unix seconds). No row: none is left.
-- Uses message_id_idx: a probe for each slot.
select m.id, extract(epoch from m.created_at)::double precision as written from outbox.message m where m.id >= $1 order by m.id limit 1
