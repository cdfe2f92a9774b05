-- When the newest heartbeat row was written that Kafka has confirmed, Unix seconds; 0: none was. One row always.
-- The leader notes a confirm only with its next row, so the newest one is looked for here as well. ledger_published_idx.
select coalesce(extract(epoch from case when exists (select from outbox.ledger l where l.published @> h.id) then h.written_at
                                        else h.confirmed_written_at end), 0)::double precision as confirmed
  from outbox.heartbeat h
 where h.one
