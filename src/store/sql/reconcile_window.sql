-- What can be reconciled at all: the oldest and the newest id that is left (null: none is), when the oldest was written, whether
-- this login may read payloads, and the clock. One row always. Uses message_id_idx.
select first.id as first_id, to_jsonb(first.created_at) #>> '{}' as first_at,
       (select m.id from outbox.message m order by m.id desc limit 1) as last_id,
       has_column_privilege('outbox.message', 'payload', 'select') as payloads, to_jsonb(clock_timestamp()) #>> '{}' as now
  from (select 1) one
       left join lateral (select m.id, m.created_at from outbox.message m order by m.id limit 1) first on true
