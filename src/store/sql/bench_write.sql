-- Writes a transaction of messages of the benchmark's own topic: $1 topic, $2 how many, $3 the number of the transaction, with
-- which each payload begins, $4 bytes of a payload, $5 different keys. Every row carries the topic as its mark.
-- No row comes back. No guard: it is a producer's insert like any other.
insert into outbox.message (topic, key, payload, headers)
select $1::text, convert_to('bench-' || ($3::bigint * $2::integer + n) % $5::bigint, 'UTF8'),
       convert_to(rpad($3::bigint || ' ', $4::integer, 'x'), 'UTF8'),
       jsonb_build_object('outbox-bench', $1::text)
  from generate_series(0, $2::integer - 1) n
