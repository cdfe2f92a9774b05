-- Where the newest published rows with a key lie that left the partition to it, each as a JSON document, the newest first: $1 rows
-- are looked at. No row: none of them is published. Uses message_id_idx and, for each row, the index of published ids in the ledger.
select jsonb_build_object('topic', m.topic, 'key', encode(m.key, 'hex'), 'partition', r.record_partition)::text
  from (select m.id, m.topic, m.key, m.partition from outbox.message m order by m.id desc limit $1) m
       cross join lateral (select g.receipts, g.published from outbox.ledger g where g.published @> m.id
                            order by g.epoch desc, g.seq desc limit 1) g
       cross join lateral outbox.receipt(g.receipts, g.published, m.id) r
 where m.key is not null and m.partition is null and r.record_partition is not null
 order by m.id desc
