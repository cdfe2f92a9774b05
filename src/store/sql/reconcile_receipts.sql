-- Receipts of settlements that name some of the ids in $1 (a multirange): their published ids, and where the records are in the
-- compact form of src/receipt.rs. And those of copies that operators have asked for: their topic, and the request.
-- Uses ledger_published_idx and ledger_replayed_idx; settlements with copies are few and are looked through.
select null::text as topic, l.published::text as ids, l.receipts, null::bigint as request
  from outbox.ledger l
 where l.published && $1::text::int8multirange
union all
select c.topic, c.ids::int8multirange::text, decode(c.receipts, 'hex'), c.request
  from outbox.ledger l
       cross join lateral jsonb_to_recordset(l.replayed) as c (request bigint, topic text, ids text, receipts text)
 where l.replayed is not null and c.ids::int8multirange && $1::text::int8multirange
