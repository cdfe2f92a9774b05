-- Whether some message of topic $1 up to id $2 is not settled yet. One row always.
-- Main has not passed it, or the topic is read on its own or has deferred rows. Uses ledger_newest_idx and the lanes' index.
select (select l.high from outbox.ledger l where l.lane is null order by l.epoch desc, l.seq desc limit 1) < $2::bigint
       or exists (select from outbox.open_lane o where o.topic = $1::text)
       or exists (select from outbox.deferred d where d.topic = $1::text) as is_left
