-- Payloads and headers of rows ($1 ids), each as a JSON document with the payload in base64, and a note in outbox.request of who
-- asked and why ($2). No row: none of them is there any more.
select jsonb_build_object('id', r.id, 'payload_base64', encode(r.payload, 'base64'), 'headers', r.headers)::text
  from outbox.reveal($1::bigint[], $2::text) r
 order by r.id
