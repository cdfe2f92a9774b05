-- Where the ledger ends: epoch and seq of its newest settlement. One row always, for the schema begins with a settlement.
-- Uses ledger_newest_idx.
select l.epoch, l.seq from outbox.ledger l order by l.epoch desc, l.seq desc limit 1
