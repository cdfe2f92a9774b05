-- Lets ids go on above all that were ever used here, and returns the last of them: the new `high`.
-- Zero: nothing was ever written, and the sequence stays as it is.
select case when used.high > 0 then setval('outbox.message_id_seq', used.high) else 0 end
from (
    select greatest(
        (select case when is_called then last_value else 0 end from outbox.message_id_seq),
        (select max(id) from outbox.message),
        (select max(id) from outbox.deferred),
        (select max(id) from outbox.dead_letter),
        (select max(high) from outbox.ledger)
    ) as high
) as used
