-- Topic and key of rows that nobody accounts for, to let them enter. Rows that are gone are missing.
-- Uses message_id_idx: a probe for each id and slot; at most a thousand ids.
select m.id, m.topic, m.key from outbox.message m where m.id = any ($1) order by m.id
