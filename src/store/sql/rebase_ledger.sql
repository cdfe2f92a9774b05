-- Settlements from this server's future get a txid of its distant past: they are long done.
update outbox.ledger set txid = '3'::xid8 where txid >= pg_current_xact_id()
