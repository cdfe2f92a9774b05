-- The rows with the ids $1 that are left, as messages or as dead letters: id, event id, topic. No row: none is.
-- Uses message_id_idx and the primary key.
select m.id, m.event_id, m.topic from outbox.message m where m.id = any ($1)
union
select d.id, d.event_id, d.topic from outbox.dead_letter d where d.id = any ($1)
